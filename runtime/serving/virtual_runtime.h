// The runtime on a device that does not exist: the same queues, launcher and scheduler, driven by a
// virtual clock. Whatever comes out of it is simulated.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "runtime/serving/simulated_streams.h"
#include "runtime/serving/task_scheduler.h"

namespace top {

// A task's whole story, times in microseconds of the virtual clock.
struct TaskRecord {
  int64_t id;
  int model;
  TaskState end;
  double submitted_us;
  double launched_us;  // 0 if it never was
  double finished_us, deadline_us;
};

struct Arrival {
  double time_us;
  int model;
  int priority;
  double deadline_us;  // after the arrival; infinity for none
};

// Not thread-safe.
class VirtualRuntime {
 public:
  // `plans`: by the numbers in the variants' lanes, per model. Throws std::invalid_argument for
  // what does not fit the device or each other.
  VirtualRuntime(VariantSet set, std::vector<std::vector<SimulatedPlan>> plans,
                 const Device& device, size_t queue_size);
  VirtualRuntime(const VirtualRuntime&) = delete;
  VirtualRuntime& operator=(const VirtualRuntime&) = delete;

  // Arrivals in the future, ascending and not before those added earlier. Tasks are numbered in
  // this order, from 0.
  void add_arrivals(const std::vector<Arrival>& arrivals);
  // Lets time pass.
  void run_until(double time_us);
  // Lets time pass until nothing is left to do; returns when that is.
  double drain();
  // Asks for a task to be given up, now.
  void cancel(int64_t id);
  void apply(const Decision& decision) {
    scheduler_.apply(decision, now());
    pump();
  }

  double now_us() const { return streams_.now_us(); }
  Snapshot snapshot() const { return scheduler_.snapshot(now()); }
  const TaskScheduler& scheduler() const { return scheduler_; }
  double busy_us(int stream) const { return streams_.busy_us(stream); }
  // Segments started so far, as a measure of how much was decided.
  uint64_t segments_started() const { return segments_started_; }
  // Tasks that have ended since the last call.
  std::vector<TaskRecord> take_records();

 private:
  struct VirtualTask : Task {
    int64_t id = 0;
    double deadline_us = 0;
  };

  Nanoseconds now() const { return static_cast<Nanoseconds>(1e3 * streams_.now_us()); }
  void arrive(const Arrival& arrival);
  void pump(bool device_is_awake = false);
  int handle(const Instance& instance) const;

  TaskScheduler scheduler_;
  const std::vector<std::vector<SimulatedPlan>> plans_;
  const Device device_;
  SimulatedStreams streams_;
  std::vector<Instance*> by_handle_;
  std::vector<int> first_handle_;  // per model
  std::deque<Arrival> arrivals_;
  std::deque<VirtualTask> tasks_;  // all that may still be asked for; ids from first_id_
  int64_t first_id_ = 0;
  std::vector<Task*> finished_;
  std::vector<Instance*> starts_;
  std::vector<TaskRecord> records_;
  uint64_t segments_started_ = 0;
};

}  // namespace top
