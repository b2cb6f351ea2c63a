#include "passes/staged_search.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <random>
#include <stdexcept>
#include <utility>

#include "passes/stage_cuts.h"

namespace top {

namespace {

constexpr int kMaxStageOps = 32;
constexpr int kMaxJoinedOps = 256;

void check_order(const Problem& problem, const std::vector<int>& order) {
  Schedule schedule;
  for (int op : order) schedule.push_back({op, 0, 0, 0, 1});
  validate_schedule(problem.graph, schedule, problem.device.streams, problem.names);
}

struct Cut {
  double us;
  std::vector<Stage> stages;
};

// The best cut, with neighbouring stages joined where that is better. Trying stages of many ops at
// every position would take long.
Cut join_stages(const Problem& problem, StageCuts* cuts) {
  StageCuts joined(problem, cuts->order(), kMaxJoinedOps);
  joined.restrict_to(cuts->boundaries());
  return {joined.total_us(), joined.stages()};
}

Cut cut_order(const Problem& problem, const std::vector<int>& order) {
  StageCuts cuts(problem, order, kMaxStageOps);
  return join_stages(problem, &cuts);
}

// Local search over orders: a window of the order is sorted into what depends on its first op, or
// its last op depends on, and the rest. Windows move up and down the order, so that the costs in
// front of them and behind them are at hand. During a sweep stages begin and end near where they do
// in the present cut, and at some positions drawn by chance, because timing stages takes most of
// the time.
class Search {
 public:
  Search(const Problem& problem, const SearchLimits& limits, StageCuts cuts)
      : problem_(problem),
        limits_(limits),
        cuts_(std::move(cuts)),
        max_distance_(std::min(kMaxStageOps, problem.graph.num_ops - 1)),
        random_(limits.seed),
        chosen_(problem.graph.num_ops) {}

  // The best order found.
  std::vector<int> run() {
    std::vector<int> best = cuts_.order();
    double current_us = cuts_.total_us();
    double best_us = current_us;
    const double mean_us = current_us / problem_.graph.num_ops;
    int futile = 0;  // changes proposed in a row that are none
    restrict_cuts();
    SearchProgress progress(limits_);
    while (progress.next()) {
      if (turned_) {
        restrict_cuts();
        current_us = cuts_.total_us();
      }
      const double limit_us = current_us + progress.slack(random_) * mean_us;
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
  static constexpr int kOpenedOneOf = 10;
  static constexpr int kMaxFutileSweeps = 8;

  int pick(int low, int high) { return std::uniform_int_distribution<>(low, high)(random_); }

  void restrict_cuts() {
    const std::vector<char> boundaries = cuts_.boundaries();
    std::vector<char> open = boundaries;
    for (size_t at = 0; at < open.size(); ++at) {
      open[at] |= pick(0, kOpenedOneOf - 1) == 0;
      if (at > 0) open[at] |= boundaries[at - 1];
      if (at + 1 < open.size()) open[at] |= boundaries[at + 1];
    }
    cuts_.restrict_to(open);
  }

  // Sets first_ and ops_ to a change of the order; false if there is none where it looked.
  bool propose() {
    const int num_ops = problem_.graph.num_ops;
    centre_ += upwards_ ? 1 : -1;
    turned_ = centre_ <= 0 || centre_ >= num_ops - 1;
    if (turned_) upwards_ = centre_ <= 0;
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
  bool turned_ = false;
  // The change that is tried.
  int first_ = 0;
  std::vector<int> ops_;
  std::vector<int> moved_;
  std::vector<char> chosen_;  // per op
};

}  // namespace

Schedule cut_stages(const Problem& problem, const std::vector<int>& order) {
  check_order(problem, order);
  return schedule_stages(problem, cut_order(problem, order).stages);
}

Schedule improve_stages(const Problem& problem, const std::vector<std::vector<int>>& orders,
                        const SearchLimits& limits) {
  if (orders.empty()) throw std::invalid_argument("There is no order to start from; give one.");
  std::optional<StageCuts> start;
  Cut best;
  for (const std::vector<int>& order : orders) {
    check_order(problem, order);
    StageCuts cuts(problem, order, kMaxStageOps);
    Cut cut = join_stages(problem, &cuts);
    if (start && cut.us >= best.us) continue;
    start.emplace(std::move(cuts));
    best = std::move(cut);
  }
  if (problem.graph.num_ops > 1) {
    // The search does not know joined stages, so its result may be worse with them.
    Cut found = cut_order(problem, Search(problem, limits, std::move(*start)).run());
    if (found.us < best.us) best = std::move(found);
  }
  return schedule_stages(problem, best.stages);
}

}  // namespace top
