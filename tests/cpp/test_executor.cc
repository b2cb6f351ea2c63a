// The executor with kernels of the packed-function ABI written here: results, waits, gang calls,
// concurrent clients, failing kernels, and what is refused.
#include <stdexcept>
#include <thread>
#include <vector>

#include "runtime/executor.h"
#include "runtime/kernel_error.h"
#include "runtime/team.h"
#include "runtime/worker_pool.h"
#include "tests/cpp/check.h"
#include "tests/cpp/plans.h"

namespace {

using top::testing::Buffer;
using top::testing::PlanBuilder;

constexpr int64_t kLength = 500;

const DLTensor& tensor(const TVMFFIAny& arg) { return *static_cast<const DLTensor*>(arg.v_ptr); }
float* data(const TVMFFIAny& arg) { return static_cast<float*>(tensor(arg).data); }

// out = a + b
int add(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  for (int64_t i = 0; i < tensor(args[2]).shape[0]; ++i) {
    data(args[2])[i] = data(args[0])[i] + data(args[1])[i];
  }
  return 0;
}

// out = 2 * a + 1, as a parallel region in which every member must take part exactly once
int scale(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  const auto body = [](void* argument, int index, int threads) {
    const auto* args = static_cast<const TVMFFIAny*>(argument);
    for (int64_t i = index; i < tensor(args[1]).shape[0]; i += threads) data(args[1])[i] = 1;
    for (int64_t i = index; i < tensor(args[1]).shape[0]; i += threads) {
      data(args[1])[i] += 2 * data(args[0])[i];
    }
  };
  void* argument = const_cast<TVMFFIAny*>(args);
  const int threads = top::begin_region(body, argument, 0);
  body(argument, 0, threads);
  top::end_region(threads);
  return 0;
}

// Fails for negative input, copies otherwise.
int refuse_negative(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  if (data(args[0])[0] < 0) {
    top::raise_kernel_error("ValueError", "the first element is negative");
    return -1;
  }
  for (int64_t i = 0; i < tensor(args[1]).shape[0]; ++i) data(args[1])[i] = data(args[0])[i];
  return 0;
}

TVMFFISafeCallType find_kernel(const std::string& symbol) {
  if (symbol == "add") return add;
  if (symbol == "scale") return scale;
  if (symbol == "refuse_negative") return refuse_negative;
  throw std::runtime_error("no kernel '" + symbol + "'");
}

// y = (2x + 1) + (2x + 1 + x), r = the kernel that may fail; two branches that wait for each other,
// gang calls before and after.
top::PlanData diamond(int streams) {
  PlanBuilder build(streams);
  const int add = build.kernel("tvm", "add"), scale = build.kernel("tvm", "scale");
  const int refuse = build.kernel("tvm", "refuse_negative");
  const int x = build.input("x", {kLength}), y = build.output("y", {kLength});
  const int a = build.arena("a", {kLength}), b = build.arena("b", {kLength});
  const int c = build.arena("c", {kLength}), d = build.arena("d", {kLength});
  const int last = streams - 1;
  const int first = build.call("first", refuse, {x, d}, 0);
  const int left = build.call("left", scale, {d, a}, 0);
  const int right = build.call("right", scale, {x, b}, last, 1, {first});
  build.call("join", add, {b, x, c}, last, 1, {left});
  build.call("gang", scale, {d, b}, last, streams, {left, right});
  build.call("end", add, {a, c, y}, 0);
  build.plan.outputs.push_back(x);  // an input that is an output, too
  build.plan.outputs.push_back(b);  // something in the arena
  build.plan.outputs.push_back(y);  // the same memory twice
  return build.plan;
}

void check_outputs(const Buffer& x, const std::vector<Buffer>& outputs) {
  for (int64_t i = 0; i < kLength; ++i) {
    const float scaled = 2 * x[i] + 1;
    CHECK(outputs[0][i] == scaled + (scaled + x[i]));
    CHECK(outputs[1][i] == x[i]);
    CHECK(outputs[2][i] == scaled);
    CHECK(outputs[3][i] == outputs[0][i]);
  }
}

std::vector<Buffer> run(top::Executor& executor, const Buffer& x, top::CallTime* times = nullptr) {
  std::vector<Buffer> outputs;
  std::vector<void*> pointers;
  for (int i = 0; i < 4; ++i) {
    outputs.emplace_back(kLength);
    pointers.push_back(outputs.back().data());
  }
  executor.run({x.data()}, pointers, times);
  return outputs;
}

void results_and_times(int streams) {
  top::Executor executor(diamond(streams), {}, find_kernel, nullptr);
  Buffer x(kLength);
  x.randomise(1);
  x[0] = 1;
  std::vector<top::CallTime> times(executor.plan().calls.size());
  for (int round = 0; round < 20; ++round) {
    check_outputs(x, run(executor, x, times.data()));
    for (const top::CallTime& call : times)
      CHECK(0 <= call.start_ns && call.start_ns <= call.end_ns);
    CHECK(times[0].end_ns <= times[2].start_ns);  // "right" waits for "first"
    CHECK(times[1].end_ns <= times[3].start_ns);  // "join" waits for "left"
    CHECK(times[3].end_ns <= times[4].start_ns);  // the gang starts after all
    CHECK(times[4].end_ns <= times[5].start_ns);  // and all go on after it
  }
}

// Executables of different width, good and failing runs, all at once.
void many_clients() {
  std::vector<std::unique_ptr<top::Executor>> executors;
  for (int streams : {1, 2, 2}) {
    executors.push_back(
        std::make_unique<top::Executor>(diamond(streams), top::Constants{}, find_kernel, nullptr));
  }
  std::vector<std::thread> clients;
  for (int client = 0; client < 8; ++client) {
    clients.emplace_back([&executors, client] {
      Buffer x(kLength);
      for (int round = 0; round < 200; ++round) {
        top::Executor& executor = *executors[(client + round) % executors.size()];
        x.randomise(client * 1000 + round);
        const bool negative = round % 5 == 4;
        x[0] = negative ? -1.0f : 1.0f;
        if (negative) {
          CHECK_THROWS(run(executor, x), std::runtime_error,
                       "Op 'first' failed: ValueError: the first element is negative");
        } else {
          check_outputs(x, run(executor, x));
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
}

template <typename Change>
void expect_refused(const char* text, Change&& change) {
  top::PlanData plan = diamond(2);
  change(plan);
  CHECK_THROWS(top::Executor(plan, {}, find_kernel, nullptr), std::exception, text);
}

void bad_plans_are_refused() {
  expect_refused("multiple of 64", [](top::PlanData& plan) { plan.tensors[2].offset = 32; });
  expect_refused("reaches beyond", [](top::PlanData& plan) { plan.arena_bytes -= 64; });
  expect_refused("reaches beyond",
                 [](top::PlanData& plan) { plan.tensors[2].offset = SIZE_MAX - 63; });
  expect_refused("read-only", [](top::PlanData& plan) { plan.calls[0].args[1] = 0; });
  expect_refused("not before it", [](top::PlanData& plan) { plan.calls[2].waits = {2}; });
  expect_refused("not 1 or all", [](top::PlanData& plan) { plan.calls[2].threads = 3; });
  expect_refused("stream of op", [](top::PlanData& plan) { plan.calls[2].stream = 2; });
  expect_refused("kernel of op", [](top::PlanData& plan) { plan.calls[2].kernel = 9; });
  expect_refused("argument of op", [](top::PlanData& plan) { plan.calls[2].args[0] = -1; });
  expect_refused("outputs of op", [](top::PlanData& plan) { plan.calls[2].num_outputs = 3; });
  expect_refused("no kernel 'sub'", [](top::PlanData& plan) { plan.kernels[0].symbol = "sub"; });
  expect_refused("oneDNN", [](top::PlanData& plan) { plan.kernels[0].library = "onednn"; });
  expect_refused("unknown library", [](top::PlanData& plan) { plan.kernels[0].library = "mkl"; });
  expect_refused("does not exist", [](top::PlanData& plan) {
    plan.tensors[2].space = top::Space::kConstant;
    plan.tensors[2].storage = "w";
  });
  expect_refused("does not list", [](top::PlanData& plan) {
    plan.tensors[1].storage = "z";
    plan.outputs = {};
  });
  expect_refused("1 to 1024", [](top::PlanData& plan) { plan.streams = 0; });

  top::Executor executor(diamond(2), {}, find_kernel, nullptr);
  Buffer x(kLength + 1);
  CHECK_THROWS(executor.run({x.data()}, {}, nullptr), std::invalid_argument, "4 outputs");
  std::vector<void*> outputs(4, x.data());
  CHECK_THROWS(executor.run({x.data() + 1}, outputs, nullptr), std::invalid_argument,
               "not aligned");
}

}  // namespace

int main() {
  results_and_times(1);
  results_and_times(2);
  many_clients();
  bad_plans_are_refused();
  results_and_times(5);
  top::WorkerPool::shut_down();
  return top::testing::result("executor");
}
