#include <algorithm>
#include <numeric>

#include "passes/partition.h"
#include "passes/stages.h"

namespace top {

Schedule partition_sequential(const Problem& problem) {
  Stage all{{std::vector<int>(problem.graph.num_ops)}};
  std::iota(all.groups[0].begin(), all.groups[0].end(), 0);
  return schedule_stages(problem, {all});
}

Schedule partition_greedy(const Problem& problem) {
  const Graph& graph = problem.graph;
  std::vector<size_t> missing(graph.num_ops);  // inputs not computed yet
  std::vector<int> ready;
  for (int op = 0; op < graph.num_ops; ++op) {
    missing[op] = graph.preds[op].size();
    if (missing[op] == 0) ready.push_back(op);
  }

  StageTimer timer(problem);
  std::vector<Stage> stages;
  std::vector<double> op_us;
  while (!ready.empty()) {
    double sequential_us = 0;
    op_us.clear();
    for (int op : ready) {
      op_us.push_back(call_us(problem, op, false));
      sequential_us += call_us(problem, op, prefers_gang(problem, op));
    }
    const std::vector<int> stream_of = pack_groups(op_us, problem.device.streams);
    std::vector<std::vector<int>> streams(problem.device.streams);
    for (size_t i = 0; i < ready.size(); ++i) streams[stream_of[i]].push_back(ready[i]);

    Stage stage;
    if (sequential_us <= timer.concurrent_us(streams)) {
      stage.groups.push_back(ready);
    } else {
      for (int op : ready) stage.groups.push_back({op});
    }
    stages.push_back(std::move(stage));

    std::vector<int> next;
    for (int op : ready) {
      for (int succ : graph.succs[op]) {
        if (--missing[succ] == 0) next.push_back(succ);
      }
    }
    std::sort(next.begin(), next.end());
    ready = std::move(next);
  }
  return schedule_stages(problem, stages);
}

}  // namespace top
