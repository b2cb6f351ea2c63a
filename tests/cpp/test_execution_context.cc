// Execution contexts started asynchronously: random plans with and without gang calls on random
// workers, many at once, started by clients and by runs that finish; kernels that fail; arenas
// given per run.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/execution_context.h"
#include "runtime/executor.h"
#include "runtime/kernel_error.h"
#include "runtime/team.h"
#include "runtime/waiting.h"
#include "runtime/worker_pool.h"
#include "tests/cpp/check.h"
#include "tests/cpp/plans.h"

namespace {

using top::testing::Buffer;
using top::testing::PlanBuilder;
using Random = std::mt19937;

int below(Random& random, int limit) { return static_cast<int>(random() % limit); }

// --- Kernels. A value of the graph is two floats: the value itself and how often it was computed
// ---

float* data(const TVMFFIAny& arg) {
  return static_cast<float*>(static_cast<const DLTensor*>(arg.v_ptr)->data);
}

float combine(float sum, float value) { return std::fmod(3 * sum + value + 1, 1000.0f); }

int combine_all(void*, const TVMFFIAny* args, int32_t num_args, TVMFFIAny*) {
  float sum = 0;
  for (int32_t i = 0; i + 1 < num_args; ++i) sum = combine(sum, data(args[i])[0]);
  float* out = data(args[num_args - 1]);
  out[0] = sum;
  out[1] += 1;
  return 0;
}

// The same in a parallel region in which every member takes part.
int combine_together(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result) {
  std::atomic<int> members{0};
  const auto body = [](void* argument, int, int threads) {
    static_cast<std::atomic<int>*>(argument)->fetch_add(1);
    top::region_barrier(threads);
  };
  const int threads = top::begin_region(body, &members, 0);
  body(&members, 0, threads);
  top::end_region(threads);
  CHECK(members.load() == threads);
  return combine_all(self, args, num_args, result);
}

int refuse_negative(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result) {
  if (data(args[0])[0] < 0) {
    top::raise_kernel_error("ValueError", "the input is negative");
    return -1;
  }
  return combine_all(self, args, num_args, result);
}

top::Latch* entered = nullptr;
top::Latch* leave = nullptr;
int stay(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result) {
  top::Latch* const may_leave = leave;
  entered->set();
  may_leave->wait();
  return combine_all(self, args, num_args, result);
}

TVMFFISafeCallType find_kernel(const std::string& symbol) {
  if (symbol == "combine_all") return combine_all;
  if (symbol == "combine_together") return combine_together;
  if (symbol == "refuse_negative") return refuse_negative;
  if (symbol == "stay") return stay;
  throw std::runtime_error("no kernel '" + symbol + "'");
}

// --- Random models ---

struct Model {
  std::unique_ptr<top::Executor> executor;
  std::vector<std::vector<int>> reads;  // per call: earlier calls, -1 for the input
  std::string refusing;                 // the op that fails for a negative input, if there is one
};

// Tensor 0 is the input, tensor 1 + i the value of call i, all in the arena but the last one, which
// is an output; call 0 is an output that is copied from the arena.
Model random_model(Random& random, int streams, int gang_percent) {
  Model model;
  PlanBuilder build(streams);
  const int alone = build.kernel("tvm", "combine_all"),
            all = build.kernel("tvm", "combine_together");
  const int refuse = build.kernel("tvm", "refuse_negative");
  build.input("x", {2});
  const int calls = 2 + below(random, 30);
  const int refusing = below(random, 3) == 0 ? below(random, calls) : -1;
  for (int call = 0; call < calls; ++call) {
    const int target =
        call + 1 < calls ? build.arena("t" + std::to_string(call), {2}) : build.output("y", {2});
    const bool gang = call != refusing && below(random, 100) < gang_percent;
    const int stream = below(random, streams);
    std::vector<int> reads, args, waits;
    if (call == refusing) reads.push_back(-1);
    for (int i = below(random, 4); i >= 0; --i) reads.push_back(below(random, call + 1) - 1);
    for (int read : reads) {
      args.push_back(1 + read);
      if (read >= 0 && build.plan.calls[read].stream != stream) waits.push_back(read);
    }
    args.push_back(target);
    const std::string op = "op" + std::to_string(call);
    build.call(op,
               gang               ? all
               : call == refusing ? refuse
                                  : alone,
               args, stream, gang ? streams : 1, waits);
    if (call == refusing) model.refusing = op;
    model.reads.push_back(reads);
  }
  build.plan.outputs.push_back(1);
  model.executor =
      std::make_unique<top::Executor>(build.plan, top::Constants{}, find_kernel, nullptr);
  return model;
}

// --- Instances: runs of one model, one after the other, each started by the one before ---

class Instance {
 public:
  Instance(const Model& model, uint32_t seed, int runs)
      : model_(model), random_(seed), left_(runs), context_(*model.executor) {}

  // Also called by the worker that finished the run before.
  void start(top::WorkerPool& pool) {
    const top::PlanData& plan = model_.executor->plan();
    pool_ = &pool;
    arena_ = &arenas_[left_ % 2];
    for (size_t i = 0; i < plan.arena_bytes / 4; ++i) (*arena_)[i] = 0;
    x_[0] = static_cast<float>(below(random_, 40) - 10);
    for (const Buffer* output : {&y_, &copied_}) (*output)[0] = (*output)[1] = 0;
    const void* input = x_.data();
    void* outputs[] = {y_.data(), copied_.data()};
    times_.assign(plan.calls.size(), {-1, -1});
    context_.prepare({arena_->data(), &input, outputs}, times_.data(),
                     [this](top::ExecutionContext&) { completed(); });
    std::vector<int> order(pool.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
    std::shuffle(order.begin(), order.end(), random_);
    std::vector<int> workers = context_.workers_from(0);
    for (size_t i = 0; i < workers.size(); ++i) {
      if (workers[i] != top::kNoWorker) workers[i] = order[i];
    }
    pool.start(context_, workers);
  }

  top::Latch done;

 private:
  void completed() {
    if (x_[0] < 0 && !model_.refusing.empty()) {
      CHECK(context_.failed());
      CHECK(context_.failure() ==
            "Op '" + model_.refusing + "' failed: ValueError: the input is negative");
    } else {
      CHECK(!context_.failed());
      check_values();
    }
    if (--left_ > 0) {
      start(*pool_);
    } else {
      done.set();
    }
  }

  void check_values() const {
    std::vector<float> values;
    for (size_t call = 0; call < model_.reads.size(); ++call) {
      float expected = 0;
      for (int read : model_.reads[call]) {
        expected = combine(expected, read < 0 ? x_[0] : values[read]);
      }
      values.push_back(expected);
      const bool is_last = call + 1 == model_.reads.size();
      const size_t offset = model_.executor->plan().tensors[1 + call].offset / 4;
      const float* given = is_last ? y_.data() : arena_->data() + offset;
      CHECK(given[0] == expected);
      CHECK(given[1] == 1);
      CHECK(0 <= times_[call].start_ns && times_[call].start_ns <= times_[call].end_ns);
    }
    CHECK(copied_[0] == values[0] && copied_[1] == 1);
  }

  const Model& model_;
  Random random_;
  int left_;
  top::WorkerPool* pool_ = nullptr;
  Buffer arenas_[2] = {Buffer(32 * 16), Buffer(32 * 16)};
  Buffer* arena_ = nullptr;
  Buffer x_{2}, y_{2}, copied_{2};
  std::vector<top::CallTime> times_;
  top::ExecutionContext context_;
};

void random_mixes(int workers, int rounds) {
  const auto pool = top::WorkerPool::of_process(workers);
  Random random(workers);
  std::vector<Model> models;
  for (int i = 0; i < 24; ++i) {
    models.push_back(
        random_model(random, 1 + below(random, workers), i % 3 == 0 ? 0 : 20 * (i % 3)));
  }
  std::vector<std::thread> clients;
  for (int client = 0; client < 4; ++client) {
    clients.emplace_back([&, client] {
      Random random(1000 * workers + client);
      for (int round = 0; round < rounds; ++round) {
        std::vector<std::unique_ptr<Instance>> instances;
        for (int i = 0; i < 4; ++i) {
          const Model& model = models[below(random, static_cast<int>(models.size()))];
          instances.push_back(std::make_unique<Instance>(model, random(), 1 + below(random, 6)));
        }
        for (const auto& instance : instances) instance->start(*pool);
        // Runs of clients that wait share the same workers.
        const Model& model = models[below(random, static_cast<int>(models.size()))];
        Buffer x(2), y(2), copied(2);
        x[0] = 1;
        model.executor->run({x.data()}, {y.data(), copied.data()});
        for (const auto& instance : instances) instance->done.wait();
      }
    });
  }
  for (std::thread& client : clients) client.join();
}

// Two instances of one model at once, in arenas of their own, of which one stands still inside a
// kernel; and what a context says about the op it is at.
void instances_are_independent() {
  PlanBuilder build(2);
  const int combine = build.kernel("tvm", "combine_all"), stay = build.kernel("tvm", "stay");
  const int x = build.input("x", {2}), y = build.output("y", {2});
  const int a = build.arena("a", {2}), b = build.arena("b", {2});
  const int first = build.call("first", combine, {x, a}, 0);
  const int stays = build.call("stays", stay, {a, b}, 1, 1, {first});
  build.call("last", combine, {b, y}, 0, 1, {stays});
  top::Executor executor(build.plan, {}, find_kernel, nullptr);
  top::ExecutionContext contexts[] = {top::ExecutionContext(executor),
                                      top::ExecutionContext(executor)};
  const auto pool = top::WorkerPool::of_process(4);
  top::Latch entries[2], exits[2], done[2];
  Buffer arenas[] = {Buffer(32), Buffer(32)}, inputs[] = {Buffer(2), Buffer(2)};
  Buffer outputs[] = {Buffer(2), Buffer(2)};
  for (int i = 0; i < 2; ++i) {
    inputs[i][0] = 10.0f * (i + 1);
    const void* input = inputs[i].data();
    void* output = outputs[i].data();
    contexts[i].prepare({arenas[i].data(), &input, &output}, nullptr,
                        [&, i](top::ExecutionContext&) { done[i].set(); });
    CHECK(contexts[i].current_op(0) == "first" && contexts[i].current_op(1) == "stays");
  }
  entered = &entries[0];
  leave = &exits[0];
  pool->start(contexts[0], {0, 1});
  entries[0].wait();
  entered = &entries[1];
  leave = &exits[1];
  pool->start(contexts[1], {0, 2});
  entries[1].wait();
  while (contexts[0].current_op(0) != "last") std::this_thread::yield();
  CHECK(contexts[0].current_op(1) == "stays");
  exits[1].set();
  done[1].wait();
  exits[0].set();
  done[0].wait();
  CHECK(contexts[0].current_op(0).empty());
  for (int i = 0; i < 2; ++i) {
    float value = inputs[i][0];
    for (int call = 0; call < 3; ++call) value = ::combine(0, value);
    CHECK(outputs[i][0] == value && arenas[i][1] == 1 && arenas[i][17] == 1);
  }
}

// Outputs that no call computes are copied all the same.
void plans_without_calls_finish() {
  PlanBuilder build(2);
  build.plan.outputs.push_back(build.input("x", {2}));
  top::Executor executor(build.plan, {}, find_kernel, nullptr);
  Buffer x(2), given(2);
  x.randomise(3);
  executor.run({x.data()}, {given.data()});
  CHECK(given[0] == x[0] && given[1] == x[1]);
  top::ExecutionContext context(executor);
  top::Latch done;
  x.randomise(4);
  const void* input = x.data();
  void* output = given.data();
  context.prepare({nullptr, &input, &output}, nullptr,
                  [&done](top::ExecutionContext&) { done.set(); });
  top::WorkerPool::of_process(2)->start(context, context.workers_from(1));
  done.wait();
  CHECK(given[0] == x[0] && given[1] == x[1]);
}

}  // namespace

int main() {
  plans_without_calls_finish();
  random_mixes(2, 150);
  random_mixes(5, 100);  // more than cores on small machines: parks instead of spinning
  instances_are_independent();
  top::WorkerPool::shut_down();
  return top::testing::result("execution_context");
}
