// Cutting a graph into parts that ios solves one after the other.
#ifndef TOP_PASSES_BLOCKS_H_
#define TOP_PASSES_BLOCKS_H_

#include <utility>
#include <vector>

#include "runtime/schedule.h"

namespace top {

// Consecutive levels of a graph. An op's level is the number of ops on the longest path to it, so
// the ops of a level are independent, and all levels up to one form a down-set.
using Levels = std::vector<std::vector<int>>;

// Cuts the graph wherever every op before the cut precedes every op behind it: the series
// decomposition of the partial order. Such cuts lie between levels.
std::vector<Levels> split_blocks(const Graph& graph);

// Splits at least two levels in two: in the middle third, where the fewest values cross.
std::pair<Levels, Levels> split_levels(const Graph& graph, const Levels& levels);

}  // namespace top

#endif  // TOP_PASSES_BLOCKS_H_
