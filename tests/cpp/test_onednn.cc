// oneDNN kernels against naive loops, through the executor, with one and with two threads.
#include <algorithm>
#include <cmath>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <stdexcept>
#include <thread>
#include <vector>

#include "runtime/executor.h"
#include "runtime/library_module.h"
#include "runtime/worker_pool.h"
#include "tests/cpp/check.h"
#include "tests/cpp/plans.h"

namespace {

using top::testing::Buffer;
using top::testing::PlanBuilder;

const top::FindKernel no_kernel = [](const std::string& symbol) -> TVMFFISafeCallType {
  throw std::runtime_error(symbol);
};

void check_close(const Buffer& given, const Buffer& expected) {
  for (size_t i = 0; i < expected.size(); ++i) {
    CHECK(std::abs(given[i] - expected[i]) <= 1e-4f * (1 + std::abs(expected[i])));
  }
}

// One op as a plan of its own: constants are the arguments with a name in `constants`.
struct Operand {
  const char* name;
  std::vector<int64_t> shape;
  bool constant;
};

size_t elements(const std::vector<int64_t>& shape) {
  size_t count = 1;
  for (int64_t dimension : shape) count *= dimension;
  return count;
}

struct Op {
  std::string symbol;
  std::map<std::string, std::vector<int64_t>> attributes;
  std::vector<Operand> operands;  // without the output
  std::vector<int64_t> out_shape;

  top::PlanData plan(int threads) const {
    PlanBuilder build(threads);
    std::vector<int> args;
    for (const Operand& operand : operands) {
      args.push_back(operand.constant ? build.constant(operand.name, operand.shape)
                                      : build.input(operand.name, operand.shape));
    }
    args.push_back(build.output("out", out_shape));
    build.call("op", build.kernel("onednn", symbol, attributes), args, 0, threads);
    return build.plan;
  }
};

void check_op(const Op& op, const TopLibraryKernels& library,
              void (*reference)(const Op&, const std::vector<Buffer>&, const Buffer&)) {
  std::vector<Buffer> data;
  top::Constants constants;
  std::vector<const void*> inputs;
  for (size_t i = 0; i < op.operands.size(); ++i) {
    const Operand& operand = op.operands[i];
    data.emplace_back(elements(operand.shape));
    data.back().randomise(static_cast<uint32_t>(17 * i + 3));
    if (operand.constant) {
      constants[operand.name] = {data.back().data(), data.back().size() * 4};
    } else {
      inputs.push_back(data.back().data());
    }
  }
  Buffer expected(elements(op.out_shape));
  reference(op, data, expected);
  for (int threads : {1, 2}) {
    top::Executor executor(op.plan(threads), constants, no_kernel, &library);
    for (int round = 0; round < 3; ++round) {
      Buffer out(expected.size());
      executor.run(inputs, {out.data()});
      check_close(out, expected);
    }
  }
}

int64_t value(const Op& op, const char* name, size_t position = 0) {
  const auto found = op.attributes.find(name);
  return found == op.attributes.end() ? 0 : found->second[position];
}

// Bias, residual and ReLU, in this order, on a finished product.
void finish(const Op& op, const std::vector<Buffer>& data, const Buffer& out) {
  const size_t channels = op.out_shape.back();
  size_t next = 2;
  const Buffer* bias = value(op, "bias") != 0 ? &data[next++] : nullptr;
  const Buffer* residual = value(op, "residual") != 0 ? &data[next++] : nullptr;
  for (size_t i = 0; i < out.size(); ++i) {
    if (bias != nullptr) out[i] += (*bias)[i % channels];
    if (residual != nullptr) out[i] += (*residual)[i];
    if (value(op, "relu") != 0 && out[i] < 0) out[i] = 0;
  }
}

void naive_conv2d(const Op& op, const std::vector<Buffer>& data, const Buffer& out) {
  const auto &x = op.operands[0].shape, &w = op.operands[1].shape, &y = op.out_shape;
  const int64_t groups = std::max<int64_t>(1, value(op, "groups"));
  const int64_t out_per_group = w[0] / groups;
  size_t at = 0;
  for (int64_t n = 0; n < y[0]; ++n)
    for (int64_t i = 0; i < y[1]; ++i)
      for (int64_t j = 0; j < y[2]; ++j)
        for (int64_t o = 0; o < y[3]; ++o, ++at) {
          double sum = 0;
          for (int64_t c = 0; c < w[1]; ++c)
            for (int64_t k = 0; k < w[2]; ++k)
              for (int64_t l = 0; l < w[3]; ++l) {
                const int64_t row = i * value(op, "strides", 0) + k * value(op, "dilation", 0) -
                                    value(op, "padding", 0);
                const int64_t column = j * value(op, "strides", 1) + l * value(op, "dilation", 1) -
                                       value(op, "padding", 1);
                if (row < 0 || row >= x[1] || column < 0 || column >= x[2]) continue;
                const int64_t channel = o / out_per_group * w[1] + c;
                sum += data[0][((n * x[1] + row) * x[2] + column) * x[3] + channel] *
                       data[1][((o * w[1] + c) * w[2] + k) * w[3] + l];
              }
          out[at] = static_cast<float>(sum);
        }
  finish(op, data, out);
}

// B is the same for all matrices of A, or there is one for each.
void naive_matmul(const Op& op, const std::vector<Buffer>& data, const Buffer& out) {
  const auto &a = op.operands[0].shape, &b = op.operands[1].shape;
  const bool transpose = value(op, "transpose_b") != 0;
  const int64_t rows = a[a.size() - 2], inner = a.back(), columns = op.out_shape.back();
  const int64_t matrices = static_cast<int64_t>(out.size()) / (rows * columns);
  for (int64_t m = 0; m < matrices; ++m)
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j) {
        double sum = 0;
        const int64_t base = b.size() == 2 ? 0 : m * inner * columns;
        for (int64_t k = 0; k < inner; ++k) {
          sum += data[0][(m * rows + i) * inner + k] *
                 data[1][base + (transpose ? j * inner + k : k * columns + j)];
        }
        out[(m * rows + i) * columns + j] = static_cast<float>(sum);
      }
  finish(op, data, out);
}

// Stride, padding (top, left, bottom, right), dilation, groups and epilogue of a convolution.
struct Conv {
  std::vector<int64_t> data, weight;
  std::vector<int64_t> strides = {1, 1}, padding = {0, 0, 0, 0}, dilation = {1, 1};
  int64_t groups = 1, bias = 1, residual = 0, relu = 0;

  Op op() const {
    std::vector<int64_t> out = {data[0], 0, 0, weight[0]};
    for (int axis = 0; axis < 2; ++axis) {
      const int64_t extent = (weight[2 + axis] - 1) * dilation[axis] + 1;
      out[1 + axis] =
          (data[1 + axis] + padding[axis] + padding[2 + axis] - extent) / strides[axis] + 1;
    }
    Op op{"conv2d",
          {{"strides", strides},
           {"padding", padding},
           {"dilation", dilation},
           {"groups", {groups}},
           {"bias", {bias}},
           {"residual", {residual}},
           {"relu", {relu}}},
          {{"data", data, false}, {"weight", weight, true}},
          out};
    if (bias != 0) op.operands.push_back({"bias", {weight[0]}, true});
    if (residual != 0) op.operands.push_back({"residual", out, false});
    return op;
  }
};

std::vector<Op> convolutions() {
  std::vector<Conv> list(11);
  list[0] = {{1, 9, 11, 16}, {32, 16, 3, 3}};
  list[0].padding = {1, 1, 1, 1};
  list[1] = {{2, 14, 14, 3}, {8, 3, 7, 7}};
  list[1].strides = {2, 2};
  list[1].padding = {3, 2, 1, 4};
  list[2] = {{1, 12, 10, 5}, {7, 5, 3, 2}};
  list[2].dilation = {2, 3};
  list[2].bias = 0;
  list[3] = {{1, 10, 10, 24}, {48, 8, 3, 3}};
  list[3].groups = 3;
  list[3].relu = 1;
  list[4] = {{2, 10, 9, 32}, {32, 1, 3, 3}};
  list[4].groups = 32;
  list[4].padding = {0, 1, 1, 0};
  list[4].strides = {2, 1};
  list[5] = {{1, 8, 8, 64}, {64, 64, 1, 1}};
  list[5].residual = 1;
  list[5].relu = 1;
  list[6] = {{1, 8, 8, 16}, {16, 16, 3, 3}};
  list[6].padding = {1, 1, 1, 1};
  list[6].residual = 1;
  list[7] = list[6];
  list[7].bias = 0;
  list[7].relu = 1;
  list[8] = {{4, 1, 1, 40}, {10, 40, 1, 1}};
  list[9] = {{1, 13, 13, 8}, {8, 8, 1, 7}};
  list[9].padding = {0, 3, 0, 3};
  list[9].strides = {1, 2};
  list[10] = {{1, 10, 10, 6}, {12, 3, 3, 3}};
  list[10].groups = 2;
  list[10].residual = 1;
  list[10].relu = 1;
  std::vector<Op> ops;
  for (const Conv& conv : list) ops.push_back(conv.op());
  return ops;
}

Op matmul(std::vector<int64_t> a, std::vector<int64_t> b, bool constant_b, bool transpose,
          bool bias, bool residual, bool relu) {
  std::vector<int64_t> out = a;
  out.back() = transpose ? b[b.size() - 2] : b.back();
  Op op{
      "matmul",
      {{"transpose_b", {transpose}}, {"bias", {bias}}, {"residual", {residual}}, {"relu", {relu}}},
      {{"a", std::move(a), false}, {"b", std::move(b), constant_b}},
      out};
  if (bias) op.operands.push_back({"bias", {out.back()}, true});
  if (residual) op.operands.push_back({"residual", out, false});
  return op;
}

std::vector<Op> matmuls() {
  return {
      matmul({7, 33}, {33, 19}, true, false, true, false, true),
      matmul({1, 256}, {100, 256}, true, true, true, false, false),
      matmul({2, 5, 16}, {16, 24}, true, false, true, true, true),
      matmul({6, 10}, {10, 12}, false, false, false, false, false),
      matmul({6, 10}, {12, 10}, false, true, false, true, false),
      matmul({2, 3, 8, 16}, {2, 3, 16, 8}, false, false, false, false, false),
      matmul({2, 3, 8, 16}, {2, 3, 8, 16}, false, true, true, false, true),
      matmul({3, 64, 64}, {3, 64, 64}, true, false, false, false, false),
  };
}

void bad_specs_are_refused(const TopLibraryKernels& library) {
  Buffer weight(32 * 16 * 9), bias(32);
  const top::Constants constants = {{"weight", {weight.data(), weight.size() * 4}},
                                    {"bias", {bias.data(), bias.size() * 4}}};
  const auto expect = [&](const char* text, auto&& change) {
    Op op = convolutions()[0];
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
  const Op op = convolutions()[0];
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
  check_op(convolutions()[0], library, naive_conv2d);
  for (std::thread& stranger : strangers) stranger.join();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return EXIT_FAILURE;
  const TopLibraryKernels& library = top::load_library_kernels(argv[1]);
  CHECK(&library == &top::load_library_kernels(argv[1]));
  CHECK_THROWS(top::load_library_kernels("/nonexistent.so"), std::runtime_error, "Cannot load");
  for (const Op& op : convolutions()) check_op(op, library, naive_conv2d);
  for (const Op& op : matmuls()) check_op(op, library, naive_matmul);
  bad_specs_are_refused(library);
  concurrent_clients(library);
  packed_weights_are_shared(library);
#ifndef TOP_TVM_THREAD_SANITIZER  // which cannot see how libgomp's threads synchronise
  foreign_use_goes_on(library);
#else
  (void)foreign_use_goes_on;
#endif
  top::WorkerPool::shut_down();
  return top::testing::result("onednn");
}
