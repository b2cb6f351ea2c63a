// Schedules for the staged objective, in which every stage ends with a barrier: an order of ops is
// cut into stages optimally, and a local search finds better orders.
//
// Every sequence of stages is a cut of some topological order, so with enough time the search can
// find what ios finds; but it costs about the same for every op, however wide the graph.
//
// Orders may come from anywhere, such as the issue order of a schedule that a policy or list
// scheduling made. Those in which ops follow each other as they would start in time are good.
#ifndef TOP_PASSES_STAGED_SEARCH_H_
#define TOP_PASSES_STAGED_SEARCH_H_

#include <vector>

#include "passes/search_limits.h"
#include "runtime/simulator.h"

namespace top {

// The schedule with the least staged_objective of those whose stages, one after the other, hold the
// ops in this order. The connected components of a concurrent stage are its groups and are packed
// by LPT; other ops run one after the other, each in its faster form. A concurrent stage has at
// most 32 ops; neighbouring stages are joined afterwards, up to 256 ops, where that is better.
// Throws std::invalid_argument, naming the op, for an order that is not a topological one of all
// ops.
Schedule cut_stages(const Problem& problem, const std::vector<int>& order);

// Starts from the order whose cut is best and returns the best cut found, which is never worse.
// SearchLimits::max_ms bounds the search alone; before and after it every order given and the one
// found are cut, which takes about 0.1 ms per op and order on a device with many streams.
// SearchLimits::max_schedules counts orders tried; with such a limit the result depends on the seed
// alone unless max_ms ends the search first. The temperature is relative to the mean time per op.
// Throws std::invalid_argument as cut_stages() does, and if there is no order.
Schedule improve_stages(const Problem& problem, const std::vector<std::vector<int>>& orders,
                        const SearchLimits& limits);

}  // namespace top

#endif  // TOP_PASSES_STAGED_SEARCH_H_
