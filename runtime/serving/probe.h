// Measurements of a runtime by the calling thread alone, which is its delivery thread meanwhile.
#pragma once

#include <vector>

#include "runtime/serving/live_runtime.h"

namespace top {

// Tasks per second under a backlog: `outstanding` tasks, of all models in turn, are kept submitted
// for that time, of which the first fifth does not count. `inputs` are those of a task of each
// model. Throws std::runtime_error if a task fails.
double measure_capacity(LiveRuntime& runtime, const std::vector<std::vector<const void*>>& inputs,
                        int outstanding, double seconds);

// Microseconds from the submission of a task that is alone to the hand-over of its outputs.
// Throws std::runtime_error if a task fails.
std::vector<double> time_lone_tasks(LiveRuntime& runtime, int model,
                                    const std::vector<const void*>& inputs, int warmup,
                                    int repeats);

}  // namespace top
