// What is known of the device's speed and of the errors of predicted times, from tasks that ended.
#pragma once

#include <vector>

#include "runtime/serving/task.h"

namespace top {

// Estimates are exponentially weighted, and fade when nothing has been observed for some time: else
// what was slow once would not be used, and never be observed, again.
class Forecast {
 public:
  Forecast(int models, int variants);

  // Device time per predicted device time: of the device at the moment, and of the variant.
  double pace(int variant, Nanoseconds now) const { return paces_[variant].at(now); }
  void observe_pace(int variant, double ratio, Nanoseconds now);

  // By how much tasks of the model take longer than predicted, all but a few of them.
  double margin_us(int model, Nanoseconds now) const;
  void observe_error(int model, double error_us, Nanoseconds now);

 private:
  struct Estimate {
    double resting;  // the value if nothing is known
    Nanoseconds memory;
    double value;
    Nanoseconds observed;
    int observations;

    double at(Nanoseconds now) const;
    void add(double observation, Nanoseconds now);
  };
  struct Error {
    Estimate mean_us, deviation_us;
  };

  std::vector<Estimate> paces_;
  std::vector<Error> errors_;
};

}  // namespace top
