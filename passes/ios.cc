// Dynamic programming over down-sets, after Ding et al., "IOS: Inter-Operator Scheduler for CNN
// Acceleration", MLSys 2021. It minimises staged_objective.
//
// A state is the set of ops executed so far (a down-set). A stage extends it to a bigger down-set.
// The ops of a stage fall into weakly connected components, its groups; they run concurrently,
// packed onto the streams by LPT. A stage with one group is sequential: every op in its faster
// form.
//
// Three facts keep this exact and small:
// * Sequential stages in a row cost no barrier, so it is enough to extend by one sequential op at a
//   time, if the state also says whether its last stage was sequential.
// * Where every op of a down-set precedes every op outside it, a stage that crosses the border is
//   connected, hence sequential: the graph falls apart there into *blocks*, solved in order.
// * Time depends on the stage, not on the state it extends: it is computed once per set of ops.
//
// The solution by levels (each level one stage) bounds the search from above, the critical path and
// the mean load of the ops left bound it from below: what cannot win is not extended.
//
// Limits as in the paper: r ops per group and s groups per concurrent stage. The search is bounded
// too: a block that would need more than its share of the stages is split between two levels where
// few values cross, down to single levels if need be. So the result is never worse than `greedy`.
#include <algorithm>
#include <array>
#include <limits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "passes/blocks.h"
#include "passes/op_set.h"
#include "passes/partition.h"
#include "passes/stages.h"

namespace top {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kRounding = 1e-9;  // of sums of times, relative

// Kind of the last stage of a state.
enum Kind { kConcurrent = 0, kSequential = 1 };
constexpr int kKinds = 2;
using KindCosts = std::array<double, kKinds>;

Kind cheaper(const KindCosts& costs) {
  return costs[kSequential] <= costs[kConcurrent] ? kSequential : kConcurrent;
}

// The best way through a block to an end of one kind.
struct Path {
  Kind begin_kind = kSequential;  // kind of the last stage before the block
  std::vector<Stage> stages;
};

struct BlockResult {
  KindCosts costs{kInfinity, kInfinity};
  std::array<Path, kKinds> paths;
};

// Solves one block of at most OpSet::kCapacity ops; ops are renumbered within it.
class BlockSearch {
 public:
  BlockSearch(const Problem& problem, const std::vector<int>& ops, const IosLimits& limits,
              int64_t max_stages)
      : problem_(problem),
        ops_(ops),
        max_group_ops_(limits.max_group_ops > 0 ? limits.max_group_ops : num_ops()),
        max_groups_(limits.max_groups > 0 ? limits.max_groups : num_ops()),
        max_stage_ops_(
            static_cast<int>(std::min<int64_t>(num_ops(), int64_t{max_group_ops_} * max_groups_))),
        stages_left_(max_stages),
        preds_(ops.size()),
        succs_(ops.size()),
        timer_(problem),
        bins_(problem.device.streams) {
    std::unordered_map<int, int> local;
    for (int i = 0; i < num_ops(); ++i) local[ops[i]] = i;
    for (int i = 0; i < num_ops(); ++i) {
      for (int pred : problem.graph.preds[ops[i]]) {
        const auto found = local.find(pred);
        if (found == local.end()) continue;
        preds_[i] = preds_[i] | OpSet::of(found->second);
        succs_[found->second] = succs_[found->second] | OpSet::of(i);
      }
      single_us_.push_back(call_us(problem, ops[i], false));
      faster_us_.push_back(call_us(problem, ops[i], prefers_gang(problem, ops[i])));
      load_us_.push_back(std::min(single_us_[i], streams() * call_us(problem, ops[i], true)));
    }
    path_us_ = faster_us_;
    for (int i = num_ops() - 1; i >= 0; --i) path_us_[i] += path_us(succs_[i]);
  }

  // `begin` holds the cost of everything before the block, by kind of the stage it ends with;
  // `first` says that there is nothing before. Improves on `result`, a solution of the block. False
  // when the stages did not suffice.
  bool solve(const KindCosts& begin, bool first, BlockResult* result) {
    // An end of the worse kind still wins if it saves the barrier to the next block.
    bound_us_ = std::min(result->costs[kConcurrent], result->costs[kSequential]) +
                barrier_us(problem_.device);
    bound_us_ *= 1 + kRounding;
    by_size_.assign(num_ops() + 1, {});
    State& empty = states_[state_of(OpSet{})];
    empty.costs = begin;
    for (int size = 0; size < num_ops(); ++size) {
      for (size_t i = 0; i < by_size_[size].size(); ++i) {
        current_ = by_size_[size][i];
        const State state = states_[current_];  // a copy: extending adds states
        const double barrier = first && size == 0 ? 0 : barrier_us(problem_.device);
        base_us_ = std::min(state.costs[kConcurrent], state.costs[kSequential]) + barrier;
        const OpSet ready = ready_ops(state.done);
        left_us_ = load_us(OpSet::first(num_ops()) - state.done) / streams();
        if (base_us_ - barrier + std::max(left_us_, path_us(ready)) > bound_us_) continue;
        extend_sequentially(state, ready, barrier);
        extend_concurrently(state.done, Partial{}, ready);
        if (stages_left_ <= 0) return false;
      }
    }
    const int full = state_of(OpSet::first(num_ops()));
    for (Kind kind : {kConcurrent, kSequential}) {
      if (states_[full].costs[kind] < result->costs[kind]) {
        result->costs[kind] = states_[full].costs[kind];
        result->paths[kind] = trace(full, kind);
      }
    }
    return true;
  }

 private:
  struct State {
    OpSet done;
    KindCosts costs{kInfinity, kInfinity};
    std::array<int, kKinds> parents{-1, -1};
    std::array<Kind, kKinds> parent_kinds{kSequential, kSequential};
  };

  // A concurrent stage under construction; ops are added in ascending order.
  struct Partial {
    OpSet ops;
    std::vector<OpSet> groups;
  };

  int num_ops() const { return static_cast<int>(ops_.size()); }

  int streams() const { return problem_.device.streams; }

  // Least stream time that the ops need together.
  double load_us(OpSet ops) const {
    double total_us = 0;
    for (; !ops.empty(); ops.pop_front()) total_us += load_us_[ops.front()];
    return total_us;
  }

  // Longest path from any of the ops to the end of the block.
  double path_us(OpSet ops) const {
    double longest_us = 0;
    for (; !ops.empty(); ops.pop_front()) {
      longest_us = std::max(longest_us, path_us_[ops.front()]);
    }
    return longest_us;
  }

  int state_of(const OpSet& done) {
    const auto [found, added] = index_.try_emplace(done, static_cast<int>(states_.size()));
    if (added) {
      states_.push_back(State{});
      states_.back().done = done;
      by_size_[done.size()].push_back(found->second);
    }
    return found->second;
  }

  OpSet ready_ops(const OpSet& done) const {
    OpSet ready;
    for (OpSet rest = OpSet::first(num_ops()) - done; !rest.empty(); rest.pop_front()) {
      if (done.contains(preds_[rest.front()])) ready = ready | OpSet::of(rest.front());
    }
    return ready;
  }

  void relax(const OpSet& done, Kind kind, double cost_us, Kind parent_kind) {
    State& state = states_[state_of(done)];
    if (cost_us < state.costs[kind]) {
      state.costs[kind] = cost_us;
      state.parents[kind] = current_;
      state.parent_kinds[kind] = parent_kind;
    }
  }

  void extend_sequentially(const State& state, OpSet ready, double barrier) {
    KindCosts costs = state.costs;
    costs[kConcurrent] += barrier;
    const Kind kind = cheaper(costs);
    for (; !ready.empty(); ready.pop_front()) {
      const int op = ready.front();
      relax(state.done | OpSet::of(op), kSequential, costs[kind] + faster_us_[op], kind);
      --stages_left_;
    }
  }

  // Tries every concurrent stage that contains `partial` and otherwise ops above its last one.
  // `ready` holds the ops that may be added next.
  void extend_concurrently(const OpSet& done, const Partial& partial, OpSet ready) {
    if (partial.ops.size() == max_stage_ops_) return;
    while (!ready.empty() && stages_left_ > 0) {
      const int op = ready.front();
      ready.pop_front();
      OpSet group = OpSet::of(op);
      Partial next;
      next.groups.reserve(partial.groups.size() + 1);
      for (const OpSet& other : partial.groups) {
        if ((other & preds_[op]).empty()) {
          next.groups.push_back(other);
        } else {
          group = group | other;
        }
      }
      if (group.size() > max_group_ops_) continue;
      next.groups.push_back(group);
      next.ops = partial.ops | OpSet::of(op);
      --stages_left_;
      const OpSet after = done | next.ops;
      const int groups = static_cast<int>(next.groups.size());
      if (groups > 1 && groups <= max_groups_) {
        const double cost_us = base_us_ + concurrent_us(next);
        if (cost_us + left_us_ - load_us(next.ops) / streams() <= bound_us_) {
          relax(after, kConcurrent, cost_us, base_kind());
        }
      }
      OpSet next_ready = ready;
      for (OpSet succs = succs_[op]; !succs.empty(); succs.pop_front()) {
        if (after.contains(preds_[succs.front()])) {
          next_ready = next_ready | OpSet::of(succs.front());
        }
      }
      extend_concurrently(done, next, next_ready);
    }
  }

  Kind base_kind() const { return cheaper(states_[current_].costs); }

  double concurrent_us(const Partial& stage) {
    const auto [found, added] = times_.try_emplace(stage.ops, 0.0);
    if (!added) return found->second;
    std::vector<OpSet> groups = stage.groups;
    sort_groups(&groups);
    group_us_.clear();
    for (OpSet group : groups) {
      double time_us = 0;
      for (; !group.empty(); group.pop_front()) time_us += single_us_[group.front()];
      group_us_.push_back(time_us);
    }
    const std::vector<int> bin_of = pack_groups(group_us_, problem_.device.streams);
    for (std::vector<int>& bin : bins_) bin.clear();
    for (size_t i = 0; i < groups.size(); ++i) {
      for (OpSet group = groups[i]; !group.empty(); group.pop_front()) {
        bins_[bin_of[i]].push_back(ops_[group.front()]);
      }
    }
    return found->second = timer_.concurrent_us(bins_);
  }

  // In the order of their first ops, so that the time does not depend on how a stage was built.
  static void sort_groups(std::vector<OpSet>* groups) {
    std::sort(groups->begin(), groups->end(),
              [](const OpSet& a, const OpSet& b) { return a.front() < b.front(); });
  }

  Path trace(int state, Kind kind) const {
    Path path;
    while (states_[state].parents[kind] >= 0) {
      const int parent = states_[state].parents[kind];
      const OpSet ops = states_[state].done - states_[parent].done;
      Stage stage;
      for (const OpSet& group : components(ops)) {
        stage.groups.emplace_back();
        for (OpSet rest = group; !rest.empty(); rest.pop_front()) {
          stage.groups.back().push_back(ops_[rest.front()]);
        }
      }
      path.stages.push_back(std::move(stage));
      kind = states_[state].parent_kinds[kind];
      state = parent;
    }
    path.begin_kind = kind;
    std::reverse(path.stages.begin(), path.stages.end());
    return path;
  }

  std::vector<OpSet> components(const OpSet& ops) const {
    std::vector<OpSet> groups;
    for (OpSet rest = ops; !rest.empty(); rest.pop_front()) {
      OpSet group = OpSet::of(rest.front());
      std::vector<OpSet> others;
      for (const OpSet& other : groups) {
        if ((other & preds_[rest.front()]).empty()) {
          others.push_back(other);
        } else {
          group = group | other;
        }
      }
      others.push_back(group);
      groups = std::move(others);
    }
    sort_groups(&groups);
    return groups;
  }

  const Problem& problem_;
  const std::vector<int>& ops_;
  const int max_group_ops_;
  const int max_groups_;
  const int max_stage_ops_;
  int64_t stages_left_;
  std::vector<OpSet> preds_;
  std::vector<OpSet> succs_;
  std::vector<double> single_us_;
  std::vector<double> faster_us_;  // in the faster form
  std::vector<double> load_us_;    // stream time in the form that needs less of it
  std::vector<double> path_us_;    // from the start of the op to the end of the block
  StageTimer timer_;

  std::vector<State> states_;
  std::vector<std::vector<int>> by_size_;
  std::unordered_map<OpSet, int, OpSetHash> index_;
  std::unordered_map<OpSet, double, OpSetHash> times_;
  int current_ = 0;              // state being extended
  double base_us_ = 0;           // its cost with a barrier behind it
  double left_us_ = 0;           // mean load per stream of what it leaves to do
  double bound_us_ = kInfinity;  // what costs more cannot win
  std::vector<double> group_us_;
  std::vector<std::vector<int>> bins_;
};

// Solves the graph block after block, splitting what is too big.
class Search {
 public:
  Search(const Problem& problem, const IosLimits& limits)
      : problem_(problem), limits_(limits), timer_(problem) {}

  std::vector<Stage> run() {
    for (const Levels& block : split_blocks(problem_.graph)) solve(block);
    std::vector<Stage> stages;  // backwards
    Kind kind = cheaper(costs_);
    for (auto result = results_.rbegin(); result != results_.rend(); ++result) {
      const Path& path = result->paths[kind];
      stages.insert(stages.end(), path.stages.rbegin(), path.stages.rend());
      kind = path.begin_kind;
    }
    std::reverse(stages.begin(), stages.end());
    return stages;
  }

 private:
  void solve(const Levels& levels) {
    BlockResult result = by_levels(levels);
    std::vector<int> ops;
    for (const std::vector<int>& level : levels) ops.insert(ops.end(), level.begin(), level.end());
    std::sort(ops.begin(), ops.end());  // the order in which groups are numbered
    if (ops.size() <= OpSet::kCapacity) {
      BlockSearch search(problem_, ops, limits_, share_of(ops));
      if (search.solve(costs_, results_.empty(), &result)) return append(std::move(result));
    }
    if (levels.size() == 1) return append(std::move(result));
    const auto [head, tail] = split_levels(problem_.graph, levels);
    solve(head);
    solve(tail);
  }

  void append(BlockResult result) {
    costs_ = result.costs;
    results_.push_back(std::move(result));
  }

  // The best solution in which every level is one stage, concurrent or sequential.
  BlockResult by_levels(const Levels& levels) {
    BlockResult best;
    best.costs = costs_;
    for (Kind kind : {kConcurrent, kSequential}) best.paths[kind].begin_kind = kind;
    bool first = results_.empty();
    for (const std::vector<int>& level : levels) {
      const double barrier = first ? 0 : barrier_us(problem_.device);
      first = false;
      std::vector<double> single_us;
      double sequential_us = 0;
      for (int op : level) {
        single_us.push_back(call_us(problem_, op, false));
        sequential_us += call_us(problem_, op, prefers_gang(problem_, op));
      }
      const std::vector<int> stream_of = pack_groups(single_us, problem_.device.streams);
      std::vector<std::vector<int>> streams(problem_.device.streams);
      for (size_t i = 0; i < level.size(); ++i) streams[stream_of[i]].push_back(level[i]);

      BlockResult next;
      const auto extend = [&](Kind kind, KindCosts costs, double stage_us, Stage stage) {
        const Kind from = cheaper(costs);
        next.costs[kind] = costs[from] + stage_us;
        next.paths[kind] = best.paths[from];
        next.paths[kind].stages.push_back(std::move(stage));
      };
      const KindCosts costs = best.costs;
      extend(kSequential, {costs[kConcurrent] + barrier, costs[kSequential]}, sequential_us,
             Stage{{level}});
      if (level.size() > 1) {
        Stage stage;
        for (int op : level) stage.groups.push_back({op});
        extend(kConcurrent, {costs[kConcurrent] + barrier, costs[kSequential] + barrier},
               timer_.concurrent_us(streams), std::move(stage));
      }
      best = std::move(next);
    }
    return best;
  }

  int64_t share_of(const std::vector<int>& ops) const {
    if (limits_.max_stages <= 0) return std::numeric_limits<int64_t>::max();
    const double share = static_cast<double>(ops.size()) / problem_.graph.num_ops;
    return std::max(int64_t{1}, static_cast<int64_t>(limits_.max_stages * share));
  }

  const Problem& problem_;
  const IosLimits limits_;
  StageTimer timer_;
  // Nothing has run: as after a sequential stage, the first op waits for nothing.
  KindCosts costs_{kInfinity, 0.0};
  std::vector<BlockResult> results_;
};

}  // namespace

Schedule partition_ios(const Problem& problem, const IosLimits& limits) {
  return schedule_stages(problem, Search(problem, limits).run());
}

}  // namespace top
