#include "passes/staged_search.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <utility>

#include "passes/stage_cuts.h"

namespace top {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMaxStageOps = 256;

void check_order(const Problem& problem, const std::vector<int>& order) {
  Schedule schedule;
  for (int op : order) schedule.push_back({op, 0, 0, 0, 1});
  validate_schedule(problem.graph, schedule, problem.device.streams, problem.names);
}

// Local search over orders: a window of the order is sorted into what depends on its first op, or
// its last op depends on, and the rest. Windows move up and down the order, so that the costs in
// front of them and behind them are at hand.
class Search {
 public:
  Search(const Problem& problem, const SearchLimits& limits, std::vector<int> order,
         int max_stage_ops)
      : problem_(problem),
        limits_(limits),
        cuts_(problem, std::move(order), max_stage_ops),
        max_distance_(std::min(max_stage_ops, problem.graph.num_ops - 1)),
        random_(limits.seed),
        chosen_(problem.graph.num_ops) {}

  // The best order found.
  std::vector<int> run() {
    std::vector<int> best = cuts_.order();
    double current_us = cuts_.total_us();
    double best_us = current_us;
    const double mean_us = current_us / problem_.graph.num_ops;
    const Clock::time_point begin = Clock::now();
    int futile = 0;  // changes proposed in a row that are none
    for (int64_t tried = 1; limits_.max_schedules == 0 || tried < limits_.max_schedules; ++tried) {
      const double spent_ms =
          std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
      if (spent_ms >= limits_.max_ms) break;
      const double left = limits_.max_schedules == 0
                              ? 1 - spent_ms / limits_.max_ms
                              : 1 - static_cast<double>(tried) / limits_.max_schedules;
      const double limit_us = current_us + slack(left) * mean_us;
      if (!propose()) {
        // A chain has only one order.
        if (++futile > kMaxFutileSweeps * problem_.graph.num_ops) break;
        continue;
      }
      futile = 0;
      const double us = cuts_.reorder(first_, ops_, limit_us);
      if (us > limit_us * (1 + kRounding)) {
        cuts_.undo();
        continue;
      }
      current_us = us;
      if (us < best_us * (1 - kRounding)) {
        best_us = us;
        best = cuts_.order();
      }
    }
    return best;
  }

 private:
  static constexpr double kRounding = 1e-12;  // of sums of times, relative
  static constexpr int kJitter = 8;
  static constexpr int kMaxFutileSweeps = 8;

  // Annealing by Metropolis' rule, the random number drawn before the evaluation, which can then
  // stop early: how much worse the next order may be.
  double slack(double left) {
    if (limits_.temperature <= 0) return 0;
    const double uniform = std::uniform_real_distribution<>(1e-12, 1)(random_);
    return -std::log(uniform) * limits_.temperature * left;
  }

  int pick(int low, int high) { return std::uniform_int_distribution<>(low, high)(random_); }

  // Sets first_ and ops_ to a change of the order; false if there is none where it looked.
  bool propose() {
    const int num_ops = problem_.graph.num_ops;
    centre_ += upwards_ ? 1 : -1;
    if (centre_ <= 0 || centre_ >= num_ops - 1) upwards_ = centre_ <= 0;
    const int at = std::clamp(centre_ + pick(-kJitter, kJitter), 0, num_ops - 1);
    // Mostly near: distances between 1 and all, each magnitude equally likely.
    const double exponent = std::uniform_real_distribution<>(0, std::log(max_distance_))(random_);
    const int distance = std::max(1, static_cast<int>(std::exp(exponent)));
    if (pick(0, 1) == 1) {
      move_later(at, std::min(at + distance, num_ops - 1));
    } else {
      move_earlier(at, std::max(at - distance, 0));
    }
    return trim();
  }

  // The op at a position and what depends on it go behind the rest of what is up to `last`.
  void move_later(int at, int last) {
    const std::vector<int>& order = cuts_.order();
    const int op = order[at];
    first_ = at;
    ops_.clear();
    moved_.assign(1, op);
    chosen_[op] = true;
    for (int i = at + 1; i <= last; ++i) {
      const std::vector<int>& preds = problem_.graph.preds[order[i]];
      chosen_[order[i]] =
          std::any_of(preds.begin(), preds.end(), [&](int pred) { return chosen_[pred]; });
      (chosen_[order[i]] ? moved_ : ops_).push_back(order[i]);
    }
    for (int other : moved_) chosen_[other] = false;
    ops_.insert(ops_.end(), moved_.begin(), moved_.end());
  }

  // The op at a position and what it depends on go in front of the rest of what is from `first` on.
  void move_earlier(int at, int first) {
    const std::vector<int>& order = cuts_.order();
    const int op = order[at];
    first_ = first;
    ops_.clear();
    moved_.assign(1, op);
    chosen_[op] = true;
    for (int i = at - 1; i >= first; --i) {
      const std::vector<int>& succs = problem_.graph.succs[order[i]];
      chosen_[order[i]] =
          std::any_of(succs.begin(), succs.end(), [&](int succ) { return chosen_[succ]; });
      (chosen_[order[i]] ? moved_ : ops_).push_back(order[i]);
    }
    for (int other : moved_) chosen_[other] = false;
    ops_.insert(ops_.end(), moved_.begin(), moved_.end());
    std::reverse(ops_.begin(), ops_.end());
  }

  // Leaves out what stays where it is. False if everything does.
  bool trim() {
    const auto order = cuts_.order().begin() + first_;
    size_t begin = 0;
    while (begin < ops_.size() && ops_[begin] == order[begin]) ++begin;
    if (begin == ops_.size()) return false;
    size_t end = ops_.size();
    while (ops_[end - 1] == order[end - 1]) --end;
    ops_.erase(ops_.begin() + end, ops_.end());
    ops_.erase(ops_.begin(), ops_.begin() + begin);
    first_ += static_cast<int>(begin);
    return true;
  }

  const Problem& problem_;
  const SearchLimits& limits_;
  StageCuts cuts_;
  const int max_distance_;
  std::mt19937_64 random_;
  int centre_ = 0;
  bool upwards_ = true;
  // The change that is tried.
  int first_ = 0;
  std::vector<int> ops_;
  std::vector<int> moved_;
  std::vector<char> chosen_;  // per op
};

}  // namespace

Schedule cut_stages(const Problem& problem, const std::vector<int>& order) {
  check_order(problem, order);
  return schedule_stages(problem, StageCuts(problem, order, kMaxStageOps).stages());
}

Schedule improve_stages(const Problem& problem, const std::vector<std::vector<int>>& orders,
                        const SearchLimits& limits) {
  if (orders.empty()) throw std::invalid_argument("There is no order to start from; give one.");
  std::vector<int> best;
  double best_us = std::numeric_limits<double>::infinity();
  int longest_stage = 0;
  for (const std::vector<int>& order : orders) {
    check_order(problem, order);
    StageCuts cuts(problem, order, kMaxStageOps);
    if (cuts.total_us() < best_us) {
      best_us = cuts.total_us();
      best = order;
      longest_stage = cuts.longest_stage();
    }
  }
  if (best.size() > 1) {
    // Room for stages to grow; more would only cost time.
    const int max_stage_ops = std::clamp(longest_stage + longest_stage / 2, 16, kMaxStageOps);
    best = Search(problem, limits, best, max_stage_ops).run();
  }
  return schedule_stages(problem, StageCuts(problem, best, kMaxStageOps).stages());
}

}  // namespace top
