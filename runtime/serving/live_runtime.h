// The asynchronous runtime: tasks are submitted from any thread and executed by the worker pool.
//
// Threads. Clients submit, cancel and look; whoever changes what can run starts it, be that a
// client or a worker whose segment has just ended: there is no thread that schedules. One more
// thread, whose business it is to tell clients, takes the tasks that have ended. One mutex guards
// all decisions; nothing is copied, executed or waited for while it is held.
//
// Memory. A task has memory for its inputs, which are copied once, at submission. An instance in
// flight has an arena and memory for values between its segments, made when the runtime is. Outputs
// are written where clients will read them, and go back to a pool when clients drop them.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/execution_context.h"
#include "runtime/executor.h"
#include "runtime/serving/memory_block.h"
#include "runtime/serving/segment_routes.h"
#include "runtime/serving/task_scheduler.h"
#include "runtime/worker_pool.h"

namespace top {

struct ServedModel {
  std::vector<std::shared_ptr<Executor>> plans;  // by their numbers in Lane::plans
  std::vector<BoundaryTensor> inputs, outputs;   // of one task
};

// A task that a client may have a hand on. Slots are used again; `generation` tells their tasks.
struct LiveTask : Task {
  uint32_t slot = 0;
  uint32_t generation = 0;
  void* client = nullptr;  // whatever submit() was given
  std::vector<char*> inputs;
  BlockReference input_memory;
  BlockReference output_memory;      // of the whole instance
  std::vector<const char*> outputs;  // in it; valid if the task is completed
  std::string failure;
};

// What identifies a task; never used again.
struct Ticket {
  uint32_t slot;
  uint32_t generation;
};

// A worker that has been inside one step for long.
struct StuckWorker {
  int worker;
  std::string model;
  std::string op;
  double since_s;
};

class LiveRuntime {
 public:
  // Throws std::invalid_argument where plans do not link up (segment_routes.h) or do not fit the
  // streams, std::bad_alloc.
  LiveRuntime(VariantSet set, std::vector<ServedModel> models, int streams, size_t queue_size);
  // After close(), when nothing is in flight.
  ~LiveRuntime();
  LiveRuntime(const LiveRuntime&) = delete;
  LiveRuntime& operator=(const LiveRuntime&) = delete;

  // Any thread but workers.
  //
  // Copies the inputs, one pointer each, and takes over `client`, which wait_finished() gives back,
  // if the returned state is kQueued. kCancelled: the runtime is closed.
  TaskState submit(int model, const std::vector<const void*>& inputs, int priority,
                   Nanoseconds deadline_ns, void* client, Ticket* ticket);
  // Whether the task was still waiting; it has ended then. One that runs is asked to end early.
  bool cancel(Ticket ticket);
  void apply(const Decision& decision);
  Snapshot snapshot();
  std::vector<ModelStatistics> statistics();
  // The latest `count` segments are kept from now on.
  void keep_segments(size_t count);
  std::vector<SegmentRun> segments();
  size_t in_flight();
  // Refuses tasks from now on; gives up those that wait if `cancel_queued`.
  void close(bool cancel_queued);
  // Whether all tasks have ended, and recycle() has had them, before that time.
  bool wait_idle(std::chrono::nanoseconds timeout);

  // One thread.
  //
  // Appends tasks that have ended, waiting for the first; none if the time is over. They must come
  // back by recycle().
  void wait_finished(std::vector<LiveTask*>* tasks, std::chrono::nanoseconds timeout);
  void recycle(const std::vector<LiveTask*>& tasks);
  // Workers that have not finished a step for so long. To be asked about once a second.
  std::vector<StuckWorker> stuck_workers(double longer_than_s);
  // Tasks in flight, which their workers will never finish: their client pointers, which are taken
  // from the runtime. It must never be destroyed afterwards.
  std::vector<void*> abandon();

  // Seconds that each stream's worker has had something to execute, since the runtime was made;
  // other runtimes and executables on the same workers count, too.
  std::vector<double> busy_s();

  // Bytes of instances in flight, of inputs when the queues are full, and of outputs in flight.
  size_t memory_bytes() const { return memory_bytes_; }
  const VariantSet& variants() const { return scheduler_.variants(); }
  const ServedModel& model(int index) const { return models_[index]; }
  static Nanoseconds now();

 private:
  // What an instance in one lane and segment executes. At most one at a time does.
  struct Station {
    std::unique_ptr<ExecutionContext> context;
    std::vector<int> workers;
  };
  // What an instance of one batch size in one lane goes through.
  struct LanePath {
    Routes routes;
    std::vector<Station> segments;
  };
  struct InstanceMemory {
    char* base = nullptr;  // arena, then values between segments, then inputs of a batch
    BlockReference outputs;
  };
  struct Watched {
    uint64_t attempts = 0;
    Nanoseconds since_ns = 0;
  };

  void build_paths();
  LanePath make_path(const Variant& variant, size_t model, size_t batch, const Lane& lane);
  void allocate_instances();
  LanePath& path(const Instance& instance);
  LiveTask* take_slot(int model);
  void collect_finished();
  // Starts the instances; what can start where one of them fails is appended, and started, too.
  void start(std::vector<Instance*>& instances);
  bool prepare(Instance* instance);
  void fail(Instance* instance, const std::string& why, std::vector<Instance*>* starts);
  void bind_outputs(Instance* instance);
  void segment_finished(Instance* instance, const ExecutionContext& context);

  std::vector<ServedModel> models_;
  const int streams_;
  const std::shared_ptr<WorkerPool> pool_;
  std::vector<int64_t> busy_before_ns_;  // per worker, when the runtime was made
  size_t memory_bytes_ = 0;

  // Immutable after construction: [variant][model][batch size][lane].
  std::vector<std::vector<std::vector<std::vector<LanePath>>>> paths_;
  std::map<const StreamJob*, int> model_of_job_;         // of all contexts in paths_
  std::vector<size_t> arena_bytes_, between_bytes_;      // per model: the most of any variant
  std::vector<std::shared_ptr<BlockPool>> input_pools_;  // per model
  std::vector<std::vector<std::shared_ptr<BlockPool>>> output_pools_;  // per model and batch size
  std::vector<std::unique_ptr<char, void (*)(void*)>> allocations_;
  std::vector<std::vector<InstanceMemory>> instances_;  // per model and slot

  std::mutex mutex_;  // guards everything below
  TaskScheduler scheduler_;
  std::deque<LiveTask> slots_;
  std::vector<LiveTask*> free_slots_;
  const size_t most_slots_;
  std::vector<Task*> ended_;  // scratch of collect_finished()
  std::vector<LiveTask*> finished_;
  size_t undelivered_ = 0;  // ended, and not recycled
  bool closed_ = false;
  bool delivery_waits_ = false;
  std::condition_variable delivery_, idle_;
  std::vector<Watched> watched_;  // per worker
};

}  // namespace top
