// What each stream does in a run: the plan cut into one list of steps per stream.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/plan_data.h"

namespace top {

// Waiting for another stream until it has announced `count` of its steps.
struct StreamWait {
  int stream;
  uint32_t count;
};

enum class StepRole { kAlone, kLeader, kMember };

struct StreamStep {
  int call;
  StepRole role;     // leader and members: of a gang call, which is a step of every stream
  bool before_gang;  // this step or a later one of the stream is a gang step
  std::vector<StreamWait> waits;
  std::vector<int> waiters;  // streams that wait for this step; it is announced if there are any
};

using StreamProgram = std::vector<StreamStep>;

// The calls of each stream in issue order. Waits that stream order or a gang call already imply are
// dropped, several waits for one stream become one.
std::vector<StreamProgram> make_stream_programs(const PlanData& plan);

}  // namespace top
