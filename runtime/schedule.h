// The schedule: where and when every operator of a graph is issued. Plain data, shared by the
// partitioners (which make it), the simulator (which times it) and the plan (which executes it).
#ifndef TOP_RUNTIME_SCHEDULE_H_
#define TOP_RUNTIME_SCHEDULE_H_

#include <string>
#include <utility>
#include <vector>

namespace top {

// DAG of operators, numbered in a topological order. Adjacent ops are sorted and distinct.
struct Graph {
  int num_ops = 0;
  std::vector<std::vector<int>> preds;
  std::vector<std::vector<int>> succs;
};

// Builds the adjacency lists from (producer, consumer) pairs; repeated edges count once.
// Throws std::invalid_argument for an edge that leaves the graph or does not ascend.
Graph make_graph(int num_ops, const std::vector<std::pair<int, int>>& edges);

// One operator's place.
//
// `threads` is 1, or the number of streams. The latter is a *gang* call: it sits in the order of
// every stream, starts when all of them have arrived (so everything issued before it is finished)
// and all continue when it has finished. Its `stream` only says where it is shown.
struct Placement {
  int op;
  int stage;
  int group;  // numbered within the stage
  int stream;
  int threads;
};

// In issue order, which is topological. A stream executes its calls in this order.
using Schedule = std::vector<Placement>;

// Whether the call occupies every stream. With one stream there is nothing to gather.
inline bool is_gang(const Placement& placement, int streams) {
  return streams > 1 && placement.threads == streams;
}

// "op 3", or "op 3 (conv1)" where `names` holds a name for it: how every message names an op.
std::string describe_op(int op, const std::vector<std::string>& names = {});

// Throws std::invalid_argument, naming the op, unless
// * every op is placed exactly once and the issue order is topological,
// * streams are in range and threads are 1 or `streams`,
// * stages do not decrease in the issue order,
// * the ops of a group are on one stream, and no edge joins two groups of a stage: groups of a
//   stage run concurrently, so none may need another's result.
void validate_schedule(const Graph& graph, const Schedule& schedule, int streams,
                       const std::vector<std::string>& names = {});

// For each position in the schedule, the positions on other streams that must have finished before
// it may start, latest first.
//
// The waits together with stream order and gang calls imply every edge of the graph, and none of
// them is implied by the rest: vector clocks track what each stream already knows to be finished.
// O(ops * streams + edges * streams). The schedule must be valid apart from stages and groups.
std::vector<std::vector<int>> derive_waits(const Graph& graph, const Schedule& schedule,
                                           int streams, const std::vector<std::string>& names = {});

// Numbers stages and groups of a schedule that was made without them, in issue order. A new stage
// starts where an op needs the result of an op of the current stage on another stream, and where
// single-stream calls and gang calls meet. The ops of a stage on one stream are one group.
void assign_stages(const Graph& graph, int streams, Schedule* schedule);

}  // namespace top

#endif  // TOP_RUNTIME_SCHEDULE_H_
