// Stages: the staged view of a schedule that greedy and ios build, and its cost.
#ifndef TOP_PASSES_STAGES_H_
#define TOP_PASSES_STAGES_H_

#include <vector>

#include "runtime/simulator.h"

namespace top {

// Groups that run concurrently, each a list of ops in topological order in single-stream form. A
// stage with one group is *sequential*: it runs on stream 0, every op in its faster form. Groups
// are ordered by their first ops; those that share a stream run in this order.
struct Stage {
  std::vector<std::vector<int>> groups;
};

// Packs groups onto streams, longest first onto the least loaded stream (LPT): the stream of each
// group. `group_us` holds the groups' times. Ties go to the earlier group and the lower stream.
std::vector<int> pack_groups(const std::vector<double>& group_us, int streams);

// What a barrier in front of a stage costs: every stream waits for every other one.
double barrier_us(const Device& device);

// Times a stage whose groups run concurrently, from an idle device. Owns scratch memory, so that a
// search that asks many times does not allocate; not for use by two threads at once.
class StageTimer {
 public:
  explicit StageTimer(const Problem& problem);

  // `streams` holds the ops of each stream in order, one entry per stream of the device.
  double concurrent_us(const std::vector<std::vector<int>>& streams);

 private:
  const Problem& problem_;
  SharedDevice device_;
  std::vector<size_t> next_;
  std::vector<char> in_kernel_;
};

// The objective that ios minimises exactly: run_us, plus every stage's time from an idle device,
// plus a barrier between consecutive stages, except between two that each have one group, on one
// stream, because those are one sequential run. The schedule must be valid; throws
// std::invalid_argument for a gang call in a stage of several groups, which the staged model does
// not know.
double staged_objective(const Problem& problem, const Schedule& schedule);

// The schedule that executes the stages. Neighbouring sequential stages become one. The streams of
// a stage are numbered so that groups stay, as far as possible, where their inputs were computed.
Schedule schedule_stages(const Problem& problem, const std::vector<Stage>& stages);

}  // namespace top

#endif  // TOP_PASSES_STAGES_H_
