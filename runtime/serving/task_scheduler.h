// The model scheduler: which tasks are in flight, where each of them is, and what starts next.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/serving/forecast.h"
#include "runtime/serving/launcher.h"
#include "runtime/serving/segment_log.h"
#include "runtime/serving/statistics.h"
#include "runtime/serving/task.h"
#include "runtime/serving/task_queue.h"
#include "runtime/serving/variant.h"

namespace top {

// Tasks of one model that go through its segments together, as one batch.
struct Instance {
  int slot = 0;  // of this model: 0 .. TaskScheduler::slots(model) - 1
  int model = 0;
  int variant = 0;             // under which it was launched, for good
  int batch = 0;               // index of the batch size
  int segment = 0;             // where it is, or where it wants to go
  int lane = -1;               // which it occupies; -1 while it waits for one
  uint64_t number = 0;         // in order of launches
  Nanoseconds entered_ns = 0;  // its segment
  std::vector<Task*> tasks;
};

// What the launcher and the scheduler are told to do, by whatever controls them.
struct Decision {
  int variant = 0;
  std::vector<double> frequency;  // per model: tasks per period; infinity: no limit
};

// What decisions are made from.
struct ModelSnapshot {
  size_t queued = 0;
  int in_flight = 0;     // tasks
  double oldest_us = 0;  // age of the task that is next
  double slack_us = 0;   // until its deadline; infinity if it has none
  double short_rate_per_s = 0, long_rate_per_s = 0;
  double variation = 1;  // of the times between arrivals
  double frequency = 0;
  std::vector<int> occupancy;   // instances per segment of the current variant
  double mean_deadline_us = 0;  // time that recent tasks were given; infinity if none
};

struct Snapshot {
  Nanoseconds now_ns = 0;
  int variant = 0;
  double since_switch_us = 0;
  // Of every variant: device time per predicted device time, under a backlog.
  std::vector<double> pace;
  std::vector<ModelSnapshot> models;
};

// A state machine: it knows neither threads nor clocks nor devices. Whoever drives it serialises
// the calls, says what time it is, executes what pump() returns and reports back. Nothing allocates
// after construction, apart from lists that grow to the number of tasks in flight.
//
// * Tasks are launched by Launcher's choice; several of one model as a batch, if that takes less
//   time per task.
// * An instance enters a segment when it has finished the one before and a lane of it is free.
//   Instances of other variants than the current one go on as they began.
// * The instances of a model in flight are never more than the current variant has places (lanes
//   times segments), nor all of them more than its limit.
// * A task that is alone (nothing in flight, nothing else queued) gets the plan of least latency.
// * A task whose deadline cannot be met by what is known is expired when it is submitted, or when
//   its turn comes, before any work is done for it.
class TaskScheduler {
 public:
  // Throws std::invalid_argument for bad variants.
  TaskScheduler(VariantSet set, size_t queue_size);
  TaskScheduler(const TaskScheduler&) = delete;
  TaskScheduler& operator=(const TaskScheduler&) = delete;

  // The task's model, priority and deadline must be set and valid. If it is queued, which its state
  // then says, the scheduler has it until take_finished() returns it. If not, it is rejected or
  // expired already.
  TaskState submit(Task* task, Nanoseconds now);
  // What submit() would do first, for tasks that are not worth preparing: whether the queue is
  // full, and counting a task that is refused for that.
  bool full(int model) const { return models_[model].queue.full(); }
  TaskState reject(int model, Nanoseconds now);
  // A queued task becomes final; one that runs is given up when its segment ends.
  void cancel(Task* task, Nanoseconds now);
  // The instance's segment was executed. `failed`: a kernel raised an error, and its tasks fail.
  void segment_finished(Instance* instance, bool failed, Nanoseconds now);
  // Whatever can start now, in the order of its urgency: each has got a lane of its segment.
  void pump(Nanoseconds now, std::vector<Instance*>* starts);
  // Appends the tasks that have become final since the last call.
  void take_finished(std::vector<Task*>* tasks);
  // The client has been handed what became of such a task: predictions learn from it.
  void delivered(const Task& task, Nanoseconds now);
  // Takes effect at the next pump(). Throws std::invalid_argument for what does not exist.
  void apply(const Decision& decision, Nanoseconds now);
  // Gives up all queued tasks.
  void cancel_queued(Nanoseconds now);

  Snapshot snapshot(Nanoseconds now) const;
  const ModelStatistics& statistics(int model) const { return models_[model].statistics; }
  const VariantSet& variants() const { return set_; }
  // Instances of the model that can ever be in flight at a time.
  int slots(int model) const { return static_cast<int>(models_[model].instances.size()); }
  const Instance& instance(int model, int slot) const { return *models_[model].instances[slot]; }
  SegmentLog& log() { return log_; }
  size_t queued() const { return queued_; }
  int in_flight() const { return in_flight_; }

 private:
  struct Model {
    explicit Model(size_t queue_size) : queue(queue_size) {}
    TaskQueue queue;
    std::vector<std::unique_ptr<Instance>> instances;
    std::vector<Instance*> free;
    int in_flight = 0;  // instances
    int tasks_in_flight = 0;
    double mean_deadline_us = 0;  // exponentially weighted; 0: no task with a deadline yet
    ModelStatistics statistics;
  };

  const ModelVariant& shape(const Instance& instance) const;
  double work_per_task_us(int model) const;
  double expected_us(const Task& task, Nanoseconds now) const;
  double wait_us(const Task& task) const;
  bool alone() const;
  int next_variant() const;
  double predicted_us(int model, int variant, int batch, Nanoseconds now) const;
  bool enter(Instance* instance, Nanoseconds now, std::vector<Instance*>* starts);
  bool has_place(int model) const;
  void expire_fronts(Nanoseconds now);
  bool gives_up(const Task& task, const Task* next, Nanoseconds now) const;
  bool launch(Nanoseconds now, std::vector<Instance*>* starts);
  int choose_batch(int model, int variant) const;
  void drop_cancelled(Instance* instance, Nanoseconds now);
  void finish_instance(Instance* instance, TaskState state, Nanoseconds now);
  void finish(Task* task, TaskState state, Nanoseconds now);
  void observe_pace(const Instance& instance, Nanoseconds now);

  const VariantSet set_;
  std::vector<Model> models_;
  Launcher launcher_;
  // [variant][model][segment]: in the order in which they became free
  std::vector<std::vector<std::vector<std::vector<int>>>> free_lanes_;
  std::vector<Instance*> waiting_;  // for a lane of their next segment, by number
  std::vector<Task*> finished_;
  std::vector<const Task*> fronts_;  // scratch of launch()
  int current_ = 0;
  Nanoseconds switched_ns_ = 0;
  uint64_t launches_ = 0;
  size_t queued_ = 0;
  int in_flight_ = 0;  // instances
  int executing_ = 0;  // instances that occupy a lane
  Forecast forecast_;
  SegmentLog log_;
  Nanoseconds backlog_since_ns_ = kNever;  // start of the interval that observe_pace() measures
};

}  // namespace top
