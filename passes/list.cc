// Critical-path list scheduling of moldable ops, without barriers.
//
// One pass places op after op, on the stream and in the form that seem best, against an estimate of
// the time: waits, dispatch and rendezvous as the executor pays them, no contention. An op's
// priority is its rank, the length of the longest path from its start to the end of the graph. Two
// things are a matter of taste, and which taste is right depends on the graph: a pass is cheap, so
// all combinations are tried, and the simulator, which knows contention, decides. The sequential
// schedule is a candidate too.
#include <algorithm>
#include <array>
#include <limits>

#include "passes/partition.h"

namespace top {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Which ready op is placed next.
enum class Pick {
  kHighestRank,    // HEFT: the op that is most urgent, even if a stream then idles until its inputs
  kEarliestStart,  // ETF: an op that can start now, the most urgent of those
};

// When an op occupies all streams.
enum class Gang {
  kNever,
  // If it then ends earlier; good for chains, wasteful where other ops could have used the streams.
  kEndsEarlier,
  // If that lowers the bound on the end of everything: the longer of the path through this op and
  // the mean load of the streams, with all ops to come or just the ready ones (after Radulescu and
  // van Gemund, "A Low-Cost Approach towards Mixed Task and Data Parallel Scheduling", ICPP 2001).
  kLowersBoundOfAll,
  kLowersBoundOfReady,
};

class ListPass {
 public:
  ListPass(const Problem& problem, const std::vector<double>& rank_us, Pick pick, Gang gang)
      : problem_(problem),
        rank_us_(rank_us),
        pick_(pick),
        gang_(gang),
        streams_(problem.device.streams),
        free_us_(streams_, 0.0),
        seen_us_(streams_, std::vector<double>(streams_, 0.0)),
        end_us_(problem.graph.num_ops),
        stream_of_(problem.graph.num_ops) {}

  Schedule run() {
    const Graph& graph = problem_.graph;
    std::vector<size_t> missing(graph.num_ops);
    for (int op = 0; op < graph.num_ops; ++op) {
      missing[op] = graph.preds[op].size();
      if (missing[op] == 0) add_ready(op);
      if (gang_ == Gang::kLowersBoundOfAll) waiting_us_ += call_us(problem_, op, false);
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
    if (gang_ == Gang::kLowersBoundOfReady) waiting_us_ += call_us(problem_, op, false);
  }

  int pick_next() {
    const double first_free_us = *std::min_element(free_us_.begin(), free_us_.end());
    const auto before = [&](const ReadyOp& a, const ReadyOp& b) {
      if (pick_ == Pick::kEarliestStart) {
        const double a_us = std::max(a.inputs_us, first_free_us);
        const double b_us = std::max(b.inputs_us, first_free_us);
        if (a_us != b_us) return a_us < b_us;
      }
      if (rank_us_[a.op] != rank_us_[b.op]) return rank_us_[a.op] > rank_us_[b.op];
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
    if (gang_ == Gang::kLowersBoundOfAll || gang_ == Gang::kLowersBoundOfReady) {
      waiting_us_ -= call_us(problem_, op, false);
    }
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
    if (gang_ == Gang::kNever || !prefers_gang(problem_, op)) return false;
    const double gang_end_us = gang_end(op);
    if (gang_ == Gang::kEndsEarlier) return gang_end_us < single_end_us;
    double load_us = waiting_us_ - free_us_[stream];
    for (double free_us : free_us_) load_us += free_us;
    const double path_us =
        rank_us_[op] - std::min(call_us(problem_, op, false), call_us(problem_, op, true));
    const double single_bound_us =
        std::max(single_end_us + path_us, (load_us + single_end_us) / streams_);
    const double gang_bound_us =
        std::max(gang_end_us + path_us, gang_end_us + waiting_us_ / streams_);
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
  const std::vector<double>& rank_us_;
  const Pick pick_;
  const Gang gang_;
  const int streams_;
  std::vector<double> free_us_;               // when each stream has done what it has so far
  std::vector<std::vector<double>> seen_us_;  // [stream][source]: up to when it waited for source
  std::vector<double> end_us_;                // per placed op
  std::vector<int> stream_of_;                // per placed op
  std::vector<ReadyOp> ready_;
  double waiting_us_ = 0;  // load of the ops that count as still to come
};

std::vector<double> ranks(const Problem& problem) {
  const int num_ops = problem.graph.num_ops;
  std::vector<double> rank_us(num_ops, 0.0);
  for (int op = num_ops - 1; op >= 0; --op) {
    for (int succ : problem.graph.succs[op]) rank_us[op] = std::max(rank_us[op], rank_us[succ]);
    rank_us[op] += call_us(problem, op, prefers_gang(problem, op));
  }
  return rank_us;
}

}  // namespace

Schedule partition_list(const Problem& problem) {
  const std::vector<double> rank_us = ranks(problem);
  Schedule best = partition_sequential(problem);
  double best_us = simulate(problem, best).makespan_us;
  for (Pick pick : {Pick::kHighestRank, Pick::kEarliestStart}) {
    for (Gang gang :
         {Gang::kNever, Gang::kEndsEarlier, Gang::kLowersBoundOfAll, Gang::kLowersBoundOfReady}) {
      Schedule schedule = ListPass(problem, rank_us, pick, gang).run();
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
