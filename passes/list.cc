// Critical-path list scheduling of moldable ops, without barriers.
//
// One pass places op after op, on the stream where it ends first, against an estimate of the time:
// waits, dispatch and rendezvous as the executor pays them, no contention. An op's priority is its
// rank, the length of the longest path from its start to the end of the graph.
//
// An op gets all streams if that lowers the bound on the end of its block (see blocks.h), before
// which nothing behind the block can start: the longer of the path through the op and the mean load
// of the streams. After Radulescu and van Gemund, "A Low-Cost Approach towards Mixed Task and Data
// Parallel Scheduling", ICPP 2001, who bound the whole graph; in a chain of blocks that is blind to
// the load.
//
// A pass is cheap, so four are made, by two orders and with or without gang calls, and the
// simulator, which knows contention, decides. The sequential schedule is a candidate too.
#include <algorithm>
#include <array>
#include <limits>

#include "passes/blocks.h"
#include "passes/partition.h"

namespace top {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Which ready op is placed next.
enum class Pick {
  kHighestRank,    // HEFT: the op that is most urgent, even if a stream then idles until its inputs
  kEarliestStart,  // ETF: an op that can start now, the most urgent of those
};

// What the passes need to know of every op; the same for all of them.
struct Outlook {
  explicit Outlook(const Problem& problem);

  std::vector<double> rank_us;    // path from its start to the end of the graph
  std::vector<double> behind_us;  // path from its end to the end of its block
  std::vector<double> load_us;    // stream time in the form that needs less of it
  std::vector<int> block;
  int num_blocks;
};

Outlook::Outlook(const Problem& problem)
    : rank_us(problem.graph.num_ops, 0.0),
      behind_us(problem.graph.num_ops, 0.0),
      load_us(problem.graph.num_ops),
      block(problem.graph.num_ops) {
  const std::vector<Levels> blocks = split_blocks(problem.graph);
  num_blocks = static_cast<int>(blocks.size());
  for (int index = 0; index < num_blocks; ++index) {
    for (const std::vector<int>& level : blocks[index]) {
      for (int op : level) block[op] = index;
    }
  }
  for (int op = problem.graph.num_ops - 1; op >= 0; --op) {
    const double single_us = call_us(problem, op, false);
    const double gang_us = call_us(problem, op, true);
    load_us[op] = std::min(single_us, problem.device.streams * gang_us);
    for (int succ : problem.graph.succs[op]) {
      rank_us[op] = std::max(rank_us[op], rank_us[succ]);
      if (block[succ] != block[op]) continue;
      const double faster_us = call_us(problem, succ, prefers_gang(problem, succ));
      behind_us[op] = std::max(behind_us[op], faster_us + behind_us[succ]);
    }
    rank_us[op] += prefers_gang(problem, op) ? gang_us : single_us;
  }
}

class ListPass {
 public:
  ListPass(const Problem& problem, const Outlook& outlook, Pick pick, bool use_gangs)
      : problem_(problem),
        outlook_(outlook),
        pick_(pick),
        use_gangs_(use_gangs),
        streams_(problem.device.streams),
        free_us_(streams_, 0.0),
        seen_us_(streams_, std::vector<double>(streams_, 0.0)),
        end_us_(problem.graph.num_ops),
        stream_of_(problem.graph.num_ops),
        waiting_us_(outlook.num_blocks, 0.0) {}

  Schedule run() {
    const Graph& graph = problem_.graph;
    std::vector<size_t> missing(graph.num_ops);
    for (int op = 0; op < graph.num_ops; ++op) {
      missing[op] = graph.preds[op].size();
      if (missing[op] == 0) add_ready(op);
      waiting_us_[outlook_.block[op]] += outlook_.load_us[op];
    }
    Schedule schedule;
    schedule.reserve(graph.num_ops);
    while (!ready_.empty()) {
      const int op = pick_next();
      schedule.push_back(place(op));
      for (int succ : graph.succs[op]) {
        if (--missing[succ] == 0) add_ready(succ);
      }
    }
    return schedule;
  }

 private:
  struct ReadyOp {
    int op;
    double inputs_us;  // when its inputs are computed
  };

  void add_ready(int op) {
    double inputs_us = 0;
    for (int pred : problem_.graph.preds[op]) inputs_us = std::max(inputs_us, end_us_[pred]);
    ready_.push_back({op, inputs_us});
  }

  int pick_next() {
    const double first_free_us = *std::min_element(free_us_.begin(), free_us_.end());
    const auto before = [&](const ReadyOp& a, const ReadyOp& b) {
      if (pick_ == Pick::kEarliestStart) {
        const double a_us = std::max(a.inputs_us, first_free_us);
        const double b_us = std::max(b.inputs_us, first_free_us);
        if (a_us != b_us) return a_us < b_us;
      }
      if (outlook_.rank_us[a.op] != outlook_.rank_us[b.op])
        return outlook_.rank_us[a.op] > outlook_.rank_us[b.op];
      return a.op < b.op;
    };
    const auto next = std::min_element(ready_.begin(), ready_.end(), before);
    const int op = next->op;
    *next = ready_.back();
    ready_.pop_back();
    return op;
  }

  // When the op would end on the stream.
  double end_on(int op, int stream) const {
    double start_us = free_us_[stream];
    int waits = 0;
    for (int pred : problem_.graph.preds[op]) {
      const int source = stream_of_[pred];
      if (source == stream || end_us_[pred] <= seen_us_[stream][source]) continue;
      start_us = std::max(start_us, end_us_[pred]);
      ++waits;
    }
    return start_us + waits * problem_.device.wait_us + call_us(problem_, op, false);
  }

  Placement place(int op) {
    int stream = 0;
    double end_us = kInfinity;
    for (int candidate = 0; candidate < streams_; ++candidate) {
      const double candidate_us = end_on(op, candidate);
      // Of equals the stream that is free last: the others stay open for what is ready earlier.
      if (candidate_us < end_us ||
          (candidate_us == end_us && free_us_[candidate] > free_us_[stream])) {
        end_us = candidate_us;
        stream = candidate;
      }
    }
    waiting_us_[outlook_.block[op]] -= outlook_.load_us[op];
    if (wants_gang(op, stream, end_us)) return place_gang(op);
    for (int pred : problem_.graph.preds[op]) {
      double& seen_us = seen_us_[stream][stream_of_[pred]];
      seen_us = std::max(seen_us, end_us_[pred]);
    }
    free_us_[stream] = end_us_[op] = end_us;
    stream_of_[op] = stream;
    return {op, 0, 0, stream, 1};
  }

  double gang_end(int op) const {
    return *std::max_element(free_us_.begin(), free_us_.end()) + call_us(problem_, op, true);
  }

  bool wants_gang(int op, int stream, double single_end_us) const {
    if (!use_gangs_ || !prefers_gang(problem_, op)) return false;
    const double gang_end_us = gang_end(op);
    const double waiting_us = waiting_us_[outlook_.block[op]];
    double load_us = waiting_us + single_end_us - free_us_[stream];
    for (double free_us : free_us_) load_us += free_us;
    const double behind_us = outlook_.behind_us[op];
    const double single_bound_us = std::max(single_end_us + behind_us, load_us / streams_);
    const double gang_bound_us = gang_end_us + std::max(behind_us, waiting_us / streams_);
    return gang_bound_us < single_bound_us;
  }

  Placement place_gang(int op) {
    const double end_us = gang_end(op);
    std::fill(free_us_.begin(), free_us_.end(), end_us);
    for (std::vector<double>& seen_us : seen_us_) std::fill(seen_us.begin(), seen_us.end(), end_us);
    end_us_[op] = end_us;
    stream_of_[op] = 0;
    return {op, 0, 0, 0, streams_};
  }

  const Problem& problem_;
  const Outlook& outlook_;
  const Pick pick_;
  const bool use_gangs_;
  const int streams_;
  std::vector<double> free_us_;               // when each stream has done what it has so far
  std::vector<std::vector<double>> seen_us_;  // [stream][source]: up to when it waited for source
  std::vector<double> end_us_;                // per placed op
  std::vector<int> stream_of_;                // per placed op
  std::vector<ReadyOp> ready_;
  std::vector<double> waiting_us_;  // per block: load of the ops not placed yet
};

}  // namespace

Schedule partition_list(const Problem& problem) {
  const Outlook outlook(problem);
  Schedule best = partition_sequential(problem);
  double best_us = simulate(problem, best).makespan_us;
  for (Pick pick : {Pick::kHighestRank, Pick::kEarliestStart}) {
    for (bool use_gangs : {true, false}) {
      Schedule schedule = ListPass(problem, outlook, pick, use_gangs).run();
      const double makespan_us = simulate(problem, schedule).makespan_us;
      if (makespan_us < best_us) {
        best_us = makespan_us;
        best = std::move(schedule);
      }
    }
  }
  assign_stages(problem.graph, problem.device.streams, &best);
  return best;
}

}  // namespace top
