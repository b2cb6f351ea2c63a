#include "runtime/serving/forecast.h"

#include <algorithm>
#include <cmath>

namespace top {
namespace {

// Of a new observation, in the long run. What is assumed at first counts as a few observations.
constexpr double kLeastWeight = 0.05;
constexpr double kAssumed = 4;
constexpr int kMany = 20;  // observations
constexpr double kDeviations = 2;
constexpr double kSlowest = 10;  // what is beyond is a mishap
// Estimates of many observations begin to fade after this time, and most is forgotten after three
// times that; what a few have told, sooner. Variants are given another chance this often, which
// costs something; errors are those of the moment.
constexpr Nanoseconds kPaceMemory = 30'000'000'000;
constexpr Nanoseconds kErrorMemory = 3'000'000'000;

}  // namespace

double Forecast::Estimate::at(Nanoseconds now) const {
  const double lasts = static_cast<double>(memory) * std::min(observations, kMany) / kMany;
  const double beyond = static_cast<double>(now - observed) - lasts;
  if (beyond <= 0) return value;
  return resting + (value - resting) * std::exp(-beyond / lasts);
}

void Forecast::Estimate::add(double observation, Nanoseconds now) {
  if (now - observed > memory) observations = 0;
  value = observations == 0 ? resting : at(now);
  ++observations;
  value += std::max(kLeastWeight, 1 / (kAssumed + observations)) * (observation - value);
  observed = now;
}

Forecast::Forecast(int models, int variants)
    : paces_(variants, {1, kPaceMemory, 1, 0, 0}),
      errors_(models, {{0, kErrorMemory, 0, 0, 0}, {0, kErrorMemory, 0, 0, 0}}) {}

void Forecast::observe_pace(int variant, double ratio, Nanoseconds now) {
  paces_[variant].add(std::min(ratio, kSlowest), now);
}

// As TCP predicts round-trip times (Jacobson, "Congestion avoidance and control", 1988).
double Forecast::margin_us(int model, Nanoseconds now) const {
  const Error& error = errors_[model];
  return std::max(0.0, error.mean_us.at(now) + kDeviations * error.deviation_us.at(now));
}

void Forecast::observe_error(int model, double error_us, Nanoseconds now) {
  Error& error = errors_[model];
  error.deviation_us.add(std::abs(error_us - error.mean_us.at(now)), now);
  error.mean_us.add(error_us, now);
}

}  // namespace top
