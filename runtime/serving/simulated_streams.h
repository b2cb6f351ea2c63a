// The streams of a virtual device: programs of several plans side by side, executed by the rules of
// the worker pool (runtime/worker_pool.h) and timed by the law of the simulator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/plan_data.h"
#include "runtime/simulator.h"
#include "runtime/stream_program.h"

namespace top {

// What a plan does on each of its streams, and what that costs. Immutable.
class SimulatedPlan {
 public:
  struct Step {
    OpForm form;
    double overhead_us;
    double due_us;  // when the plan wants it to start, after its own start
    int call;
    StepRole role;
    bool before_gang;  // this step or a later one of the stream is a gang step
    bool announces;
    std::vector<StreamWait> waits;
  };

  // Of the plan only streams and the calls' stream, threads and waits matter. `costs` has one entry
  // per call. Throws std::invalid_argument when that is not so, or when a call has no such form.
  SimulatedPlan(const PlanData& plan, const std::vector<OpCost>& costs,
                const std::vector<double>& due_us, const Device& device);

  int streams() const { return static_cast<int>(programs_.size()); }
  const std::vector<Step>& program(int stream) const { return programs_[stream]; }
  int num_calls() const { return num_calls_; }

 private:
  std::vector<std::vector<Step>> programs_;
  int num_calls_;
};

// An event simulation. Not thread-safe; plans must outlive their execution.
class SimulatedStreams {
 public:
  explicit SimulatedStreams(int streams);

  // Starts a plan now, its stream i on stream `first_stream` + i. Of the steps that are ready a
  // stream executes that which is due first, of equals that of the plan started first. `delay_us`
  // is spent on every stream before the first step.
  void start(int handle, const SimulatedPlan& plan, int first_stream, double delay_us);
  // Lets time pass until a plan has finished, and returns its handle; or until that moment, and
  // returns -1.
  int run_until(double until_us);
  double now_us() const { return device_.now_us(); }
  // Time that a stream has spent on steps so far.
  double busy_us(int stream) const { return workers_[stream].busy_us; }

 private:
  struct Program {
    const SimulatedPlan* plan = nullptr;
    int handle = 0;
    int first_stream = 0;
    double started_us = 0;
    uint64_t number = 0;
    double delay_us = 0;
    int unfinished = 0;               // streams
    std::vector<size_t> position;     // per stream of the plan
    std::vector<uint32_t> announced;  // per stream of the plan
    std::vector<int> arrived;         // per call: streams that serve the gang call
  };
  struct Worker {
    std::vector<Program*> active;  // in the order in which they were started
    Program* current = nullptr;    // whose step it executes or gathers for
    bool in_kernel = false;
    double busy_since_us = 0;
    double busy_us = 0;
  };

  void issue();
  bool issue(int stream);
  bool ready(const Worker& worker, const Program& program, int stream) const;
  void begin(int stream, Program* program);
  void end_step(int stream);
  void leave(int stream, Program* program);

  SharedDevice device_;
  std::vector<Worker> workers_;
  std::vector<Program*> free_;
  std::vector<int> finished_;                       // handles that run_until() has not returned yet
  std::vector<std::unique_ptr<Program>> programs_;  // all ever made
  uint64_t started_ = 0;
};

}  // namespace top
