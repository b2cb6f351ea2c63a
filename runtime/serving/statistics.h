// What the runtime counts and measures about the tasks of one model.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "runtime/serving/task.h"

namespace top {

// Durations in buckets that are 1/16 of a power of two wide, from 1 us to about an hour: quantiles
// are exact to 3 %. Adding takes constant time.
class Histogram {
 public:
  void add(Nanoseconds duration);
  uint64_t count() const { return count_; }
  double mean_us() const { return count_ == 0 ? 0 : total_us_ / static_cast<double>(count_); }
  double max_us() const { return max_us_; }
  // 0 <= q <= 1; 0 if nothing was added.
  double quantile_us(double q) const;

 private:
  static constexpr int kPerOctave = 16;
  static constexpr int kOctaves = 32;

  std::array<uint32_t, kPerOctave * kOctaves> buckets_{};
  uint64_t count_ = 0;
  double total_us_ = 0;
  double max_us_ = 0;
};

// How tasks arrive: rates over a short and a long window, and how bursty they are.
class Arrivals {
 public:
  void add(Nanoseconds now);
  // Exponentially weighted, with time constants of 0.1 and 1 s.
  double short_rate_per_s(Nanoseconds now) const;
  double long_rate_per_s(Nanoseconds now) const;
  // Coefficient of variation of the times between arrivals, over about the last 50: 1 for Poisson.
  double variation() const;

 private:
  Nanoseconds last_ns_ = 0;
  uint64_t count_ = 0;
  double short_per_s_ = 0, long_per_s_ = 0;
  double gap_s_ = 0, gap_squared_s2_ = 0;  // exponentially weighted means
};

struct ModelStatistics {
  uint64_t submitted = 0;
  uint64_t completed = 0;
  uint64_t rejected = 0;  // the queue was full
  uint64_t expired = 0;
  uint64_t cancelled = 0;
  uint64_t failed = 0;
  uint64_t late = 0;      // completed after their deadlines
  uint64_t launches = 0;  // instances
  Histogram queue;        // from submission to launch
  Histogram compute;      // from launch to completion
  Histogram end_to_end;
  Arrivals arrivals;
};

}  // namespace top
