// Local search over priorities: the schedules that list scheduling makes of a priority and a form
// per op, each timed exactly while it is made.
#ifndef TOP_PASSES_PRIORITY_SEARCH_H_
#define TOP_PASSES_PRIORITY_SEARCH_H_

#include <cstdint>

#include "runtime/simulator.h"

namespace top {

struct SearchLimits {
  double max_ms = 100;        // of wall time
  int64_t max_schedules = 0;  // 0: no limit. With a limit the result depends on the seed alone
                              // as long as time suffices.
  double temperature = 0;     // 0: only improvements (and sideways moves); else annealing, from
                              // this fraction of the makespan down to nothing
  uint64_t seed = 0;
};

// Improves a schedule, which must be valid. Returns it unchanged (but for stages) if nothing better
// was found. Deterministic for a seed and limits, but for how far the time goes.
Schedule improve(const Problem& problem, const Schedule& start, const SearchLimits& limits);

}  // namespace top

#endif  // TOP_PASSES_PRIORITY_SEARCH_H_
