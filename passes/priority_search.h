// Local search over priorities: the schedules that list scheduling makes of a priority and a form
// per op, each timed exactly while it is made; and, if that leads nowhere, with ops that wait for
// others and streams that are kept for ops.
#ifndef TOP_PASSES_PRIORITY_SEARCH_H_
#define TOP_PASSES_PRIORITY_SEARCH_H_

#include "passes/search_limits.h"
#include "runtime/simulator.h"

namespace top {

// Improves a schedule, which must be valid. Returns it unchanged (but for stages) if nothing better
// was found. The temperature is relative to the mean time per op. Deterministic for a seed and
// limits, but for how far the time goes.
Schedule improve(const Problem& problem, const Schedule& start, const SearchLimits& limits);

}  // namespace top

#endif  // TOP_PASSES_PRIORITY_SEARCH_H_
