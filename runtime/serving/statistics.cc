#include "runtime/serving/statistics.h"

#include <algorithm>
#include <cmath>

namespace top {
namespace {

constexpr double kShortWindow_s = 0.1;
constexpr double kLongWindow_s = 1.0;
constexpr double kGapWeight = 0.02;

double decayed(double rate, Nanoseconds elapsed, double window_s) {
  return rate * std::exp(-1e-9 * static_cast<double>(std::max<Nanoseconds>(elapsed, 0)) / window_s);
}

}  // namespace

void Histogram::add(Nanoseconds duration) {
  const double time_us = 1e-3 * static_cast<double>(std::max<Nanoseconds>(duration, 0));
  const int last = static_cast<int>(buckets_.size()) - 1;
  const int bucket = time_us <= 1 ? 0 : static_cast<int>(kPerOctave * std::log2(time_us));
  ++buckets_[std::min(bucket, last)];
  ++count_;
  total_us_ += time_us;
  max_us_ = std::max(max_us_, time_us);
}

double Histogram::quantile_us(double q) const {
  const auto wanted = static_cast<uint64_t>(std::ceil(q * static_cast<double>(count_)));
  uint64_t seen = 0;
  for (size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
    seen += buckets_[bucket];
    if (seen >= std::max<uint64_t>(wanted, 1)) {
      // The middle of the bucket, as it is logarithmic.
      const double middle_us = std::exp2((static_cast<double>(bucket) + 0.5) / kPerOctave);
      return std::min(middle_us, max_us_);
    }
  }
  return 0;
}

void Arrivals::add(Nanoseconds now) {
  const Nanoseconds elapsed = now - last_ns_;
  if (count_ > 0) {
    const double gap_s = 1e-9 * static_cast<double>(std::max<Nanoseconds>(elapsed, 0));
    // The first arrivals are averaged evenly.
    const double weight = std::max(kGapWeight, 1.0 / static_cast<double>(count_));
    gap_s_ += weight * (gap_s - gap_s_);
    gap_squared_s2_ += weight * (gap_s * gap_s - gap_squared_s2_);
  }
  short_per_s_ = decayed(short_per_s_, elapsed, kShortWindow_s) + 1 / kShortWindow_s;
  long_per_s_ = decayed(long_per_s_, elapsed, kLongWindow_s) + 1 / kLongWindow_s;
  last_ns_ = now;
  ++count_;
}

double Arrivals::short_rate_per_s(Nanoseconds now) const {
  return decayed(short_per_s_, now - last_ns_, kShortWindow_s);
}

double Arrivals::long_rate_per_s(Nanoseconds now) const {
  return decayed(long_per_s_, now - last_ns_, kLongWindow_s);
}

double Arrivals::variation() const {
  if (count_ < 3 || gap_s_ <= 0) return 1;
  return std::sqrt(std::max(gap_squared_s2_ - gap_s_ * gap_s_, 0.0)) / gap_s_;
}

}  // namespace top
