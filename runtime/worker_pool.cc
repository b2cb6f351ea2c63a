#include "runtime/worker_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <climits>
#include <stdexcept>
#include <string>

#include "runtime/team.h"

namespace top {
namespace {

struct ProcessState {
  std::mutex mutex;
  std::shared_ptr<WorkerPool> pool;
  uint64_t generation = 0;
};

// Never destroyed: workers may outlive static destructors when the program just calls exit().
ProcessState& process_state() {
  static ProcessState* state = [] {
    auto* created = new ProcessState;
    pthread_atfork([] { process_state().mutex.lock(); }, [] { process_state().mutex.unlock(); },
                   [] {
                     ProcessState& copy = process_state();
                     // The threads of the parent's pool do not exist here and its locks may be held
                     // by them: forget it without running its destructor.
                     new std::shared_ptr<WorkerPool>(std::move(copy.pool));
                     copy.generation += 1;
                     copy.mutex.unlock();
                   });
    return created;
  }();
  return *state;
}

void pin_this_thread(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  // Pinning is for speed only: where it is forbidden the worker just floats.
  pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

}  // namespace

std::mutex& fork_guard() { return process_state().mutex; }
uint64_t fork_generation() { return process_state().generation; }

std::vector<int> allowed_cores() {
  std::vector<int> cores;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (CPU_ISSET(core, &set)) cores.push_back(core);
    }
  }
  if (cores.empty()) {
    for (unsigned core = 0; core < std::max(1u, std::thread::hardware_concurrency()); ++core) {
      cores.push_back(static_cast<int>(core));
    }
  }
  return cores;
}

std::shared_ptr<WorkerPool> WorkerPool::of_process(int streams) {
  ProcessState& state = process_state();
  std::lock_guard<std::mutex> lock(state.mutex);
  if (!state.pool) state.pool = std::shared_ptr<WorkerPool>(new WorkerPool);
  if (state.pool->size() < streams) state.pool->grow(streams);
  return state.pool;
}

void WorkerPool::shut_down() {
  std::shared_ptr<WorkerPool> pool;
  {
    std::lock_guard<std::mutex> lock(process_state().mutex);
    pool = std::move(process_state().pool);
  }
  // A client that is inside run() still holds the pool: then the last of them joins the workers.
}

int WorkerPool::size() {
  std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int>(workers_.size());
}

void WorkerPool::grow(int workers) {
  const std::vector<int> cores = allowed_cores();
  const int num_cores = static_cast<int>(cores.size());
  std::lock_guard<std::mutex> lock(mutex_);
  spin_budget.store(workers <= num_cores ? kSpinPolls : 0, std::memory_order_relaxed);
  // Between runs workers poll on all cores but one, which is left to the client: so the next run of
  // a client that calls again at once finds them awake.
  const int first_polling = workers < num_cores ? 0 : workers == num_cores ? 1 : INT_MAX;
  first_polling_.store(first_polling, std::memory_order_relaxed);
  while (static_cast<int>(workers_.size()) < workers) {
    const int index = static_cast<int>(workers_.size());
    workers_.push_back(std::make_unique<Worker>());
    Worker& worker = *workers_.back();
    const int core = index < num_cores ? cores[index] : -1;
    worker.thread = std::thread([this, &worker, index, core] {
      if (core >= 0) pin_this_thread(core);
      become_stream_thread();
      work(worker, index);
    });
  }
}

void WorkerPool::work(Worker& worker, int index) {
  for (uint32_t taken = 0;; ++taken) {
    const bool polls = index >= first_polling_.load(std::memory_order_relaxed);
    worker.submitted.wait_for(taken + 1, polls ? kSpinPolls : 0);
    std::pair<Run*, int> next;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (worker.queue.empty()) return;  // woken without work: the pool is stopping
      next = worker.queue.front();
      worker.queue.pop_front();
      worker.busy = true;
    }
    Run& run = *next.first;
    run.job.run_stream(next.second);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      worker.busy = false;
    }
    // The client goes on, and the run is gone, as soon as the latch is set.
    if (run.unfinished.fetch_sub(1, std::memory_order_acq_rel) == 1) run.finished.set();
  }
}

void WorkerPool::submit(Run& run, int streams) {
  std::lock_guard<std::mutex> lock(mutex_);
  // The least loaded workers, the first ones among equals, so that stream 0 stays on one core.
  std::vector<Worker*> chosen;
  for (auto& worker : workers_) chosen.push_back(worker.get());
  if (static_cast<int>(chosen.size()) > streams) {
    std::stable_sort(chosen.begin(), chosen.end(), [](const Worker* a, const Worker* b) {
      return a->queue.size() + a->busy < b->queue.size() + b->busy;
    });
    chosen.resize(streams);
  }
  for (int stream = 0; stream < streams; ++stream) {
    chosen[stream]->queue.emplace_back(&run, stream);
    chosen[stream]->submitted.add();
  }
}

void WorkerPool::run(StreamJob& job, int streams) {
  if (streams < 1 || streams > size()) {
    throw std::invalid_argument("A run on " + std::to_string(streams) +
                                " streams does not fit a pool of " + std::to_string(size()) +
                                " workers.");
  }
  Run run{job, {streams}, {}};
  submit(run, streams);
  run.finished.wait();
}

WorkerPool::~WorkerPool() {
  for (auto& worker : workers_) worker->submitted.add();
  for (auto& worker : workers_) worker->thread.join();
}

}  // namespace top
