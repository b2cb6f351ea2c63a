// The asynchronous runtime with kernels written here: every task gets its own result, whatever
// happens around it, and every one is accounted for.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "runtime/kernel_error.h"
#include "runtime/serving/live_runtime.h"
#include "runtime/team.h"
#include "tests/cpp/check.h"
#include "tests/cpp/plans.h"

namespace {

using std::chrono::milliseconds;
using top::Executor;
using top::Lane;
using top::LiveRuntime;
using top::LiveTask;
using top::ModelVariant;
using top::Nanoseconds;
using top::ServedModel;
using top::TaskState;
using top::Ticket;
using top::VariantSet;
using top::testing::Buffer;
using top::testing::PlanBuilder;

constexpr int64_t kLength = 48;
constexpr double kUnlimited = std::numeric_limits<double>::infinity();

std::atomic<bool> gate_open{true};

const DLTensor& tensor(const TVMFFIAny& arg) { return *static_cast<const DLTensor*>(arg.v_ptr); }
float* data(const TVMFFIAny& arg) { return static_cast<float*>(tensor(arg).data); }
int64_t elements(const TVMFFIAny& arg) { return tensor(arg).shape[0] * tensor(arg).shape[1]; }

// out = 2a + 1 in a parallel region; fails if a row begins with a negative number.
int scale(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  for (int64_t row = 0; row < tensor(args[0]).shape[0]; ++row) {
    if (data(args[0])[row * kLength] < 0) {
      top::raise_kernel_error("ValueError", "a row begins with a negative number");
      return -1;
    }
  }
  const auto body = [](void* argument, int index, int threads) {
    const auto* args = static_cast<const TVMFFIAny*>(argument);
    for (int64_t i = index; i < elements(args[1]); i += threads) {
      data(args[1])[i] = 2 * data(args[0])[i] + 1;
    }
  };
  void* argument = const_cast<TVMFFIAny*>(args);
  const int threads = top::begin_region(body, argument, 0);
  body(argument, 0, threads);
  top::end_region(threads);
  return 0;
}

// out = a + b
int add(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  for (int64_t i = 0; i < elements(args[2]); ++i) {
    data(args[2])[i] = data(args[0])[i] + data(args[1])[i];
  }
  return 0;
}

// out = a, when the gate is open.
int wait_for_gate(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  while (!gate_open.load()) std::this_thread::sleep_for(milliseconds(1));
  for (int64_t i = 0; i < elements(args[1]); ++i) data(args[1])[i] = data(args[0])[i];
  return 0;
}

TVMFFISafeCallType find_kernel(const std::string& symbol) {
  if (symbol == "scale") return scale;
  if (symbol == "add") return add;
  if (symbol == "wait_for_gate") return wait_for_gate;
  throw std::runtime_error("no kernel '" + symbol + "'");
}

// y = (2x + 1) + x, z = 2y + 1: both outputs, in one plan or in two segments.
std::vector<top::PlanData> plans_of(int batch, int segments, int streams, int threads, int first) {
  const std::vector<int64_t> shape = {batch, kLength};
  std::vector<PlanBuilder> builds(segments, PlanBuilder(streams));
  const int second = streams - 1 - first;
  PlanBuilder& head = builds.front();
  const int x = head.input("x", shape), a = head.output("a.mid", shape);
  const int y = segments == 1 ? head.output("y", shape) : 0;
  const int scaled = head.call("scale", head.kernel("tvm", "scale"), {x, a}, first, threads);
  const std::vector<int> waits =
      threads == 1 && second != first ? std::vector<int>{scaled} : std::vector<int>{};
  if (segments == 1) {
    // In one plan the value between is in the arena.
    head.plan.outputs = {y};
    head.plan.tensors[a].space = top::Space::kArena;
    head.plan.tensors[a].storage = "";
    head.plan.arena_bytes = top::round_up(head.plan.tensors[a].nbytes);
    const int z = head.output("z", shape);
    head.call("add", head.kernel("tvm", "add"), {a, x, y}, second, 1, waits);
    head.call("last", head.kernel("tvm", "scale"), {y, z}, second, 1);
    return {head.plan};
  }
  PlanBuilder& tail = builds.back();
  const int a_in = tail.input("a.mid", shape), x_in = tail.input("x", shape);
  const int y_out = tail.output("y", shape), z_out = tail.output("z", shape);
  const int added = tail.call("add", tail.kernel("tvm", "add"), {a_in, x_in, y_out}, first);
  tail.call("last", tail.kernel("tvm", "scale"), {y_out, z_out}, second, 1,
            second != first ? std::vector<int>{added} : std::vector<int>{});
  return {head.plan, tail.plan};
}

struct Served {
  VariantSet set;
  std::vector<ServedModel> models;
};

// Models that all compute the same; variants serial, free and merged, batches of 1 and 4.
Served serve(int models) {
  Served served;
  for (int m = 0; m < models; ++m) {
    served.set.models.push_back("m" + std::to_string(m));
    served.set.batch_sizes.push_back({1, 4});
    const size_t nbytes = kLength * sizeof(float);
    served.models.push_back({{}, {{"x", nbytes}}, {{"y", nbytes}, {"z", nbytes}}});
  }
  const auto add_variant = [&](const char* id, int in_flight, int lanes, int segments, int batches,
                               int streams, int threads) {
    top::Variant variant{id, in_flight, false, 10, {}};
    for (ServedModel& model : served.models) {
      ModelVariant shape;
      shape.segments = segments;
      for (int lane = 0; lane < lanes; ++lane) {
        Lane next{streams == 1 ? lane : 0, {}};
        for (int b = 0; b < batches; ++b) {
          const int first = streams == 1 ? 0 : lane % 2;
          std::vector<int> numbers;
          for (top::PlanData& plan : plans_of(b == 0 ? 1 : 4, segments, streams, threads, first)) {
            numbers.push_back(static_cast<int>(model.plans.size()));
            model.plans.push_back(std::make_shared<Executor>(std::move(plan), top::Constants{},
                                                             find_kernel, nullptr));
          }
          next.plans.push_back(numbers);
        }
        shape.lanes.push_back(next);
      }
      for (int b = 0; b < batches; ++b) {
        shape.latency_us.push_back(b == 0 ? 5 : 8);
        shape.work_us.push_back(b == 0 ? 5 : 8);
      }
      variant.models.push_back(shape);
    }
    served.set.variants.push_back(variant);
  };
  add_variant("serial", 1, 1, 1, 1, 2, 2);
  add_variant("free", 2, 2, 1, 2, 1, 1);
  add_variant("merged", 0, 2, 2, 2, 2, 1);
  add_variant("barrier", 0, 2, 2, 1, 2, 1);
  served.set.variants.back().barrier = true;
  return served;
}

struct Client {
  float value = 0;
  std::atomic<int> ends{0};
};

struct Counts {
  std::atomic<uint64_t> completed{0}, rejected{0}, expired{0}, cancelled{0}, failed{0};
  uint64_t total() const { return completed + rejected + expired + cancelled + failed; }
};

void count(TaskState state, Counts* counts) {
  if (state == TaskState::kCompleted) ++counts->completed;
  if (state == TaskState::kRejected) ++counts->rejected;
  if (state == TaskState::kExpired) ++counts->expired;
  if (state == TaskState::kCancelled) ++counts->cancelled;
  if (state == TaskState::kFailed) ++counts->failed;
}

// Takes what has ended, checks every result and counts.
void deliver(LiveRuntime& runtime, const std::atomic<bool>& stop, Counts* counts) {
  std::vector<LiveTask*> tasks;
  for (;;) {
    const bool last = stop.load();
    tasks.clear();
    runtime.wait_finished(&tasks, last ? milliseconds(0) : milliseconds(20));
    for (LiveTask* task : tasks) {
      auto* client = static_cast<Client*>(task->client);
      CHECK(client->ends.fetch_add(1) == 0);
      count(task->state, counts);
      if (task->state == TaskState::kFailed) {
        CHECK(task->failure.find("begins with a negative number") != std::string::npos);
        CHECK(task->failure.find("Op 'scale' failed") == 0);
      }
      if (task->state != TaskState::kCompleted) continue;
      CHECK(client->value >= 0);
      const auto* y = reinterpret_cast<const float*>(task->outputs[0]);
      const auto* z = reinterpret_cast<const float*>(task->outputs[1]);
      for (int64_t i = 0; i < kLength; ++i) {
        const float x = client->value + static_cast<float>(i);
        CHECK(y[i] == 2 * x + 1 + x && z[i] == 2 * y[i] + 1);
      }
    }
    if (!tasks.empty()) runtime.recycle(tasks);
    if (last && tasks.empty()) return;
  }
}

size_t resident_bytes() {
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  unsigned long total = 0, resident = 0;
  const bool read = file != nullptr && std::fscanf(file, "%lu %lu", &total, &resident) == 2;
  if (file != nullptr) std::fclose(file);
  return read ? resident * static_cast<size_t>(sysconf(_SC_PAGESIZE)) : 0;
}

// Four producers in bursts of overload and pauses; variants and frequencies change all the time.
void soak(uint64_t tasks_per_client, bool failures) {
  constexpr int kClients = 4;
  Served served = serve(3);
  LiveRuntime runtime(served.set, served.models, 2, 64);
  Counts counts;
  std::atomic<bool> stop_delivery{false}, stop_control{false};
  std::thread delivery([&] { deliver(runtime, stop_delivery, &counts); });
  std::thread control([&] {
    std::mt19937 random(7);
    while (!stop_control.load()) {
      const double frequency = random() % 2 == 0 ? kUnlimited : 1.0 + random() % 4;
      runtime.apply({static_cast<int>(random() % 4), {frequency, kUnlimited, frequency}});
      const top::Snapshot snapshot = runtime.snapshot();
      for (const top::ModelSnapshot& model : snapshot.models) CHECK(model.queued <= 64);
      std::this_thread::sleep_for(std::chrono::microseconds(300));
    }
  });
  std::vector<std::unique_ptr<Client[]>> clients;
  for (int c = 0; c < kClients; ++c) clients.emplace_back(new Client[tasks_per_client]);
  std::vector<std::thread> producers;
  std::atomic<uint64_t> submitted{0};
  size_t warm_bytes = 0, most_bytes = 0;
  for (int c = 0; c < kClients; ++c) {
    producers.emplace_back([&, c] {
      std::mt19937 random(c);
      std::vector<float> x(kLength);
      Ticket last{0, 0};
      for (uint64_t i = 0; i < tasks_per_client; ++i) {
        Client& client = clients[c][i];
        client.value = static_cast<float>(random() % 1000);
        if (failures && random() % 50 == 0) client.value = -1000;
        for (int64_t j = 0; j < kLength; ++j) x[j] = client.value + static_cast<float>(j);
        const uint32_t kind = random() % 8;
        const Nanoseconds deadline =
            kind == 0 ? LiveRuntime::now() + 20'000 + random() % 1'000'000 : top::kNever;
        Ticket ticket{0, 0};
        const TaskState state =
            runtime.submit(static_cast<int>(random() % 3), {x.data()},
                           static_cast<int>(random() % 3), deadline, &client, &ticket);
        ++submitted;
        if (state != TaskState::kQueued) {
          CHECK(client.ends.fetch_add(1) == 0);
          count(state, &counts);
          // Patient most of the time, and in every fourth phase not at all.
          if (i / 1000 % 4 != 3) std::this_thread::sleep_for(std::chrono::microseconds(100));
        } else {
          if (random() % 10 == 0) runtime.cancel(random() % 2 == 0 ? ticket : last);
          last = ticket;
        }
        // And a pause in which the queues run empty.
        if (i % 1000 == 999) std::this_thread::sleep_for(milliseconds(2));
        if (c == 0 && i == tasks_per_client / 4) warm_bytes = resident_bytes();
        if (c == 0 && i % 10'000 == 0) most_bytes = std::max(most_bytes, resident_bytes());
      }
    });
  }
  for (std::thread& producer : producers) producer.join();
  CHECK(runtime.wait_idle(std::chrono::seconds(60)));
  stop_control = true;
  control.join();
  stop_delivery = true;
  delivery.join();
  CHECK(submitted == kClients * tasks_per_client && counts.total() == submitted);
  uint64_t seen = 0, ended = 0;
  for (const top::ModelStatistics& s : runtime.statistics()) {
    seen += s.submitted;
    ended += s.completed + s.rejected + s.expired + s.cancelled + s.failed;
  }
  CHECK(seen == submitted && ended == submitted);
  CHECK(counts.completed > 0 && (!failures || counts.failed > 0));
  for (int c = 0; c < kClients; ++c) {
    for (uint64_t i = 0; i < tasks_per_client; ++i) CHECK(clients[c][i].ends == 1);
  }
#if !defined(TOP_TVM_THREAD_SANITIZER) && !defined(__SANITIZE_ADDRESS__)
  // 8 MB of slack: pages of the allocator. A leak of 64 bytes a task would be ten times that.
  if (tasks_per_client >= 200'000) CHECK(most_bytes < warm_bytes + (8 << 20));
#endif
  std::fprintf(stderr,
               "soak: %llu submitted, %llu completed, %llu rejected, %llu expired, %llu cancelled, "
               "%llu failed\n",
               static_cast<unsigned long long>(submitted),
               static_cast<unsigned long long>(counts.completed),
               static_cast<unsigned long long>(counts.rejected),
               static_cast<unsigned long long>(counts.expired),
               static_cast<unsigned long long>(counts.cancelled),
               static_cast<unsigned long long>(counts.failed));
}

// Closing under load: what runs ends, what waits is cancelled, nothing more is taken.
void close_under_load() {
  for (int round = 0; round < 30; ++round) {
    Served served = serve(2);
    LiveRuntime runtime(served.set, served.models, 2, 64);
    runtime.apply({1 + round % 3, {kUnlimited, kUnlimited}});
    Counts counts;
    std::atomic<bool> stop{false};
    std::thread delivery([&] { deliver(runtime, stop, &counts); });
    std::vector<Client> clients(500);
    const std::vector<float> x = [] {
      std::vector<float> values(kLength);
      for (int64_t i = 0; i < kLength; ++i) values[i] = static_cast<float>(i);
      return values;
    }();
    std::atomic<uint64_t> refused{0}, taken{0};
    std::thread producer([&] {
      for (Client& client : clients) {
        Ticket ticket{0, 0};
        const TaskState state = runtime.submit(1, {x.data()}, 0, top::kNever, &client, &ticket);
        ++(state == TaskState::kQueued ? taken : refused);
      }
    });
    std::this_thread::sleep_for(std::chrono::microseconds(50 * round));
    runtime.close(true);
    producer.join();
    CHECK(runtime.wait_idle(std::chrono::seconds(10)));
    stop = true;
    delivery.join();
    CHECK(taken + refused == clients.size() && counts.total() == taken);
    Ticket ticket{0, 0};
    CHECK(runtime.submit(0, {x.data()}, 0, top::kNever, nullptr, &ticket) == TaskState::kCancelled);
  }
}

// A worker that does not come back is named, and its tasks can be taken from the runtime.
void stuck_worker() {
  VariantSet set{{"m"}, {{1}}, {}};
  ModelVariant lone{1, {Lane{0, {{0}}}}, {10}, {10}};
  set.variants.push_back({"serial", 1, false, 10, {lone}});
  PlanBuilder build(1);
  const int x = build.input("x", {1, kLength}), y = build.output("y", {1, kLength});
  build.call("gate", build.kernel("tvm", "wait_for_gate"), {x, y}, 0);
  const size_t nbytes = kLength * sizeof(float);
  ServedModel model{
      {std::make_shared<Executor>(build.plan, top::Constants{}, find_kernel, nullptr)},
      {{"x", nbytes}},
      {{"y", nbytes}}};
  LiveRuntime runtime(set, {model}, 1, 4);
  gate_open = false;
  const std::vector<float> input(kLength);
  Client client;
  Ticket ticket{0, 0};
  CHECK(runtime.submit(0, {input.data()}, 0, top::kNever, &client, &ticket) == TaskState::kQueued);
  std::vector<top::StuckWorker> stuck;
  for (int i = 0; i < 2000 && stuck.empty(); ++i) {
    std::this_thread::sleep_for(milliseconds(5));
    stuck = runtime.stuck_workers(0.02);
  }
  CHECK(stuck.size() == 1 && stuck[0].op == "gate" && stuck[0].model == "m");
  CHECK(!runtime.cancel(ticket));  // it runs
  runtime.close(true);
  CHECK(!runtime.wait_idle(milliseconds(5)));
  CHECK((runtime.abandon() == std::vector<void*>{&client}));
  CHECK(runtime.abandon().empty());
  gate_open = true;
  std::vector<LiveTask*> tasks;
  runtime.wait_finished(&tasks, std::chrono::seconds(10));
  CHECK(tasks.size() == 1 && tasks[0]->client == nullptr);
  runtime.recycle(tasks);
  CHECK(runtime.stuck_workers(0).empty());
}

// Outputs live on when the runtime has gone.
void outputs_outlive_the_runtime() {
  top::BlockReference kept;
  const float* y = nullptr;
  {
    Served served = serve(1);
    LiveRuntime runtime(served.set, served.models, 2, 4);
    const std::vector<float> x(kLength, 3.0f);
    Ticket ticket{0, 0};
    Client client;
    runtime.submit(0, {x.data()}, 0, top::kNever, &client, &ticket);
    std::vector<LiveTask*> tasks;
    runtime.wait_finished(&tasks, std::chrono::seconds(10));
    CHECK(tasks.size() == 1);
    kept = tasks[0]->output_memory;
    y = reinterpret_cast<const float*>(tasks[0]->outputs[0]);
    runtime.recycle(tasks);
  }
  CHECK(y[0] == 10.0f && y[kLength - 1] == 10.0f);
}

#if !defined(TOP_TVM_THREAD_SANITIZER) && !defined(__SANITIZE_ADDRESS__)
// Sanitizers end the process where an allocation fails.
void no_memory_for_outputs() {
  VariantSet set{{"m"}, {{1}}, {}};
  ModelVariant lone{1, {Lane{0, {{0}}}}, {10}, {10}};
  set.variants.push_back({"serial", 1, false, 10, {lone}});
  PlanBuilder build(1);
  const int64_t huge = int64_t{1} << 50;
  const int x = build.input("x", {1, kLength}), y = build.output("y", {1, huge});
  build.call("gate", build.kernel("tvm", "wait_for_gate"), {x, y}, 0);
  ServedModel model{
      {std::make_shared<Executor>(build.plan, top::Constants{}, find_kernel, nullptr)},
      {{"x", kLength * sizeof(float)}},
      {{"y", static_cast<size_t>(huge) * sizeof(float)}}};
  LiveRuntime runtime(set, {model}, 1, 8);
  const std::vector<float> input(kLength);
  std::vector<LiveTask*> tasks;
  for (int i = 0; i < 5; ++i) {
    Ticket ticket{0, 0};
    CHECK(runtime.submit(0, {input.data()}, 0, top::kNever, nullptr, &ticket) ==
          TaskState::kQueued);
  }
  while (tasks.size() < 5) runtime.wait_finished(&tasks, std::chrono::seconds(10));
  for (const LiveTask* task : tasks) {
    CHECK(task->state == TaskState::kFailed);
    CHECK(task->failure == "There is not enough memory for the outputs.");
  }
  runtime.recycle(tasks);
  CHECK(runtime.wait_idle(milliseconds(0)) && runtime.in_flight() == 0);
}
#endif

void bad_plans() {
  Served served = serve(1);
  served.models[0].outputs.push_back({"w", 4});
  CHECK_THROWS(LiveRuntime(served.set, served.models, 2, 4), std::invalid_argument,
               "'w' is an output that nothing writes");
  served = serve(1);
  served.models[0].inputs[0].nbytes += 4;
  CHECK_THROWS(LiveRuntime(served.set, served.models, 2, 4), std::invalid_argument, "'x' has");
  served = serve(1);
  std::swap(served.set.variants[2].models[0].lanes[0].plans[0][0],
            served.set.variants[2].models[0].lanes[0].plans[0][1]);
  CHECK_THROWS(LiveRuntime(served.set, served.models, 2, 4), std::invalid_argument,
               "'a.mid' is read by a segment before it is written");
  served = serve(1);
  CHECK_THROWS(LiveRuntime(served.set, served.models, 1, 4), std::invalid_argument,
               "needs more than 1 streams");
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t tasks = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 20'000;
  bad_plans();
  outputs_outlive_the_runtime();
  stuck_worker();
  close_under_load();
#if !defined(TOP_TVM_THREAD_SANITIZER) && !defined(__SANITIZE_ADDRESS__)
  no_memory_for_outputs();
#endif
  soak(tasks / 4, false);
  soak(std::min<uint64_t>(tasks / 4, 20'000), true);
  top::WorkerPool::shut_down();
  return top::testing::result("live_runtime");
}
