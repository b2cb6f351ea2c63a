// The pool: every stream of every job runs exactly once, streams of a job run concurrently, jobs of
// many clients do not wait for each other in a circle, workers come and go.
#include <sys/wait.h>
#include <unistd.h>

#include <thread>
#include <vector>

#include "runtime/waiting.h"
#include "runtime/worker_pool.h"
#include "tests/cpp/check.h"

namespace {

// Streams that meet: none can finish before all have started.
struct Meeting final : top::StreamJob {
  explicit Meeting(int streams) : streams(streams), visits(streams) {}
  top::Progress advance(int stream, bool) noexcept override {
    if (visits[stream] == 0) {
      visits[stream] += 1;
      if (arrived.fetch_add(1) + 1 == streams) {
        for (int other = 0; other < streams; ++other) wake(other);
      }
      return top::Progress::kStepped;
    }
    if (arrived.load() < streams) return top::Progress::kBlocked;
    visits[stream] += 1;
    return top::Progress::kDone;
  }
  void finished() noexcept override { ends += 1; }
  int streams;
  std::atomic<int> arrived{0};
  std::vector<int> visits;
  int ends = 0;
};

void run_meeting(int streams) {
  Meeting job(streams);
  top::WorkerPool::of_process(streams)->run(job, streams);
  for (int visits : job.visits) CHECK(visits == 2);
  CHECK(job.ends == 1);
}

void many_clients(int clients, int runs, int max_streams) {
  std::vector<std::thread> threads;
  for (int client = 0; client < clients; ++client) {
    threads.emplace_back([=] {
      for (int run = 0; run < runs; ++run) run_meeting(1 + (client + run) % max_streams);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void child_gets_its_own_pool() {
  run_meeting(2);
  const pid_t child = fork();
  if (child == 0) {
    run_meeting(2);
    _exit(top::testing::failures.load() == 0 ? 7 : 8);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
  run_meeting(2);
}

}  // namespace

int main() {
  many_clients(8, 300, 2);
  CHECK(top::WorkerPool::of_process(1)->size() == 2);
  CHECK_THROWS(
      {
        Meeting job(3);
        top::WorkerPool::of_process(2)->run(job, 3);
      },
      std::invalid_argument, "3 streams");
  // More streams than cores: nobody spins, everybody parks.
  const int many = static_cast<int>(top::allowed_cores().size()) + 3;
  many_clients(4, 100, many);
  CHECK(top::spin_budget.load() == 0);
  top::WorkerPool::shut_down();
  run_meeting(2);
  CHECK(top::WorkerPool::of_process(2)->size() == 2);
#ifndef TOP_TVM_THREAD_SANITIZER  // which does not support threads in a forked child
  child_gets_its_own_pool();
#else
  (void)child_gets_its_own_pool;
#endif
  top::WorkerPool::shut_down();
  return top::testing::result("worker_pool");
}
