#include "passes/demand.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace top {

void Demand::add(const Demand& other) {
  stream_us += other.stream_us;
  bandwidth_us += other.bandwidth_us;
  compute_us += other.compute_us;
}

void Demand::subtract(const Demand& other) {
  stream_us -= other.stream_us;
  bandwidth_us -= other.bandwidth_us;
  compute_us -= other.compute_us;
}

std::vector<Demand> demands_of(const Problem& problem) {
  const Graph& graph = problem.graph;
  std::vector<Demand> demands(graph.num_ops);
  for (int op = graph.num_ops - 1; op >= 0; --op) {
    const OpCost& cost = problem.costs[op];
    Demand& demand = demands[op];
    for (int succ : graph.succs[op]) {
      demand.path_us = std::max(demand.path_us, demands[succ].path_us);
    }
    demand.path_us += call_us(problem, op, prefers_gang(problem, op));
    demand.stream_us = call_us(problem, op, false) / problem.device.streams;
    demand.bandwidth_us = cost.single.time_us * cost.single.bandwidth;
    demand.compute_us = cost.single.time_us * cost.single.compute;
    if (is_moldable(problem, op)) {
      demand.stream_us = std::min(demand.stream_us, call_us(problem, op, true));
      demand.bandwidth_us = std::min(demand.bandwidth_us, cost.gang.time_us * cost.gang.bandwidth);
      demand.compute_us = std::min(demand.compute_us, cost.gang.time_us * cost.gang.compute);
    }
  }
  return demands;
}

Urgency::Urgency(const std::vector<Demand>& demands) : op_at(demands.size()), rank(demands.size()) {
  std::iota(op_at.begin(), op_at.end(), 0);
  std::stable_sort(op_at.begin(), op_at.end(),
                   [&](int a, int b) { return demands[a].path_us > demands[b].path_us; });
  for (size_t at = 0; at < op_at.size(); ++at) rank[op_at[at]] = static_cast<int>(at);
}

bool is_moldable(const Problem& problem, int op) {
  return problem.device.streams > 1 && std::isfinite(problem.costs[op].gang.time_us);
}

}  // namespace top
