// The runtime on a device that does not exist: the same queues, launcher and scheduler, driven by a
// virtual clock. Whatever comes out of it is simulated.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "runtime/serving/task_scheduler.h"
#include "runtime/serving/virtual_device.h"

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
  // On an OpDevice, which throws std::invalid_argument for bad plans.
  VirtualRuntime(VariantSet set, std::vector<std::vector<SimulatedPlan>> plans,
                 const Device& device, size_t queue_size);
  // On a SegmentDevice.
  VirtualRuntime(VariantSet set, double wake_us, size_t queue_size);
  VirtualRuntime(const VirtualRuntime&) = delete;
  VirtualRuntime& operator=(const VirtualRuntime&) = delete;

  // Arrivals in the future, ascending and not before those added earlier. Tasks are numbered in
  // this order, from 0.
  void add_arrivals(const std::vector<Arrival>& arrivals);
  // Lets time pass, until then or, if that is wanted, until tasks have ended.
  void run_until(double time_us, bool until_ended = false);
  // Lets time pass until nothing is left to do; returns when that is.
  double drain();
  // Asks for a task to be given up, now.
  void cancel(int64_t id);
  void apply(const Decision& decision) {
    scheduler_.apply(decision, now());
    pump();
  }

  // A device that becomes slower, or faster again. Throws std::logic_error for one of ops.
  void set_speed(double speed);

  double now_us() const { return device_->now_us(); }
  void keep_segments(size_t count) { scheduler_.log().keep(count); }
  std::vector<SegmentRun> segments() { return scheduler_.log().runs(); }
  Snapshot snapshot() const { return scheduler_.snapshot(now()); }
  const TaskScheduler& scheduler() const { return scheduler_; }
  double busy_us(int stream) const { return device_->busy_us(stream); }
  // Segments started so far, as a measure of how much was decided.
  uint64_t segments_started() const { return segments_started_; }
  // Tasks that have ended since the last call.
  std::vector<TaskRecord> take_records();

 private:
  struct VirtualTask : Task {
    int64_t id = 0;
    double deadline_us = 0;
  };

  VirtualRuntime(VariantSet set, size_t queue_size);
  Nanoseconds now() const { return static_cast<Nanoseconds>(1e3 * now_us()); }
  void arrive(const Arrival& arrival);
  void pump(bool device_is_awake = false);
  int handle(const Instance& instance) const;

  TaskScheduler scheduler_;
  std::unique_ptr<VirtualDevice> device_;
  SegmentDevice* of_segments_ = nullptr;  // the same, if it is one
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
