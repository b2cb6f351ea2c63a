// oneDNN kernels against naive loops, through the executor, with one and with two threads.
#include <cmath>
#include <cstring>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <stdexcept>
#include <thread>
#include <vector>

#include "runtime/executor.h"
#include "runtime/library_module.h"
#include "runtime/shared_kernels.h"
#include "runtime/worker_pool.h"
#include "tests/cpp/check.h"
#include "tests/cpp/onednn/op.h"
#include "tests/cpp/plans.h"

namespace {

using namespace top::testing;

void bad_specs_are_refused(const TopLibraryKernels& library) {
  Buffer weight(32 * 16 * 9), bias(32);
  const top::Constants constants = {{"weight", {weight.data(), weight.size() * 4}},
                                    {"bias", {bias.data(), bias.size() * 4}}};
  const auto expect = [&](const char* text, auto&& change) {
    Op op = convolutions().ops[0];
    change(op);
    CHECK_THROWS(top::Executor(op.plan(1), constants, no_kernel, &library), std::runtime_error,
                 text);
  };
  expect("there is no such kernel", [](Op& op) { op.symbol = "conv5d"; });
  expect("'strides' is missing", [](Op& op) { op.attributes.erase("strides"); });
  expect("'padding' must have 4", [](Op& op) { op.attributes["padding"] = {1, 1}; });
  expect("expected 4 arguments", [](Op& op) { op.operands.pop_back(); });
  expect("do not fit the groups", [](Op& op) { op.attributes["groups"] = {5}; });
  expect("weight must be a constant", [](Op& op) { op.operands[1].constant = false; });
  expect("'strides' must have integers", [](Op& op) { op.attributes["strides"] = {1, 1.5}; });
  expect("'relu' is not known", [](Op& op) { op.attributes["relu"] = {1}; });
  expect("no operation 'square'", [](Op& op) { op.attributes["post0.square"] = {}; });
  expect("'clip' must have 2", [](Op& op) { op.attributes["post0.clip"] = {1}; });
  expect("Cannot create op 'op'", [](Op& op) { op.out_shape[1] += 1; });
}

// Several clients of one executor with two ops on two streams and one on both.
void concurrent_clients(const TopLibraryKernels& library) {
  PlanBuilder build(2);
  const int conv = build.kernel(
      "onednn", "conv2d", {{"strides", {1, 1}}, {"padding", {1, 1, 1, 1}}, {"dilation", {1, 1}}});
  const int x = build.input("x", {1, 12, 12, 16}), w = build.constant("w", {16, 16, 3, 3});
  const int a = build.arena("a", {1, 12, 12, 16}), b = build.arena("b", {1, 12, 12, 16});
  const int y = build.output("y", {1, 12, 12, 16}), z = build.output("z", {1, 12, 12, 16});
  build.call("gang", conv, {x, w, a}, 1, 2);
  const int left = build.call("left", conv, {a, w, b}, 0);
  build.call("right", conv, {a, w, z}, 1);
  build.call("last", conv, {b, w, y}, 1, 1, {left});
  Buffer weight(16 * 16 * 9), input(12 * 12 * 16), expected(12 * 12 * 16), other(12 * 12 * 16);
  weight.randomise(1);
  input.randomise(2);
  top::Executor executor(build.plan, {{"w", {weight.data(), weight.size() * 4}}}, no_kernel,
                         &library);
  executor.run({input.data()}, {expected.data(), other.data()});
  CHECK(expected[77] != other[77]);
  std::vector<std::thread> clients;
  for (int client = 0; client < 8; ++client) {
    clients.emplace_back([&] {
      for (int round = 0; round < 50; ++round) {
        Buffer out(expected.size()), second(expected.size());
        executor.run({input.data()}, {out.data(), second.data()});
        CHECK(std::memcmp(out.data(), expected.data(), out.size() * 4) == 0);
        CHECK(std::memcmp(second.data(), other.data(), out.size() * 4) == 0);
      }
    });
  }
  for (std::thread& client : clients) client.join();
}

// Thread forms share the packed weights: one that is created after the constant has changed still
// computes with the copy that the first one made. Once nobody uses the copy it is forgotten.
void packed_weights_are_shared(const TopLibraryKernels& library) {
  const Op op = convolutions().ops[0];
  Buffer data(elements(op.operands[0].shape)), weight(elements(op.operands[1].shape)), bias(32);
  data.randomise(1);
  weight.randomise(2);
  const top::Constants constants = {{"weight", {weight.data(), weight.size() * 4}},
                                    {"bias", {bias.data(), bias.size() * 4}}};
  const auto make = [&](int threads) {
    return std::make_unique<top::Executor>(op.plan(threads), constants, no_kernel, &library);
  };
  const auto run = [&](top::Executor& executor) {
    Buffer out(elements(op.out_shape));
    executor.run({data.data()}, {out.data()});
    return out;
  };
  auto single = make(1);
  const Buffer before = run(*single);
  for (size_t i = 0; i < weight.size(); ++i) weight[i] *= 2;
  auto gang = make(2);
  check_close(run(*gang), before);
  single.reset();
  check_close(run(*gang), before);
  gang.reset();
  const Buffer after = run(*make(2));
  for (size_t i = 0; i < after.size(); ++i) CHECK(std::abs(after[i] - 2 * before[i]) < 1e-4f);
}

// Equal kernels are one kernel, whoever asks, until the last user is gone; everything that makes
// them different counts.
void equal_kernels_are_shared(const TopLibraryKernels& library) {
  const Op op = convolutions().ops[0];
  Buffer data(elements(op.operands[0].shape)), weight(elements(op.operands[1].shape)), bias(32);
  Buffer other_bias(32);
  data.randomise(1);
  weight.randomise(2);
  const auto make = [&](const top::PlanData& plan, const Buffer& bias) {
    std::vector<DLTensor> args;
    for (int index : plan.calls[0].args) {
      const top::TensorData& tensor = plan.tensors[index];
      void* constant = tensor.name == "weight" ? weight.data() : bias.data();
      args.push_back({tensor.space == top::Space::kConstant ? constant : nullptr,
                      {kDLCPU, 0},
                      static_cast<int32_t>(tensor.shape.size()),
                      tensor.dtype,
                      const_cast<int64_t*>(tensor.shape.data()),
                      nullptr,
                      0});
    }
    return top::shared_library_kernel(library, plan.kernels[0], args, plan.calls[0].threads);
  };
  top::LibraryKernel kernel = make(op.plan(1), bias);
  const auto expect_another = [&](const top::PlanData& plan, const Buffer& bias) {
    CHECK(make(plan, bias) != kernel);
  };
  CHECK(make(op.plan(1), bias) == kernel);
  expect_another(op.plan(2), bias);
  expect_another(op.plan(1), other_bias);
  top::PlanData larger = op.plan(1);
  for (top::TensorData& tensor : larger.tensors) {
    if (tensor.space != top::Space::kConstant) tensor.shape[0] = 2;
  }
  expect_another(larger, bias);
  Op followed = op;
  followed.attributes["post0.relu"] = {0};
  const top::LibraryKernel relu = make(followed.plan(1), bias);
  CHECK(relu != kernel);
  followed.attributes["post0.relu"] = {0.5};
  CHECK(make(followed.plan(1), bias) != relu);

  const std::weak_ptr<void> seen = kernel;
  kernel.reset();
  CHECK(seen.expired());

  // Executors come and go on several threads, and use what they share at the same time.
  const top::Constants constants = {{"weight", {weight.data(), weight.size() * 4}},
                                    {"bias", {bias.data(), bias.size() * 4}}};
  const auto run = [&](int threads, const Buffer& out) {
    top::Executor(op.plan(threads), constants, no_kernel, &library)
        .run({data.data()}, {out.data()});
  };
  Buffer expected(elements(op.out_shape));
  run(1, expected);
  std::vector<std::thread> clients;
  for (int client = 0; client < 6; ++client) {
    clients.emplace_back([&] {
      Buffer out(expected.size());
      for (int round = 0; round < 30; ++round) {
        run(1 + round % 2, out);
        check_close(out, expected);
      }
    });
  }
  for (std::thread& client : clients) client.join();
}

// Somebody else in the process uses the same libdnnl on threads of their own: their parallel
// regions are still libgomp's. Several at once, while the runtime executes gang calls.
void foreign_use_goes_on(const TopLibraryKernels& library) {
  const auto multiply = [] {
    const dnnl::memory::desc square({64, 64}, dnnl::memory::data_type::f32,
                                    dnnl::memory::format_tag::ab);
    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    dnnl::stream stream(engine);
    const dnnl::matmul product(dnnl::matmul::primitive_desc(engine, square, square, square));
    Buffer a(64 * 64), c(64 * 64);
    for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(i % 64 == i / 64);
    Buffer b(64 * 64);
    b.randomise(5);
    for (int round = 0; round < 20; ++round) {
      product.execute(stream, {{DNNL_ARG_SRC, {square, engine, a.data()}},
                               {DNNL_ARG_WEIGHTS, {square, engine, b.data()}},
                               {DNNL_ARG_DST, {square, engine, c.data()}}});
      CHECK(std::memcmp(b.data(), c.data(), c.size() * 4) == 0);
    }
  };
  std::vector<std::thread> strangers;
  for (int i = 0; i < 3; ++i) strangers.emplace_back(multiply);
  const Family family = convolutions();
  check_op(family.ops[0], library, family.reference);
  for (std::thread& stranger : strangers) stranger.join();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return EXIT_FAILURE;
  const TopLibraryKernels& library = top::load_library_kernels(argv[1]);
  CHECK(&library == &top::load_library_kernels(argv[1]));
  CHECK_THROWS(top::load_library_kernels("/nonexistent.so"), std::runtime_error, "Cannot load");
  for (const Family& family : {convolutions(), activations(), deconvolutions(), matmuls(), pools(),
                               softmaxes(), layer_norms(), local_response_norms()}) {
    for (const Op& op : family.ops) check_op(op, library, family.reference);
  }
  check_loose_tensors(library);
  bad_specs_are_refused(library);
  concurrent_clients(library);
  packed_weights_are_shared(library);
  equal_kernels_are_shared(library);
#ifndef TOP_TVM_THREAD_SANITIZER  // which cannot see how libgomp's threads synchronise
  foreign_use_goes_on(library);
#else
  (void)foreign_use_goes_on;
#endif
  top::WorkerPool::shut_down();
  return result("onednn");
}
