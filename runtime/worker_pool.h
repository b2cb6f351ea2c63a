// The worker threads of the process: one per allowed core, pinned, shared by every executable.
#pragma once

#include <atomic>
#include <climits>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/waiting.h"

namespace top {

// What a run executes: a body, called once per stream, each time on another worker. The streams of
// one run are concurrent and may wait for each other.
class StreamJob {
 public:
  virtual void run_stream(int stream) noexcept = 0;

 protected:
  ~StreamJob() = default;
};

// Any thread may call the public methods, except a worker of the pool.
class WorkerPool {
 public:
  // The pool of this process with at least `streams` workers; created or grown when needed, and
  // created anew in a child after fork(), where the threads of the parent do not exist.
  static std::shared_ptr<WorkerPool> of_process(int streams);
  // Joins the workers after the runs in progress; a later run creates a new pool.
  static void shut_down();

  // Runs the job on `streams` workers and returns when all of them are done. Jobs enter the queues
  // of all their workers in one atomic step: whichever job is oldest is at the head of every queue
  // it is in, hence jobs never wait for each other in a circle.
  void run(StreamJob& job, int streams);

  int size();
  ~WorkerPool();

 private:
  // One run, on the stack of the client that waits for it.
  struct Run {
    StreamJob& job;
    std::atomic<int> unfinished;  // streams
    Latch finished;
  };
  struct Worker {
    std::deque<std::pair<Run*, int>> queue;  // runs and their streams; guarded by mutex_
    bool busy = false;                       // guarded by mutex_
    Counter submitted;
    std::thread thread;
  };

  WorkerPool() = default;
  void grow(int workers);
  void work(Worker& worker, int index);
  void submit(Run& run, int streams);

  std::mutex mutex_;
  std::vector<std::unique_ptr<Worker>> workers_;  // guarded by mutex_
  std::atomic<int> first_polling_{INT_MAX};       // workers from this one on poll between runs
};

// Guards what a child process must find in a consistent state: held while fork() copies the
// process, so never hold it while waiting. Used for the pool of the process and the free lists of
// execution contexts.
std::mutex& fork_guard();
// How many forks lie between the first process and this one; guarded by fork_guard().
uint64_t fork_generation();

// Numbers of the cores this process may use.
std::vector<int> allowed_cores();

}  // namespace top
