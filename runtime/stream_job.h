// What workers execute: jobs of concurrent streams that advance step by step.
#pragma once

#include <atomic>
#include <vector>

#include "runtime/waiting.h"

namespace top {

// What a call of StreamJob::advance did.
enum class Progress {
  kStepped,            // executed a step; there are more
  kBlocked,            // nothing: the next step must wait, and no gang step is left
  kBlockedBeforeGang,  // nothing: the next step must wait, and a gang step is left
  kDone,               // executed the last step, or found none
};

// A job has one or more streams of steps; each stream advances on a worker of its own and is never
// advanced by two threads at once. A step may wait for steps of other streams; a gang step is one
// of all streams together, in which their workers block until all have come (see team.h).
//
// Subclasses are called by workers; whoever started a job leaves it alone until it has finished.
class StreamJob {
 public:
  // Executes the next step of the stream if everything it waits for is done; never blocks, but in a
  // gang step, which it must not enter unless `may_enter_gang`.
  virtual Progress advance(int stream, bool may_enter_gang) noexcept = 0;

  // Called once, by the worker that finished the last stream. No worker touches the job after that:
  // it may start jobs, this one included, and may end the life of this one.
  virtual void finished() noexcept {}

 protected:
  StreamJob() = default;
  ~StreamJob() = default;
  StreamJob(const StreamJob&) = delete;
  StreamJob& operator=(const StreamJob&) = delete;

  // Makes the stream look again at what it waits for: to be called by one that has just changed
  // that, with a sequentially consistent operation.
  void wake(int stream) noexcept { sleepers_[stream]->wake(); }

 private:
  friend class WorkerPool;
  // Set when the job starts.
  std::atomic<int> unfinished_{0};   // streams
  std::vector<Sleeper*> sleepers_;   // of each stream's worker; null for streams without one
  Latch* waiting_client_ = nullptr;  // set after finished(), if there is one
};

}  // namespace top
