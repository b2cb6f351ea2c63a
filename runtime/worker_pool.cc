#include "runtime/worker_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>

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

int64_t clock_ns() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

// For debuggers and `top -H`.
void name_this_thread(int index) {
  pthread_setname_np(pthread_self(), ("top_tvm/" + std::to_string(index)).substr(0, 15).c_str());
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
  // Who is inside run(), or has jobs started, still holds the pool: then the last of them joins the
  // workers.
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
  // Idle workers poll on all cores but one, which is left to the client: so the next run of a
  // client that calls again at once finds them awake.
  const int first_polling = workers < num_cores ? 0 : workers == num_cores ? 1 : INT_MAX;
  first_polling_.store(first_polling, std::memory_order_relaxed);
  while (static_cast<int>(workers_.size()) < workers) {
    const int index = static_cast<int>(workers_.size());
    workers_.push_back(std::make_unique<Worker>());
    Worker& worker = *workers_.back();
    const int core = index < num_cores ? cores[index] : -1;
    worker.thread = std::thread([this, &worker, index, core] {
      if (core >= 0) pin_this_thread(core);
      name_this_thread(index);
      become_stream_thread();
      work(worker, index);
    });
  }
}

void WorkerPool::work(Worker& worker, int index) {
  std::vector<Program> active;
  for (int polls = 0;;) {
    if (execute_oldest(worker, active) || take_entered(worker, active)) {
      polls = 0;
      continue;
    }
    int budget = spin_budget.load(std::memory_order_relaxed);
    if (active.empty()) {
      if (stopping_.load() && unfinished_jobs_.load() == 0) return;
      budget = index >= first_polling_.load(std::memory_order_relaxed) ? kSpinPolls : 0;
    }
    if (polls < budget) {
      ++polls;
      cpu_relax();
      continue;
    }
    worker.sleeper.prepare();
    const bool stops = active.empty() && stopping_.load() && unfinished_jobs_.load() == 0;
    if (stops || execute_oldest(worker, active) || take_entered(worker, active)) {
      worker.sleeper.cancel();
    } else {
      worker.job.store(nullptr, std::memory_order_relaxed);
      worker.sleeper.sleep();
    }
    polls = 0;
  }
}

bool WorkerPool::take_entered(Worker& worker, std::vector<Program>& active) {
  if (!worker.has_entered.load(std::memory_order_seq_cst)) return false;
  std::lock_guard<std::mutex> lock(mutex_);
  worker.has_entered.store(false, std::memory_order_relaxed);
  if (active.empty()) worker.busy_since_ns.store(clock_ns(), std::memory_order_relaxed);
  active.insert(active.end(), worker.entered.begin(), worker.entered.end());
  worker.entered.clear();
  return true;
}

bool WorkerPool::execute_oldest(Worker& worker, std::vector<Program>& active) noexcept {
  bool stepped = false, may_enter_gang = true;
  for (size_t i = 0; i < active.size(); ++i) {
    const auto [job, stream] = active[i];
    worker.job.store(job, std::memory_order_relaxed);
    worker.stream.store(stream, std::memory_order_relaxed);
    uint64_t attempts = worker.attempts.load(std::memory_order_relaxed);
    Progress progress;
    do {
      worker.attempts.store(++attempts, std::memory_order_relaxed);
      progress = job->advance(stream, may_enter_gang);
      stepped = stepped || progress == Progress::kStepped;
      // The oldest job goes on at once; after a step of another one the older ones are asked again.
    } while (progress == Progress::kStepped && i == 0);
    if (progress == Progress::kStepped) return true;
    if (progress == Progress::kDone) {
      active.erase(active.begin() + static_cast<std::ptrdiff_t>(i));
      worker.load.fetch_sub(1, std::memory_order_relaxed);
      if (active.empty()) {
        const int64_t since = worker.busy_since_ns.exchange(0, std::memory_order_relaxed);
        worker.busy_ns.fetch_add(clock_ns() - since, std::memory_order_relaxed);
      }
      finish_stream(*job);
      return true;
    }
    if (progress == Progress::kBlockedBeforeGang) may_enter_gang = false;
  }
  return stepped;
}

void WorkerPool::finish_stream(StreamJob& job) noexcept {
  if (job.unfinished_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  Latch* waiting_client = job.waiting_client_;
  job.finished();
  // From here on the job may be gone, and once the latch is set the pool's last client, too.
  if (unfinished_jobs_.fetch_sub(1) == 1 && stopping_.load()) {
    for (auto& worker : workers_) worker->sleeper.wake();
  }
  if (waiting_client != nullptr) waiting_client->set();
}

void WorkerPool::check(const Launch& launch) const {
  const std::vector<int>& workers = *launch.workers;
  bool any = false;
  for (auto at = workers.begin(); at != workers.end(); ++at) {
    if (*at == kNoWorker) continue;
    if (*at < 0 || *at >= static_cast<int>(workers_.size())) {
      throw std::invalid_argument("There is no worker " + std::to_string(*at) + " in a pool of " +
                                  std::to_string(workers_.size()) + ".");
    }
    if (std::find(workers.begin(), at, *at) != at) {
      throw std::invalid_argument("Worker " + std::to_string(*at) +
                                  " cannot serve two streams of one job.");
    }
    any = true;
  }
  if (!any) throw std::invalid_argument("A job needs at least one worker.");
}

void WorkerPool::enter(const Launch& launch, Latch* waiting_client,
                       std::vector<Sleeper*>& to_wake) {
  StreamJob& job = *launch.job;
  job.waiting_client_ = waiting_client;
  job.sleepers_.clear();
  int entered = 0;
  for (int index : *launch.workers) {
    if (index == kNoWorker) {
      job.sleepers_.push_back(nullptr);
      continue;
    }
    Worker& worker = *workers_[index];
    job.sleepers_.push_back(&worker.sleeper);
    to_wake.push_back(&worker.sleeper);
    ++entered;
  }
  job.unfinished_.store(entered, std::memory_order_relaxed);
  unfinished_jobs_.fetch_add(1);
  for (size_t stream = 0; stream < launch.workers->size(); ++stream) {
    const int index = (*launch.workers)[stream];
    if (index == kNoWorker) continue;
    Worker& worker = *workers_[index];
    worker.entered.push_back({&job, static_cast<int>(stream)});
    worker.load.fetch_add(1, std::memory_order_relaxed);
    worker.has_entered.store(true, std::memory_order_seq_cst);
  }
}

void WorkerPool::start(const std::vector<Launch>& launches) {
  thread_local std::vector<Sleeper*> to_wake;  // keeps its memory
  to_wake.clear();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const Launch& launch : launches) check(launch);
    for (const Launch& launch : launches) enter(launch, nullptr, to_wake);
  }
  for (Sleeper* sleeper : to_wake) sleeper->wake();
}

void WorkerPool::run(StreamJob& job, int streams) {
  Latch finished;
  std::vector<Sleeper*> to_wake;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (streams < 1 || streams > static_cast<int>(workers_.size())) {
      throw std::invalid_argument("A run on " + std::to_string(streams) +
                                  " streams does not fit a pool of " +
                                  std::to_string(workers_.size()) + " workers.");
    }
    const std::vector<int> workers = least_loaded(streams);
    enter({&job, &workers}, &finished, to_wake);
  }
  for (Sleeper* sleeper : to_wake) sleeper->wake();
  finished.wait();
}

// The first ones among equals, so that stream 0 stays on one core.
std::vector<int> WorkerPool::least_loaded(int count) const {
  std::vector<std::pair<int, int>> workers;  // load and index
  for (const auto& worker : workers_) {
    workers.emplace_back(worker->load.load(std::memory_order_relaxed),
                         static_cast<int>(workers.size()));
  }
  if (static_cast<int>(workers.size()) > count) std::sort(workers.begin(), workers.end());
  std::vector<int> chosen;
  for (int stream = 0; stream < count; ++stream) chosen.push_back(workers[stream].second);
  return chosen;
}

std::vector<Activity> WorkerPool::activity() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Activity> workers;
  for (const auto& worker : workers_) {
    const int64_t since = worker->busy_since_ns.load(std::memory_order_relaxed);
    workers.push_back(
        {worker->job.load(std::memory_order_relaxed),
         worker->stream.load(std::memory_order_relaxed),
         worker->attempts.load(std::memory_order_relaxed),
         worker->busy_ns.load(std::memory_order_relaxed) + (since == 0 ? 0 : clock_ns() - since)});
  }
  return workers;
}

WorkerPool::~WorkerPool() {
  stopping_.store(true);
  for (auto& worker : workers_) worker->sleeper.wake();
  for (auto& worker : workers_) worker->thread.join();
}

}  // namespace top
