#include "passes/priority_search.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "passes/rollout.h"

namespace top {

namespace {

using Clock = std::chrono::steady_clock;

// A point of the search: ops in the order of their priority, and whether each is a gang call.
struct Point {
  std::vector<int> rank;  // per op: 0 is issued first of what is ready
  std::vector<char> gang;
};

class Search {
 public:
  Search(const Problem& problem, const SearchLimits& limits)
      : problem_(problem),
        limits_(limits),
        rollout_(problem),
        random_(limits.seed),
        op_at_(problem.graph.num_ops) {
    for (int op = 0; op < problem.graph.num_ops; ++op) {
      if (std::isfinite(problem.costs[op].gang.time_us) && problem.device.streams > 1) {
        moldable_.push_back(op);
      }
    }
  }

  Schedule run(const Schedule& start) {
    Schedule best = start;
    double best_us = simulate(problem_, start).makespan_us;
    const int num_ops = problem_.graph.num_ops;
    if (num_ops > 1) {
      Point point = point_of(start);
      double current_us = evaluate(point, kNever);
      keep(current_us, &best_us, &best);
      const Clock::time_point begin = Clock::now();
      for (int64_t tried = 1; limits_.max_schedules == 0 || tried < limits_.max_schedules;
           ++tried) {
        const double spent_ms =
            std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
        if (spent_ms > limits_.max_ms) break;
        double left = 1 - spent_ms / limits_.max_ms;
        if (limits_.max_schedules > 0) {
          left = std::min(left, 1 - static_cast<double>(tried) / limits_.max_schedules);
        }
        const double slack_us = allowance(current_us, left);
        move(point);
        const double us = evaluate(point, current_us + slack_us);
        if (us <= current_us + slack_us) {
          current_us = us;
          keep(us, &best_us, &best);
        } else {
          undo(point);
        }
      }
    }
    assign_stages(problem_.graph, problem_.device.streams, &best);
    return best;
  }

 private:
  static constexpr double kNever = std::numeric_limits<double>::infinity();

  Point point_of(const Schedule& schedule) {
    Point point{std::vector<int>(schedule.size()), std::vector<char>(schedule.size())};
    for (size_t at = 0; at < schedule.size(); ++at) {
      point.rank[schedule[at].op] = static_cast<int>(at);
      point.gang[schedule[at].op] = is_gang(schedule[at], problem_.device.streams);
      op_at_[at] = schedule[at].op;
    }
    return point;
  }

  // How much worse than the current schedule the next may be: annealing by Metropolis' rule, the
  // random number drawn before the evaluation, which can then stop early.
  double allowance(double current_us, double left) {
    if (limits_.temperature <= 0) return 0;
    const double uniform = std::uniform_real_distribution<>(1e-12, 1)(random_);
    return -std::log(uniform) * limits_.temperature * left * current_us / problem_.graph.num_ops;
  }

  // Gives an op another rank, those in between move up; or another form.
  void move(Point& point) {
    const int num_ops = problem_.graph.num_ops;
    toggled_ = -1;
    from_ = to_ = 0;
    if (!moldable_.empty() && std::uniform_int_distribution<>(0, 3)(random_) == 0) {
      toggled_ = moldable_[std::uniform_int_distribution<size_t>(0, moldable_.size() - 1)(random_)];
      point.gang[toggled_] ^= 1;
      return;
    }
    from_ = std::uniform_int_distribution<>(0, num_ops - 1)(random_);
    // Mostly near: distances between 1 and all, each magnitude equally likely.
    const double exponent = std::uniform_real_distribution<>(0, std::log(num_ops))(random_);
    const int distance = std::max(1, static_cast<int>(std::exp(exponent)));
    const bool later = std::uniform_int_distribution<>(0, 1)(random_) == 1;
    to_ = std::clamp(later ? from_ + distance : from_ - distance, 0, num_ops - 1);
    rotate(point, from_, to_);
  }

  void undo(Point& point) {
    if (toggled_ >= 0) {
      point.gang[toggled_] ^= 1;
    } else {
      rotate(point, to_, from_);
    }
  }

  void rotate(Point& point, int from, int to) {
    const auto begin = op_at_.begin();
    if (from < to) {
      std::rotate(begin + from, begin + from + 1, begin + to + 1);
    } else {
      std::rotate(begin + to, begin + from, begin + from + 1);
    }
    for (int at = std::min(from, to); at <= std::max(from, to); ++at) point.rank[op_at_[at]] = at;
  }

  // Time of the schedule, or kNever as soon as it exceeds the limit.
  double evaluate(const Point& point, double limit_us) {
    rollout_.reset();
    while (rollout_.advance()) {
      if (rollout_.now_us() > limit_us) return kNever;
      const auto& ready = rollout_.ready();
      const int op = *std::min_element(ready.begin(), ready.end(),
                                       [&](int a, int b) { return point.rank[a] < point.rank[b]; });
      rollout_.issue(point.gang[op] ? rollout_.gang(op) : rollout_.place(op));
    }
    return rollout_.now_us();
  }

  void keep(double us, double* best_us, Schedule* best) {
    if (us >= *best_us) return;
    *best_us = us;
    *best = rollout_.schedule();
  }

  const Problem& problem_;
  const SearchLimits& limits_;
  Rollout rollout_;
  std::mt19937_64 random_;
  std::vector<int> op_at_;  // per rank
  std::vector<int> moldable_;
  int from_ = 0, to_ = 0, toggled_ = -1;  // the last move
};

}  // namespace

Schedule improve(const Problem& problem, const Schedule& start, const SearchLimits& limits) {
  return Search(problem, limits).run(start);
}

}  // namespace top
