// Gang calls: regions, barriers and failing tasks on real workers; and the workspace of kernels.
#include <cstring>
#include <numeric>
#include <vector>

#include "runtime/team.h"
#include "runtime/worker_pool.h"
#include "runtime/workspace.h"
#include "tests/cpp/check.h"

namespace {

constexpr int kRounds = 200;

// Each round is a region of two phases: members write their part, meet, and read their neighbour's.
struct Exchange {
  std::vector<int> values;
  std::vector<int> sums;
};

void exchange(void* argument, int index, int threads) {
  auto* data = static_cast<Exchange*>(argument);
  for (int round = 0; round < 5; ++round) {
    data->values[index] = round + index;
    top::region_barrier(threads);
    data->sums[index] += data->values[(index + 1) % threads];
    top::region_barrier(threads);
  }
}

struct GangJob final : top::StreamJob {
  explicit GangJob(int streams) : streams(streams), team(streams), rounds(streams) {}

  top::Progress advance(int stream, bool may_enter_gang) noexcept override {
    CHECK(may_enter_gang);
    CHECK(top::available_threads() == 1);
    const int round = rounds[stream]++;
    // Every stream leads in turn.
    if (stream == round % streams) {
      team.open();
      lead(round);
      team.close();
    } else {
      team.serve(stream, round % streams);
    }
    CHECK(top::available_threads() == 1);
    return round + 1 < kRounds ? top::Progress::kStepped : top::Progress::kDone;
  }

  void lead(int round) {
    CHECK(top::available_threads() == streams);
    // A kernel may open no region, one, or several, of any width.
    for (int region = 0; region < round % 3; ++region) {
      const int wanted = round % (streams + 2);
      Exchange data{std::vector<int>(streams), std::vector<int>(streams)};
      const int threads = top::begin_region(exchange, &data, wanted);
      CHECK(threads == (wanted == 0 || wanted > streams ? streams : wanted));
      CHECK(top::available_threads() == 1);
      exchange(&data, 0, threads);
      top::end_region(threads);
      for (int index = 0; index < threads; ++index) {
        CHECK(data.sums[index] == 10 + 5 * ((index + 1) % threads));
      }
      regions += 1;
    }
  }

  int streams;
  top::Team team;
  std::vector<int> rounds;  // per stream
  int regions = 0;
};

void gangs(int streams) {
  GangJob job(streams);
  top::WorkerPool::of_process(streams)->run(job, streams);
  int expected = 0;
  for (int round = 0; round < kRounds; ++round) expected += round % 3;
  CHECK(job.regions == expected);
}

void nested_regions_have_one_thread() {
  struct Job final : top::StreamJob {
    top::Progress advance(int stream, bool) noexcept override {
      if (stream == 1) {
        team.serve(stream, 0);
        return top::Progress::kDone;
      }
      team.open();
      const auto body = [](void* total, int, int) {
        const int threads = top::begin_region([](void*, int, int) {}, nullptr, 0);
        static_cast<std::atomic<int>*>(total)->fetch_add(threads);
        top::end_region(threads);
      };
      const int threads = top::begin_region(body, &total, 2);
      body(&total, 0, threads);
      top::end_region(threads);
      team.close();
      return top::Progress::kDone;
    }
    top::Team team{2};
    std::atomic<int> total{0};
  } job;
  top::WorkerPool::of_process(2)->run(job, 2);
  CHECK(job.total.load() == 2);
}

void foreign_threads_run_alone() {
  CHECK(top::available_threads() == 0);
  int calls = 0;
  const auto body = [](void* argument, int index, int threads) {
    CHECK(index == 0 && threads == 1);
    *static_cast<int*>(argument) += 1;
  };
  const int threads = top::begin_region(body, &calls, 4);
  body(&calls, 0, threads);
  top::end_region(threads);
  CHECK(calls == 1);
}

void workspace() {
  std::vector<char*> blocks;
  for (size_t nbytes : {0ul, 1ul, 64ul, 1000ul, 3ul << 20, 65ul}) {
    auto* block = static_cast<char*>(top::allocate_workspace(nbytes));
    CHECK(block != nullptr && reinterpret_cast<uintptr_t>(block) % 64 == 0);
    std::memset(block, static_cast<int>(blocks.size()) + 1, nbytes);
    blocks.push_back(block);
  }
  CHECK(blocks[3][999] == 4 && blocks[4][(3 << 20) - 1] == 5 && blocks[5][64] == 6);
  // Out of order.
  for (int index : {2, 5, 0, 4, 1, 3}) CHECK(top::free_workspace(blocks[index]));
  CHECK(!top::free_workspace(blocks[0]));
  // Once everything is free the memory is one block again, and reused.
  void* first = top::allocate_workspace(3 << 20);
  void* second = top::allocate_workspace(100);
  CHECK(static_cast<char*>(second) == static_cast<char*>(first) + (3 << 20));
  CHECK(top::free_workspace(second) && top::free_workspace(first));
  CHECK(top::allocate_workspace(1 << 20) == first);
  CHECK(top::free_workspace(first));
  CHECK(top::allocate_workspace(SIZE_MAX) == nullptr);
}

}  // namespace

int main() {
  foreign_threads_run_alone();
  workspace();
  gangs(1);
  gangs(2);
  nested_regions_have_one_thread();
  gangs(5);  // more than cores on small machines: parks instead of spinning
  top::WorkerPool::shut_down();
  return top::testing::result("team");
}
