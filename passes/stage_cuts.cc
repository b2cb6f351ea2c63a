#include "passes/stage_cuts.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace top {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kRounding = 1e-12;  // of sums of times, relative

}  // namespace

StageCuts::StageCuts(const Problem& problem, std::vector<int> order, int max_stage_ops)
    : max_stage_ops_(max_stage_ops),
      barrier_us_(barrier_us(problem.device)),
      times_(problem, std::move(order)),
      front_(problem.graph.num_ops + 1),
      back_(problem.graph.num_ops + 1),
      back_valid_(problem.graph.num_ops) {
  for (int op = 0; op < problem.graph.num_ops; ++op) {
    faster_us_.push_back(call_us(problem, op, prefers_gang(problem, op)));
  }
  // Nothing has run: as after a sequential stage, the first op waits for nothing.
  front_.front() = {kInfinity, 0, 0};
  back_.back() = {0, 0, 0};
}

double StageCuts::total_us() {
  extend_front(num_ops());
  return std::min(front_.back().concurrent_us, front_.back().sequential_us);
}

template <typename Visit>
void StageCuts::trace(Visit visit) {
  extend_front(num_ops());
  int end = num_ops();
  bool concurrent = front_[end].concurrent_us < front_[end].sequential_us;
  while (end > 0) {
    const int begin = concurrent ? front_[end].begin : end - 1;
    visit(begin, end);
    // A sequential op waits if the stage before it is concurrent.
    const double from_us = front_[begin].concurrent_us + (concurrent ? 0 : barrier_us_);
    concurrent = from_us < front_[begin].sequential_us;
    end = begin;
  }
}

std::vector<Stage> StageCuts::stages() {
  std::vector<Stage> stages;
  trace([&](int begin, int end) {
    stages.push_back(end - begin > 1 ? times_.stage(begin, end) : Stage{{{order()[begin]}}});
  });
  std::reverse(stages.begin(), stages.end());
  return stages;
}

int StageCuts::longest_stage() {
  int longest = 0;
  trace([&](int begin, int end) { longest = std::max(longest, end - begin); });
  return longest;
}

// When a concurrent stage at a position can start.
double StageCuts::start_us(int position) const {
  const Costs& costs = front_[position];
  return std::min(costs.concurrent_us, costs.sequential_us) + barrier_at(position);
}

void StageCuts::extend_front(int position) {
  for (; front_valid_ < position; ++front_valid_)
    front_[front_valid_ + 1] = front_at(front_valid_ + 1);
}

void StageCuts::extend_back(int position) {
  for (; back_valid_ > position; --back_valid_) back_[back_valid_ - 1] = back_at(back_valid_ - 1);
}

StageCuts::Costs StageCuts::front_at(int position) {
  const Costs& before = front_[position - 1];
  Costs costs{kInfinity, 0, 0};
  costs.sequential_us = std::min(before.sequential_us, before.concurrent_us + barrier_us_) +
                        faster_us_[order()[position - 1]];
  // To end with a concurrent stage has no advantage but being faster.
  double best_us = costs.sequential_us;
  for (int begin = position - 2; begin >= first_begin(position); --begin) {
    const double from_us = start_us(begin);
    const double us = from_us + times_.concurrent_us(begin, position, best_us - from_us);
    if (us < best_us) {
      best_us = costs.concurrent_us = us;
      costs.begin = begin;
    }
  }
  return costs;
}

StageCuts::Costs StageCuts::back_at(int position) {
  const double alone_us = faster_us_[order()[position]] + back_[position + 1].sequential_us;
  Costs costs{0, 0, 0};
  // After a sequential op a concurrent stage waits, after a concurrent one everything does.
  double best_us = alone_us;
  for (int end = position + 2; end <= last_end(position); ++end) {
    const double rest_us = back_[end].concurrent_us;
    best_us = std::min(best_us, times_.concurrent_us(position, end, best_us - rest_us) + rest_us);
  }
  costs.concurrent_us = best_us + barrier_at(position);
  costs.sequential_us = std::min(alone_us, costs.concurrent_us);
  return costs;
}

// The least time of all cuts, by the first cut at or behind the position; front_ holds up to it,
// back_ from it on. Infinity if that exceeds the limit.
double StageCuts::across(int position, double limit_us) {
  const Costs& front = front_[position];
  const Costs& back = back_[position];
  double best_us =
      std::min(front.concurrent_us + back.concurrent_us, front.sequential_us + back.sequential_us);
  const double allowed_us = limit_us * (1 + kRounding);
  bool found = best_us <= allowed_us;
  if (!found) best_us = allowed_us;
  for (int end = position + 1; end <= last_end(position - 1); ++end) {
    const double rest_us = back_[end].concurrent_us;
    for (int begin = position - 1; begin >= first_begin(end); --begin) {
      const double other_us = start_us(begin) + rest_us;
      const double us = times_.concurrent_us(begin, end, best_us - other_us) + other_us;
      if (us < best_us) {
        best_us = us;
        found = true;
      }
    }
  }
  return found ? best_us : kInfinity;
}

double StageCuts::reorder(int begin, const std::vector<int>& ops, double limit_us) {
  const int end = begin + static_cast<int>(ops.size());
  extend_front(begin);
  extend_back(end);
  changed_ = begin;
  old_ops_.assign(order().begin() + begin, order().begin() + end);
  old_front_.assign(front_.begin() + begin, front_.begin() + end + 1);
  old_front_valid_ = front_valid_;
  old_back_valid_ = back_valid_;

  times_.reorder(begin, ops);
  front_valid_ = begin;
  back_valid_ = end;
  extend_front(end);
  return across(end, limit_us);
}

void StageCuts::undo() {
  times_.reorder(changed_, old_ops_);
  std::copy(old_front_.begin(), old_front_.end(), front_.begin() + changed_);
  front_valid_ = old_front_valid_;
  back_valid_ = old_back_valid_;
}

}  // namespace top
