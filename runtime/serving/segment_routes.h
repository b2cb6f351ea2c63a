// Where the segments of an instance find what they read, and leave what they write.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "runtime/plan_data.h"

namespace top {

// An input or output of a model, as one task has it.
struct BoundaryTensor {
  std::string name;
  size_t nbytes;
};

// Memory of an instance that a segment's plan is bound to.
struct Place {
  enum class Kind { kInput, kOutput, kBetween } kind;
  int index;      // of the model's input or output
  size_t offset;  // in the memory between segments
};

struct SegmentRoute {
  std::vector<Place> inputs;  // as the plan lists them
  std::vector<Place> outputs;
};

struct Routes {
  std::vector<SegmentRoute> segments;
  size_t between_bytes = 0;  // values that pass from one segment to another
  size_t arena_bytes = 0;    // the largest of any segment's
};

// Links the plans of a model's segments by the names of their inputs and outputs, for instances of
// `tasks` tasks. Offsets are multiples of 64 and depend on names and sizes only.
//
// Throws std::invalid_argument, naming the tensor, where a plan reads what nothing has written, an
// output of the model is missing or written twice, or a size does not fit.
Routes link_segments(const std::vector<const PlanData*>& plans,
                     const std::vector<BoundaryTensor>& inputs,
                     const std::vector<BoundaryTensor>& outputs, int tasks);

}  // namespace top
