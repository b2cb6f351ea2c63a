#include "runtime/serving/simulated_streams.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace top {

SimulatedPlan::SimulatedPlan(const PlanData& plan, const std::vector<OpCost>& costs,
                             const std::vector<double>& due_us, const Device& device)
    : programs_(plan.streams), num_calls_(static_cast<int>(plan.calls.size())) {
  if (costs.size() != plan.calls.size()) {
    throw std::invalid_argument("A plan of " + std::to_string(plan.calls.size()) + " calls has " +
                                std::to_string(costs.size()) + " costs.");
  }
  const std::vector<StreamProgram> programs = make_stream_programs(plan);
  for (int stream = 0; stream < plan.streams; ++stream) {
    for (const StreamStep& step : programs[stream]) {
      const bool gang = step.role != StepRole::kAlone;
      const OpForm form = gang ? costs[step.call].gang : costs[step.call].single;
      if (!std::isfinite(form.time_us)) {
        throw std::invalid_argument("Op '" + plan.calls[step.call].op + "' has no form for " +
                                    std::to_string(plan.calls[step.call].threads) + " threads.");
      }
      const double overhead_us =
          device.dispatch_us + (gang ? device.gang_us : device.wait_us * step.waits.size());
      programs_[stream].push_back({form, overhead_us, due_us.at(step.call), step.call, step.role,
                                   step.before_gang, !step.waiters.empty(), step.waits});
    }
  }
}

SimulatedStreams::SimulatedStreams(int streams) : device_(streams), workers_(streams) {
  device_.reset(0);
}

void SimulatedStreams::start(int handle, const SimulatedPlan& plan, int first_stream,
                             double delay_us) {
  if (first_stream < 0 || first_stream + plan.streams() > static_cast<int>(workers_.size())) {
    throw std::invalid_argument("A plan of " + std::to_string(plan.streams()) +
                                " streams does not fit the device.");
  }
  if (free_.empty()) {
    programs_.push_back(std::make_unique<Program>());
    free_.push_back(programs_.back().get());
  }
  Program* program = free_.back();
  free_.pop_back();
  program->plan = &plan;
  program->handle = handle;
  program->first_stream = first_stream;
  program->started_us = device_.now_us();
  program->number = started_++;
  program->delay_us = delay_us;
  program->unfinished = 0;
  program->position.assign(plan.streams(), 0);
  program->announced.assign(plan.streams(), 0);
  program->arrived.assign(plan.num_calls(), 0);
  for (int stream = 0; stream < plan.streams(); ++stream) {
    if (plan.program(stream).empty()) continue;
    ++program->unfinished;
    workers_[first_stream + stream].active.push_back(program);
  }
  if (program->unfinished == 0) {
    finished_.push_back(handle);
    free_.push_back(program);
  }
}

int SimulatedStreams::run_until(double until_us) {
  for (;;) {
    if (!finished_.empty()) {
      const int handle = finished_.front();
      finished_.erase(finished_.begin());
      return handle;
    }
    issue();
    const int stream = device_.finish_next(until_us);
    if (stream < 0) return -1;
    Worker& worker = workers_[stream];
    if (!worker.in_kernel) {
      const Program& program = *worker.current;
      const int own = stream - program.first_stream;
      worker.in_kernel = true;
      device_.start(stream, program.plan->program(own)[program.position[own]].form);
    } else {
      end_step(stream);
    }
  }
}

void SimulatedStreams::issue() {
  for (bool any = true; any;) {
    any = false;
    for (size_t stream = 0; stream < workers_.size(); ++stream) {
      if (workers_[stream].current == nullptr) any |= issue(static_cast<int>(stream));
    }
  }
}

bool SimulatedStreams::issue(int stream) {
  Worker& worker = workers_[stream];
  Program* first = nullptr;
  double first_us = 0;
  for (Program* program : worker.active) {
    const int own = stream - program->first_stream;
    const double due_us =
        program->started_us + program->plan->program(own)[program->position[own]].due_us;
    if ((first == nullptr || due_us < first_us) && ready(worker, *program, stream)) {
      first = program;
      first_us = due_us;
    }
  }
  if (first == nullptr) return false;
  begin(stream, first);
  return true;
}

bool SimulatedStreams::ready(const Worker& worker, const Program& program, int stream) const {
  const int own = stream - program.first_stream;
  const SimulatedPlan::Step& step = program.plan->program(own)[program.position[own]];
  if (step.role == StepRole::kAlone) {
    return std::all_of(step.waits.begin(), step.waits.end(), [&](const StreamWait& wait) {
      return program.announced[wait.stream] >= wait.count;
    });
  }
  // A gang gathers in the order in which plans were started, on all streams alike.
  return std::all_of(worker.active.begin(), worker.active.end(), [&](const Program* other) {
    if (other->number >= program.number) return true;
    const int theirs = stream - other->first_stream;
    return !other->plan->program(theirs)[other->position[theirs]].before_gang;
  });
}

void SimulatedStreams::begin(int stream, Program* program) {
  const int own = stream - program->first_stream;
  const SimulatedPlan::Step& step = program->plan->program(own)[program->position[own]];
  Worker& worker = workers_[stream];
  worker.current = program;
  worker.busy_since_us = device_.now_us();
  int slot = stream;
  if (step.role != StepRole::kAlone) {
    if (++program->arrived[step.call] < program->plan->streams()) return;
    // The last to arrive is there; the leader's slot stands for all.
    for (int other = 0; other < program->plan->streams(); ++other) {
      const SimulatedPlan::Step& theirs = program->plan->program(other)[program->position[other]];
      if (theirs.role == StepRole::kLeader) slot = program->first_stream + other;
    }
  }
  workers_[slot].in_kernel = false;
  const bool first = program->position[own] == 0;
  device_.start(slot, OpForm{step.overhead_us + (first ? program->delay_us : 0), 0, 0});
}

void SimulatedStreams::end_step(int stream) {
  Program* program = workers_[stream].current;
  const int own = stream - program->first_stream;
  const SimulatedPlan::Step& step = program->plan->program(own)[program->position[own]];
  if (step.role == StepRole::kAlone) {
    if (step.announces) ++program->announced[own];
    leave(stream, program);
    return;
  }
  for (int other = 0; other < program->plan->streams(); ++other) {
    leave(program->first_stream + other, program);
  }
}

void SimulatedStreams::leave(int stream, Program* program) {
  Worker& worker = workers_[stream];
  worker.busy_us += device_.now_us() - worker.busy_since_us;
  worker.current = nullptr;
  worker.in_kernel = false;
  const int own = stream - program->first_stream;
  if (++program->position[own] < program->plan->program(own).size()) return;
  worker.active.erase(std::find(worker.active.begin(), worker.active.end(), program));
  if (--program->unfinished > 0) return;
  finished_.push_back(program->handle);
  free_.push_back(program);
}

}  // namespace top
