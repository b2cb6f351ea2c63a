#include "runtime/serving/probe.h"

#include <chrono>
#include <stdexcept>

namespace top {
namespace {

constexpr std::chrono::seconds kPatience{60};

void submit(LiveRuntime& runtime, int model, const std::vector<const void*>& inputs) {
  Ticket ticket{0, 0};
  if (runtime.submit(model, inputs, 0, kNever, nullptr, &ticket) != TaskState::kQueued) {
    throw std::runtime_error("The runtime refuses a task while it is measured.");
  }
}

// Waits for tasks, gives them back, and returns how many there were.
size_t receive(LiveRuntime& runtime, std::vector<LiveTask*>& tasks) {
  tasks.clear();
  runtime.wait_finished(&tasks, kPatience);
  std::string failure;
  for (const LiveTask* task : tasks) {
    if (task->state != TaskState::kCompleted) failure = "A task did not end: " + task->failure;
  }
  runtime.recycle(tasks);
  if (tasks.empty()) failure = "A task does not end.";
  if (!failure.empty()) throw std::runtime_error(failure);
  return tasks.size();
}

}  // namespace

double measure_capacity(LiveRuntime& runtime, const std::vector<std::vector<const void*>>& inputs,
                        int outstanding, double seconds) {
  std::vector<LiveTask*> tasks;
  const Nanoseconds start = LiveRuntime::now();
  const auto duration = static_cast<Nanoseconds>(1e9 * seconds);
  Nanoseconds first = 0, last = 0;
  size_t waiting = 0, counted = 0, model = 0;
  for (bool going = true; going || waiting > 0;) {
    for (; going && waiting < static_cast<size_t>(outstanding); ++waiting) {
      submit(runtime, static_cast<int>(model), inputs[model]);
      model = (model + 1) % inputs.size();
    }
    const size_t ended = receive(runtime, tasks);
    waiting -= ended;
    const Nanoseconds time = LiveRuntime::now();
    if (!going) continue;
    if (first != 0) {
      counted += ended;
      last = time;
    } else if (time - start >= duration / 5) {
      first = time;
    }
    going = time - start < duration || counted == 0;
  }
  return static_cast<double>(counted) / (1e-9 * static_cast<double>(last - first));
}

std::vector<double> time_lone_tasks(LiveRuntime& runtime, int model,
                                    const std::vector<const void*>& inputs, int warmup,
                                    int repeats) {
  std::vector<LiveTask*> tasks;
  std::vector<double> times_us;
  for (int i = 0; i < warmup + repeats; ++i) {
    const Nanoseconds start = LiveRuntime::now();
    submit(runtime, model, inputs);
    receive(runtime, tasks);
    if (i >= warmup) times_us.push_back(1e-3 * static_cast<double>(LiveRuntime::now() - start));
  }
  return times_us;
}

}  // namespace top
