// The partitioners: each turns a problem into a schedule. They expect a problem that passes
// validate_problem, keep no state and may be called from any thread.
#ifndef TOP_PASSES_PARTITION_H_
#define TOP_PASSES_PARTITION_H_

#include <cstdint>

#include "runtime/simulator.h"

namespace top {

// One op after the other, each in its faster form: one stage with one group, because nothing in it
// is ever waited for.
Schedule partition_sequential(const Problem& problem);

// Wavefront: a stage is everything that is ready. Its ops are groups of their own, packed onto the
// streams by LPT, unless executing them one after the other, gang forms included, is faster.
Schedule partition_greedy(const Problem& problem);

// Critical-path list scheduling without barriers, moldable; see list.cc.
Schedule partition_list(const Problem& problem);

// How far ios searches. Zero means no limit; without limits it is exact for graphs whose blocks
// have at most 128 ops (see ios.cc for blocks).
struct IosLimits {
  int max_group_ops = 3;  // r of the IOS paper: ops per concurrent group
  int max_groups = 8;     // s of the IOS paper: groups per stage
  // Stages tried, for the whole graph. A block that needs more than its share is split in two.
  int64_t max_stages = 500'000;
};

// Dynamic programming over down-sets; minimises staged_objective. See ios.cc.
Schedule partition_ios(const Problem& problem, const IosLimits& limits);

}  // namespace top

#endif  // TOP_PASSES_PARTITION_H_
