#include "runtime/stream_program.h"

#include <algorithm>
#include <set>

namespace top {

std::vector<StreamProgram> make_stream_programs(const PlanData& plan) {
  const int num_calls = static_cast<int>(plan.calls.size());
  const auto is_gang = [&](int call) { return plan.streams > 1 && plan.calls[call].threads > 1; };

  // Waits that are really needed, and who has to announce.
  std::vector<std::vector<int>> waits(num_calls);
  std::vector<std::set<int>> waiters(num_calls);  // streams
  int last_gang = -1;
  for (int call = 0; call < num_calls; ++call) {
    if (is_gang(call)) {
      last_gang = call;  // starts after everything before it on every stream
      continue;
    }
    for (int other : plan.calls[call].waits) {
      if (other <= last_gang || plan.calls[other].stream == plan.calls[call].stream) continue;
      waits[call].push_back(other);
      waiters[other].insert(plan.calls[call].stream);
    }
  }

  std::vector<StreamProgram> programs(plan.streams);
  std::vector<uint32_t> announced(plan.streams, 0);  // so far, per stream
  std::vector<uint32_t> count_after(num_calls, 0);   // announced by the stream after this call
  for (int call = 0; call < num_calls; ++call) {
    const int stream = plan.calls[call].stream;
    if (is_gang(call)) {
      for (int member = 0; member < plan.streams; ++member) {
        const StepRole role = member == stream ? StepRole::kLeader : StepRole::kMember;
        programs[member].push_back({call, role, true, {}, {}});
      }
      continue;
    }
    std::vector<uint32_t> needed(plan.streams, 0);
    for (int other : waits[call]) {
      uint32_t& count = needed[plan.calls[other].stream];
      count = std::max(count, count_after[other]);
    }
    StreamStep step{call, StepRole::kAlone, call < last_gang, {}, {}};
    for (int other = 0; other < plan.streams; ++other) {
      if (needed[other] != 0) step.waits.push_back({other, needed[other]});
    }
    step.waiters.assign(waiters[call].begin(), waiters[call].end());
    count_after[call] = announced[stream] += step.waiters.empty() ? 0 : 1;
    programs[stream].push_back(std::move(step));
  }
  return programs;
}

}  // namespace top
