// The pool: every step of every job runs exactly once, streams of a job run concurrently, the
// oldest job goes first and younger ones fill its gaps, gangs do not wait for each other in a
// circle, no worker sleeps through what it waits for, workers come and go.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/team.h"
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

// A job on one worker or more whose steps are functions; a step may wait for a condition.
struct Script final : top::StreamJob {
  struct Step {
    std::function<void()> execute;
    std::function<bool()> is_ready = [] { return true; };
  };
  explicit Script(std::vector<std::vector<Step>> steps)
      : streams(std::move(steps)), next(streams.size(), 0) {}

  top::Progress advance(int stream, bool) noexcept override {
    const Step& step = streams[stream][next[stream]];
    if (!step.is_ready()) return top::Progress::kBlocked;
    step.execute();
    return ++next[stream] < streams[stream].size() ? top::Progress::kStepped : top::Progress::kDone;
  }
  void finished() noexcept override {
    if (then) then();
    done.set();
  }
  using StreamJob::wake;

  std::vector<std::vector<Step>> streams;
  std::vector<size_t> next;
  std::function<void()> then;
  top::Latch done;
};

// Stream 0 of the older job waits for its stream 1, which waits for the younger job, which comes
// after stream 0 on the same worker.
void younger_jobs_fill_gaps() {
  const auto pool = top::WorkerPool::of_process(2);
  for (int round = 0; round < 500; ++round) {
    std::atomic<bool> younger_ran{false}, other_ran{false};
    Script older({{}, {}});
    older.streams[0] = {{[] {}, [&] { return other_ran.load(); }}};
    older.streams[1] = {{[&] {
                           other_ran.store(true);
                           older.wake(0);
                         },
                         [&] { return younger_ran.load(); }}};
    Script younger({{{[&] {
      younger_ran.store(true);
      older.wake(1);
    }}}});
    pool->start(older, {0, 1});
    pool->start(younger, {0});
    younger.done.wait();
    older.done.wait();
  }
}

void oldest_goes_first() {
  const auto pool = top::WorkerPool::of_process(2);
  std::string order;  // written by worker 1 only
  const auto append = [&order](char letter) { return [&order, letter] { order += letter; }; };
  top::Latch all_started;
  Script gate({{{[&] { all_started.wait(); }}}});
  // The second step of the oldest job can run only after the first of the next one.
  Script a({{{append('a')}, {append('a'), [&] { return order.size() > 2; }}, {append('a')}}});
  Script b({{{append('b')}, {append('b')}, {append('b')}}});
  Script c({{{append('c')}, {append('c')}}});
  const std::vector<int> worker = {1};
  pool->start(gate, worker);
  pool->start({{&a, &worker}, {&b, &worker}});
  pool->start(c, worker);
  all_started.set();
  for (Script* job : {&gate, &a, &b, &c}) job->done.wait();
  CHECK(order == "abbaabcc");
}

// A job that is active on one worker before a gang step keeps younger gangs from it.
void older_gangs_go_first() {
  const auto pool = top::WorkerPool::of_process(2);
  struct Gang final : top::StreamJob {
    top::Progress advance(int stream, bool may_enter_gang) noexcept override {
      if (blocked.load()) return top::Progress::kBlockedBeforeGang;
      if (!may_enter_gang) {
        refused.set();
        return top::Progress::kBlockedBeforeGang;
      }
      if (stream == 0) {
        team.open();
        order += letter;
        team.close();
      } else {
        team.serve(stream, 0);
      }
      return top::Progress::kDone;
    }
    void finished() noexcept override { done.set(); }
    using StreamJob::wake;
    Gang(std::string& order, char letter, bool is_blocked)
        : order(order), letter(letter), blocked(is_blocked) {}
    std::string& order;
    const char letter;
    std::atomic<bool> blocked;
    top::Team team{2};
    top::Latch refused, done;
  };
  std::string order;
  Gang older(order, 'o', true), younger(order, 'y', false);
  pool->start(older, {0, 1});
  pool->start(younger, {1, 0});
  younger.refused.wait();
  older.blocked.store(false);
  for (int stream : {0, 1}) older.wake(stream);
  younger.done.wait();
  older.done.wait();
  CHECK(order == "oy");
}

// Streams that take turns: each step waits for the other stream's last one. With every worker
// parking at once, so that each turn has the chance to be slept through.
void turns(int clients, int rounds, int workers) {
  const auto pool = top::WorkerPool::of_process(workers);
  std::vector<std::thread> threads;
  for (int client = 0; client < clients; ++client) {
    threads.emplace_back([=] {
      std::atomic<int> turn{0};
      Script job({{}, {}});
      for (int round = 0; round < rounds; ++round) {
        job.streams[round % 2].push_back({[&job, &turn, round] {
                                            turn.store(round + 1);
                                            job.wake((round + 1) % 2);
                                          },
                                          [&turn, round] { return turn.load() == round; }});
      }
      pool->start(job, {client % workers, (client + 1) % workers});
      job.done.wait();
      CHECK(turn.load() == rounds);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Each job starts the next one on other workers, and the pool goes only after the last of them.
void jobs_start_jobs() {
  auto pool = top::WorkerPool::of_process(2);
  constexpr int kJobs = 2000;
  std::atomic<int> steps{0};
  std::vector<std::unique_ptr<Script>> jobs;
  for (int i = 0; i < kJobs; ++i) {
    const Script::Step step = {[&steps] { steps += 1; }};
    std::vector<std::vector<Script::Step>> streams(1 + i % 2, {step});
    jobs.push_back(std::make_unique<Script>(std::move(streams)));
  }
  for (int i = 0; i + 1 < kJobs; ++i) {
    const std::vector<int> workers = i % 2 == 1 ? std::vector{i / 2 % 2} : std::vector{1, 0};
    jobs[i]->then = [pool = pool.get(), &next = *jobs[i + 1], workers] {
      pool->start(next, workers);
    };
  }
  pool->start(*jobs[0], {0});
  top::WorkerPool::shut_down();
  pool.reset();  // joins the workers
  CHECK(steps.load() == kJobs + kJobs / 2);
}

void activity_is_shown() {
  const auto pool = top::WorkerPool::of_process(2);
  top::Latch entered, leave;
  Script job({{{[] {}}}, {{[&] {
                entered.set();
                leave.wait();
              }}}});
  pool->start(job, {0, 1});
  entered.wait();
  const std::vector<top::Activity> first = pool->activity();
  CHECK(first[1].job == &job && first[1].stream == 1);
  while (pool->activity()[0].job != nullptr) std::this_thread::yield();
  CHECK(pool->activity()[1].attempts == first[1].attempts);
  leave.set();
  job.done.wait();
  while (pool->activity()[1].job != nullptr) std::this_thread::yield();
  CHECK(pool->activity()[1].attempts == first[1].attempts);
}

// A worker whose jobs all wait looks no more at them once it has parked, until it is woken.
void waiting_workers_park() {
  const auto pool = top::WorkerPool::of_process(2);
  std::atomic<bool> open{false};
  Script job({{{[] {}, [&open] { return open.load(); }}}});
  const uint64_t attempts_before = pool->activity()[0].attempts;
  pool->start(job, {0});
  top::Activity seen = pool->activity()[0], last;
  do {
    std::this_thread::yield();
    last = std::exchange(seen, pool->activity()[0]);
  } while (seen.job != nullptr || seen.attempts == attempts_before ||
           seen.attempts != last.attempts);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  CHECK(pool->activity()[0].attempts == seen.attempts);
  open.store(true);
  job.wake(0);
  job.done.wait();
}

void bad_placements_are_refused() {
  const auto pool = top::WorkerPool::of_process(2);
  Script job({{{[] {}}}, {{[] {}}}}), good({{{[] {}}}});
  CHECK_THROWS(pool->start(job, {0, 99}), std::invalid_argument, "no worker 99");
  CHECK_THROWS(pool->start(job, {-2, 0}), std::invalid_argument, "no worker -2");
  CHECK_THROWS(pool->start(job, {1, 1}), std::invalid_argument, "two streams");
  CHECK_THROWS(pool->start(job, {top::kNoWorker}), std::invalid_argument, "at least one");
  const std::vector<int> right = {0}, wrong = {1, 1};
  CHECK_THROWS(pool->start({{&good, &right}, {&job, &wrong}}), std::invalid_argument,
               "two streams");
  CHECK(good.next[0] == 0);
  pool->start(good, right);
  good.done.wait();
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
  younger_jobs_fill_gaps();
  oldest_goes_first();
  older_gangs_go_first();
  turns(2, 2000, 2);
  activity_is_shown();
  waiting_workers_park();
  bad_placements_are_refused();
  jobs_start_jobs();
  // More streams than cores: nobody spins, everybody parks.
  const int many = static_cast<int>(top::allowed_cores().size()) + 3;
  many_clients(4, 100, many);
  CHECK(top::spin_budget.load() == 0);
  turns(3, 2000, many);
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
