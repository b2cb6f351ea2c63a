// The worker threads of the process: one per allowed core, pinned, shared by every executable.
//
// Several programs, a program being one stream of one job, are active on a worker at a time. It
// always executes the next step that may run of the *oldest* program, and looks at younger ones
// only where the older ones must wait. Jobs enter the lists of all their workers in one atomic
// step, so that all workers agree which of two jobs is the older one.
//
// Gang steps block the workers of a job until all have come. The gang rule: a worker enters one
// only if no older job that is active on it has gang steps left. That no jobs wait for each other
// in a circle is seen thus. Let K be the oldest job with gang steps left. By the rule none of its
// workers that still has such a step ahead is inside a gang of a younger job, and older jobs have
// no gangs. So its workers only execute single steps, which end, and K's first step in issue order
// that is not done, whose waits are all done, is executed in the end: K passes its gangs. Where no
// job has gang steps left no worker is blocked at all, and the first step of the oldest job is
// executed.
#pragma once

#include <atomic>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/stream_job.h"
#include "runtime/waiting.h"

namespace top {

// In place of a worker: the stream has no steps and takes no part.
constexpr int kNoWorker = -1;

// A job to start and the worker of each of its streams: all different, at least one.
struct Launch {
  StreamJob* job;
  const std::vector<int>* workers;
};

// What a worker was doing when it was asked. The job is null if it was idle; otherwise it may be
// gone already, so use the pointer only to compare it, or with jobs that are known to live on. A
// worker whose number of attempts has not changed since it was last asked has been inside the same
// step all the time.
struct Activity {
  const StreamJob* job;
  int stream;
  uint64_t attempts;  // to execute a step
  int64_t busy_ns;    // time with programs so far, since the worker was made
};

// Any thread may call the public methods, except that workers of the pool must not wait for it:
// they may call start, size and activity, and must not drop the last reference.
class WorkerPool {
 public:
  // The pool of this process with at least `streams` workers; created or grown when needed, and
  // created anew in a child after fork(), where the threads of the parent do not exist.
  static std::shared_ptr<WorkerPool> of_process(int streams);
  // Joins the workers after the jobs in progress; a later run creates a new pool.
  static void shut_down();

  // Starts jobs, the first being the oldest, and returns at once. Each lives until it has finished
  // and is not started again before. Throws std::invalid_argument, with nothing started, where
  // workers do not exist or serve two streams of one job.
  void start(const std::vector<Launch>& launches);
  void start(StreamJob& job, const std::vector<int>& workers) { start({Launch{&job, &workers}}); }

  // Starts the job on the `streams` least loaded workers and returns when it has finished.
  void run(StreamJob& job, int streams);

  int size();
  // Of every worker.
  std::vector<Activity> activity();
  ~WorkerPool();

 private:
  struct Program {
    StreamJob* job;
    int stream;
  };
  struct Worker {
    std::thread thread;
    std::vector<Program> entered;  // and not yet seen by the worker; guarded by mutex_
    // Written by others when jobs start, and by the worker when it sleeps or finishes a program.
    alignas(64) Sleeper sleeper;
    std::atomic<bool> has_entered{false};
    std::atomic<int> load{0};  // programs
    // Written by the worker at every step. See Activity.
    alignas(64) std::atomic<const StreamJob*> job{nullptr};
    std::atomic<int> stream{0};
    std::atomic<uint64_t> attempts{0};
    // Nanoseconds with programs before, and since when there are some again; 0 without any.
    std::atomic<int64_t> busy_ns{0};
    std::atomic<int64_t> busy_since_ns{0};
  };

  WorkerPool() = default;
  void grow(int workers);
  // With mutex_ held. Appends whom to wake once it is released.
  void enter(const Launch& launch, Latch* waiting_client, std::vector<Sleeper*>& to_wake);
  void check(const Launch& launch) const;
  std::vector<int> least_loaded(int count) const;

  // Of the worker's thread; `active` are its programs, the oldest first.
  void work(Worker& worker, int index);
  bool take_entered(Worker& worker, std::vector<Program>& active);
  bool execute_oldest(Worker& worker, std::vector<Program>& active) noexcept;
  void finish_stream(StreamJob& job) noexcept;

  std::mutex mutex_;
  std::vector<std::unique_ptr<Worker>> workers_;  // guarded by mutex_
  std::atomic<int> first_polling_{INT_MAX};       // idle workers from this one on poll
  std::atomic<int> unfinished_jobs_{0};
  std::atomic<bool> stopping_{false};
};

// Guards what a child process must find in a consistent state: held while fork() copies the
// process, so never hold it while waiting. Used for the pool of the process, the free lists of
// execution contexts and the shared library kernels.
std::mutex& fork_guard();
// How many forks lie between the first process and this one; guarded by fork_guard().
uint64_t fork_generation();

// Numbers of the cores this process may use.
std::vector<int> allowed_cores();

}  // namespace top
