// The task launcher: whose turn it is, and how many tasks are dequeued together.
#pragma once

#include <vector>

#include "runtime/serving/task.h"

namespace top {

// Across models the task due earliest goes first, as long as its model has not had more of the
// device than its fair share. What is due when: the deadline, but at latest kPatience after
// submission, so that every task becomes the most urgent one some day; each step of priority brings
// that forward by kPatience. Fair shares are start-time fair queueing (Goyal et al., 1996): every
// model has a virtual time that advances by the work launched for it, a model that comes back from
// idleness starts at the time of the others, and one that is ahead of the last by more than a slack
// has to let others go first.
//
// The dequeue frequency of a model, in tasks per period, is enforced by a token bucket.
//
// Used by TaskScheduler; not thread-safe.
class Launcher {
 public:
  static constexpr Nanoseconds kPatience = 100'000'000;

  // `slack_us`: work by which a model may be ahead of the others.
  Launcher(int models, double slack_us);

  // Tasks of the model per period of that length; infinite frequencies are no limit.
  void set_frequency(int model, double tasks, double period_us, Nanoseconds now);
  double frequency(int model) const { return models_[model].frequency; }
  // Whether the dequeue frequency allows a task now.
  bool may_launch(int model, Nanoseconds now) const;

  // The model's queue was empty before now.
  void became_active(int model);
  // Chooses among the models with a task in `fronts` (others have null), -1 if there is none.
  int choose(const std::vector<const Task*>& fronts) const;
  void launched(int model, int tasks, double work_us, Nanoseconds now);

 private:
  struct Model {
    double virtual_us = 0;
    double frequency = 0;  // tasks per period
    double per_ns = 0;     // tasks per nanosecond; 0: no limit
    double burst = 1;
    double tokens = 1;
    Nanoseconds refilled_ns = 0;
  };

  double tokens(const Model& model, Nanoseconds now) const;

  std::vector<Model> models_;
  const double slack_us_;
  double virtual_us_ = 0;  // start of the latest launch
};

}  // namespace top
