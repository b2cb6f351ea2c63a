// Beam search over rollouts: a baseline that the learned partitioner is compared with, no
// partitioner of its own.
#ifndef TOP_PASSES_BEAM_H_
#define TOP_PASSES_BEAM_H_

#include "runtime/simulator.h"

namespace top {

struct BeamLimits {
  int width = 16;       // states kept per step, at most
  int candidates = 4;   // ready ops tried from each state, the most urgent ones
  double max_ms = 1e9;  // of wall time
};

// Widths 1, 2, 4, ... up to `width` are searched until the time is up, and the best schedule of all
// is returned, so that neither more width nor more time makes it worse. Width 1 is always
// completed. Deterministic, but for how far the time goes. Throws std::invalid_argument for a limit
// that leaves nothing to search.
Schedule partition_beam(const Problem& problem, const BeamLimits& limits);

}  // namespace top

#endif  // TOP_PASSES_BEAM_H_
