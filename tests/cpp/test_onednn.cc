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
  std::map<std::string, std::vector<double>> attributes;
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

double number(const Op& op, const char* name, size_t position = 0) {
  const auto found = op.attributes.find(name);
  return found == op.attributes.end() ? 0 : found->second[position];
}

int64_t value(const Op& op, const char* name, size_t position = 0) {
  return static_cast<int64_t>(number(op, name, position));
}

std::vector<double> doubles(const std::vector<int64_t>& values) {
  return {values.begin(), values.end()};
}

// oneDNN's definitions of the operations of an epilogue.
double applied(const std::string& operation, const std::vector<double>& p, double x) {
  const auto clipped = [](double y) { return std::min(1.0, std::max(0.0, y)); };
  if (operation == "relu") return x < 0 ? p[0] * x : x;
  if (operation == "linear") return p[0] * x + p[1];
  if (operation == "clip") return std::min(p[1], std::max(p[0], x));
  if (operation == "sigmoid") return 1 / (1 + std::exp(-x));
  if (operation == "tanh") return std::tanh(x);
  if (operation == "gelu_erf") return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
  if (operation == "gelu_tanh") {
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }
  if (operation == "swish") return x / (1 + std::exp(-p[0] * x));
  if (operation == "hardsigmoid") return clipped(p[0] * x + p[1]);
  if (operation == "hardswish") return x * clipped(p[0] * x + p[1]);
  throw std::logic_error("no reference for " + operation);
}

// The epilogue on a finished product: bias, then the operations in the order of their names.
void finish(const Op& op, const std::vector<Buffer>& data, const Buffer& out) {
  const size_t channels = op.out_shape.back();
  const Buffer* bias = value(op, "bias") != 0 ? &data[2] : nullptr;
  const Buffer& residual = data.back();
  for (size_t i = 0; i < out.size(); ++i) {
    if (bias != nullptr) out[i] += (*bias)[i % channels];
    for (const auto& [name, parameters] : op.attributes) {
      if (name.compare(0, 4, "post") != 0) continue;
      const std::string operation = name.substr(name.find('.') + 1);
      out[i] = static_cast<float>(operation == "residual" ? out[i] + residual[i]
                                                          : applied(operation, parameters, out[i]));
    }
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

// The strides of a tensor whose axes are read in another order, and its shape then.
struct Permuted {
  std::vector<int64_t> shape, strides;

  Permuted(const Op& op, const char* attribute, const std::vector<int64_t>& stored) {
    std::vector<int64_t> dense(stored.size(), 1);
    for (size_t axis = stored.size(); axis-- > 1;) dense[axis - 1] = dense[axis] * stored[axis];
    for (size_t axis = 0; axis < stored.size(); ++axis) {
      const bool given = op.attributes.count(attribute) != 0;
      const size_t source = given ? static_cast<size_t>(value(op, attribute, axis)) : axis;
      shape.push_back(stored[source]);
      strides.push_back(dense[source]);
    }
  }

  // Offset of the matrix that belongs to the index of C's leading dimensions.
  int64_t matrix(const std::vector<int64_t>& leading) const {
    int64_t offset = 0;
    const size_t axes = shape.size() - 2;
    for (size_t axis = 0; axis < axes; ++axis) {
      if (shape[axis] != 1) offset += leading[leading.size() - axes + axis] * strides[axis];
    }
    return offset;
  }
};

void naive_matmul(const Op& op, const std::vector<Buffer>& data, const Buffer& out) {
  const Permuted a(op, "permute_a", op.operands[0].shape);
  const Permuted b(op, "permute_b", op.operands[1].shape);
  // The axes of the product in the order in which the stored output has them.
  std::vector<int64_t> c = op.out_shape, c_strides = op.out_shape;
  const Permuted stored(op, "", op.out_shape);
  for (size_t axis = 0; axis < c.size(); ++axis) {
    const bool permuted = op.attributes.count("permute_out") != 0;
    const size_t target = permuted ? static_cast<size_t>(value(op, "permute_out", axis)) : axis;
    c[target] = op.out_shape[axis];
    c_strides[target] = stored.strides[axis];
  }
  const size_t axes = c.size() - 2;
  const int64_t inner = a.shape.back();
  std::vector<int64_t> leading(axes, 0);
  for (bool more = true; more;) {
    int64_t base = 0;
    for (size_t axis = 0; axis < axes; ++axis) base += leading[axis] * c_strides[axis];
    for (int64_t i = 0; i < c[axes]; ++i)
      for (int64_t j = 0; j < c[axes + 1]; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < inner; ++k) {
          sum +=
              data[0]
                  [a.matrix(leading) + i * a.strides[a.strides.size() - 2] + k * a.strides.back()] *
              data[1]
                  [b.matrix(leading) + k * b.strides[b.strides.size() - 2] + j * b.strides.back()];
        }
        out[base + i * c_strides[axes] + j * c_strides[axes + 1]] = static_cast<float>(sum);
      }
    more = false;
    for (size_t axis = axes; axis-- > 0 && !more;) {
      more = ++leading[axis] < c[axis];
      if (!more) leading[axis] = 0;
    }
  }
  finish(op, data, out);
}

void naive_lrn(const Op& op, const std::vector<Buffer>& data, const Buffer& out) {
  const int64_t channels = op.out_shape.back(), half = value(op, "size") / 2;
  for (int64_t at = 0; at < static_cast<int64_t>(out.size()); ++at) {
    const int64_t channel = at % channels;
    double sum = 0;
    for (int64_t other = std::max<int64_t>(0, channel - half);
         other <= std::min(channels - 1, channel + half); ++other) {
      const double x = data[0][at - channel + other];
      sum += x * x;
    }
    const double scale = number(op, "k") + number(op, "alpha") / number(op, "size") * sum;
    out[at] = static_cast<float>(data[0][at] * std::pow(scale, -number(op, "beta")));
  }
}

void naive_deconv2d(const Op& op, const std::vector<Buffer>& data, const Buffer& out) {
  const auto &x = op.operands[0].shape, &w = op.operands[1].shape, &y = op.out_shape;
  const int64_t in_per_group = x[3] / std::max<int64_t>(1, value(op, "groups"));
  for (int64_t n = 0; n < x[0]; ++n)
    for (int64_t i = 0; i < x[1]; ++i)
      for (int64_t j = 0; j < x[2]; ++j)
        for (int64_t c = 0; c < x[3]; ++c)
          for (int64_t o = 0; o < w[1]; ++o)
            for (int64_t k = 0; k < w[2]; ++k)
              for (int64_t l = 0; l < w[3]; ++l) {
                const int64_t row = i * value(op, "strides", 0) + k * value(op, "dilation", 0) -
                                    value(op, "padding", 0);
                const int64_t column = j * value(op, "strides", 1) + l * value(op, "dilation", 1) -
                                       value(op, "padding", 1);
                if (row < 0 || row >= y[1] || column < 0 || column >= y[2]) continue;
                const int64_t channel = c / in_per_group * w[1] + o;
                out[((n * y[1] + row) * y[2] + column) * y[3] + channel] +=
                    data[0][((n * x[1] + i) * x[2] + j) * x[3] + c] *
                    data[1][((c * w[1] + o) * w[2] + k) * w[3] + l];
              }
  finish(op, data, out);
}

void naive_pool2d(const Op& op, const std::vector<Buffer>& data, const Buffer& out) {
  const auto &x = op.operands[0].shape, &y = op.out_shape;
  const bool is_max = op.symbol == "max_pool2d";
  size_t at = 0;
  for (int64_t n = 0; n < y[0]; ++n)
    for (int64_t i = 0; i < y[1]; ++i)
      for (int64_t j = 0; j < y[2]; ++j)
        for (int64_t c = 0; c < y[3]; ++c, ++at) {
          double sum = 0, greatest = -1e30;
          int64_t inside = 0;
          for (int64_t k = 0; k < value(op, "window", 0); ++k)
            for (int64_t l = 0; l < value(op, "window", 1); ++l) {
              const int64_t row = i * value(op, "strides", 0) + k * value(op, "dilation", 0) -
                                  value(op, "padding", 0);
              const int64_t column = j * value(op, "strides", 1) + l * value(op, "dilation", 1) -
                                     value(op, "padding", 1);
              if (row < 0 || row >= x[1] || column < 0 || column >= x[2]) continue;
              const double v = data[0][((n * x[1] + row) * x[2] + column) * x[3] + c];
              sum += v;
              greatest = std::max(greatest, v);
              ++inside;
            }
          if (value(op, "include_padding") != 0) {
            inside = value(op, "window", 0) * value(op, "window", 1);
          }
          out[at] = static_cast<float>(is_max ? greatest : sum / static_cast<double>(inside));
        }
}

void naive_softmax(const Op& op, const std::vector<Buffer>& data, const Buffer& out) {
  const auto columns = static_cast<size_t>(op.out_shape.back());
  for (size_t row = 0; row < out.size(); row += columns) {
    double sum = 0;
    for (size_t j = row; j < row + columns; ++j) sum += std::exp(data[0][j]);
    for (size_t j = row; j < row + columns; ++j) {
      out[j] = static_cast<float>(std::exp(data[0][j]) / sum);
    }
  }
}

void naive_layer_norm(const Op& op, const std::vector<Buffer>& data, const Buffer& out) {
  const auto columns = static_cast<size_t>(op.out_shape.back());
  const auto count = static_cast<double>(columns);
  for (size_t row = 0; row < out.size(); row += columns) {
    double mean = 0, variance = 0;
    for (size_t j = 0; j < columns; ++j) mean += data[0][row + j] / count;
    for (size_t j = 0; j < columns; ++j) {
      variance += (data[0][row + j] - mean) * (data[0][row + j] - mean) / count;
    }
    for (size_t j = 0; j < columns; ++j) {
      const double normal = (data[0][row + j] - mean) / std::sqrt(variance + number(op, "epsilon"));
      out[row + j] = static_cast<float>(normal * data[1][j] + data[2][j]);
    }
  }
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
          {{"strides", doubles(strides)},
           {"padding", doubles(padding)},
           {"dilation", doubles(dilation)},
           {"groups", {static_cast<double>(groups)}},
           {"bias", {static_cast<double>(bias)}}},
          {{"data", data, false}, {"weight", weight, true}},
          out};
    int place = 0;
    if (residual != 0) op.attributes["post0.residual"] = {};
    if (residual != 0) ++place;
    if (relu != 0) op.attributes["post" + std::to_string(place) + ".relu"] = {0.0};
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

using Attributes = std::map<std::string, std::vector<double>>;

// The output's shape is given, because the attributes may permute any of the three.
Op matmul(std::vector<int64_t> a, std::vector<int64_t> b, bool constant_b, std::vector<int64_t> out,
          Attributes attributes = {}) {
  Op op{"matmul",
        std::move(attributes),
        {{"a", std::move(a), false}, {"b", std::move(b), constant_b}},
        out};
  const bool permuted = op.attributes.count("permute_out") != 0;
  if (value(op, "bias") != 0 && !permuted) op.operands.push_back({"bias", {out.back()}, true});
  for (const auto& [name, parameters] : op.attributes) {
    if (name.find(".residual") != std::string::npos)
      op.operands.push_back({"residual", out, false});
  }
  return op;
}

std::vector<Op> matmuls() {
  const std::vector<double> swap = {1, 0}, heads = {0, 2, 1, 3}, transposed_heads = {0, 2, 3, 1};
  return {
      matmul({7, 33}, {33, 19}, true, {7, 19}, {{"bias", {1}}, {"post0.relu", {0}}}),
      matmul({1, 256}, {100, 256}, true, {1, 100}, {{"permute_b", swap}, {"bias", {1}}}),
      matmul({2, 5, 16}, {16, 24}, true, {2, 5, 24},
             {{"bias", {1}}, {"post0.residual", {}}, {"post1.relu", {0}}}),
      matmul({6, 10}, {10, 12}, false, {6, 12}),
      matmul({6, 10}, {12, 10}, false, {6, 12}, {{"permute_b", swap}, {"post0.residual", {}}}),
      matmul({10, 6}, {10, 12}, false, {6, 12}, {{"permute_a", swap}, {"post0.tanh", {}}}),
      matmul({2, 3, 8, 16}, {2, 3, 16, 8}, false, {2, 3, 8, 8}),
      matmul({3, 64, 64}, {3, 64, 64}, true, {3, 64, 64}),
      // Broadcast batches, of either operand.
      matmul({2, 1, 4, 5}, {2, 3, 5, 6}, false, {2, 3, 4, 6}, {{"post0.residual", {}}}),
      matmul({2, 3, 4, 5}, {3, 5, 6}, true, {2, 3, 4, 6}, {{"bias", {1}}, {"post0.tanh", {}}}),
      matmul({4, 5}, {2, 5, 6}, false, {2, 4, 6}),
      // Attention: heads lie between the rows of Q and K, and the product goes back there.
      matmul({1, 9, 4, 8}, {1, 7, 4, 8}, false, {1, 4, 9, 7},
             {{"permute_a", heads}, {"permute_b", transposed_heads}, {"post0.linear", {0.25, 0}}}),
      matmul({1, 4, 9, 7}, {1, 7, 4, 8}, false, {1, 9, 4, 8},
             {{"permute_b", heads}, {"permute_out", heads}}),
      // A that is no matrix after the permutation, times a matrix.
      matmul({2, 5, 3, 8}, {8, 6}, true, {2, 3, 5, 6}, {{"permute_a", heads}, {"bias", {1}}}),
  };
}

std::vector<Op> operations() {
  std::vector<Op> ops;
  const std::vector<std::pair<std::string, std::vector<double>>> list = {
      {"relu", {0.125}},
      {"linear", {2, -1}},
      {"clip", {-0.5, 0.75}},
      {"sigmoid", {}},
      {"tanh", {}},
      {"gelu_erf", {}},
      {"gelu_tanh", {}},
      {"swish", {1}},
      {"hardswish", {0.25, 0.5}},
      {"hardsigmoid", {0.2, 0.5}}};
  for (const auto& [name, parameters] : list) {
    Conv conv{{1, 6, 5, 17}, {3, 17, 3, 3}};
    conv.residual = 1;
    ops.push_back(conv.op());
    ops.back().attributes["post1." + name] = parameters;  // behind the residual
    ops.push_back(conv.op());
    ops.back().attributes.erase("post0.residual");
    ops.back().attributes["post0." + name] = parameters;  // in front of it
    ops.back().attributes["post1.residual"] = {};
  }
  return ops;
}

std::vector<Op> deconvolutions() {
  const auto op = [](std::vector<int64_t> data, std::vector<int64_t> weight,
                     std::vector<int64_t> out, Attributes attributes) {
    attributes.emplace("dilation", std::vector<double>{1, 1});
    Op made{"deconv2d",
            std::move(attributes),
            {{"data", std::move(data), false}, {"weight", std::move(weight), true}},
            out};
    if (value(made, "bias") != 0) made.operands.push_back({"bias", {out.back()}, true});
    if (made.attributes.count("post0.residual") != 0) {
      made.operands.push_back({"residual", out, false});
    }
    return made;
  };
  return {
      op({1, 5, 6, 17}, {17, 3, 2, 2}, {1, 10, 12, 3},
         {{"strides", {2, 2}}, {"padding", {0, 0, 0, 0}}, {"bias", {1}}, {"post0.relu", {0}}}),
      // Output padding: the last row and column get nothing but what overlaps there.
      op({2, 4, 3, 8}, {8, 16, 3, 3}, {2, 8, 6, 16},
         {{"strides", {2, 2}}, {"padding", {1, 1, 1, 1}}, {"post0.residual", {}}}),
      op({1, 4, 5, 12}, {12, 2, 3, 2}, {1, 9, 6, 6},
         {{"strides", {2, 1}}, {"padding", {0, 0, 0, 0}}, {"groups", {3}}, {"bias", {1}}}),
      op({1, 1, 7, 6}, {6, 5, 1, 4}, {1, 1, 19, 5},
         {{"strides", {1, 3}}, {"padding", {0, 1, 0, 2}}, {"post0.tanh", {}}}),
  };
}

std::vector<Op> pools() {
  const auto op = [](const char* symbol, const std::vector<int64_t>& data,
                     const std::vector<int64_t>& out, Attributes attributes) {
    attributes.emplace("dilation", std::vector<double>{1, 1});
    return Op{symbol, std::move(attributes), {{"data", data, false}}, out};
  };
  const std::vector<double> two = {2, 2}, three = {3, 3}, none = {0, 0, 0, 0};
  std::vector<Op> ops;
  for (int64_t channels : {3, 17, 64}) {
    for (const char* symbol : {"max_pool2d", "avg_pool2d"}) {
      ops.push_back(op(symbol, {2, 9, 8, channels}, {2, 5, 5, channels},
                       {{"window", three}, {"strides", two}, {"padding", {1, 1, 1, 2}}}));
      ops.push_back(op(symbol, {1, 7, 6, channels}, {1, 1, 1, channels},
                       {{"window", {7, 6}}, {"strides", {1, 1}}, {"padding", none}}));
    }
    // The last window of a row ends outside.
    ops.push_back(op("max_pool2d", {1, 6, 6, channels}, {1, 3, 3, channels},
                     {{"window", three}, {"strides", two}, {"padding", none}}));
    ops.push_back(
        op("max_pool2d", {1, 9, 9, channels}, {1, 5, 5, channels},
           {{"window", three}, {"strides", {1, 1}}, {"padding", none}, {"dilation", two}}));
    ops.push_back(op("avg_pool2d", {1, 8, 8, channels}, {1, 4, 4, channels},
                     {{"window", three},
                      {"strides", two},
                      {"padding", {1, 1, 0, 0}},
                      {"include_padding", {1}}}));
  }
  return ops;
}

std::vector<Op> softmaxes() {
  return {{"softmax", {}, {{"data", {1, 1000}, false}}, {1, 1000}},
          {"softmax", {}, {{"data", {2, 3, 5, 17}, false}}, {2, 3, 5, 17}}};
}

std::vector<Op> layer_norms() {
  std::vector<Op> ops;
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{3, 64}, {2, 5, 17}, {1, 3}}) {
    ops.push_back(
        {"layer_norm",
         {{"epsilon", {0.01}}},
         {{"data", shape, false}, {"scale", {shape.back()}, true}, {"shift", {shape.back()}, true}},
         shape});
  }
  return ops;
}

std::vector<Op> normalisations() {
  std::vector<Op> ops;
  for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{
           {1, 7, 5, 96}, {2, 4, 4, 17}, {1, 3, 3, 3}, {1, 1, 1, 33}}) {
    ops.push_back({"lrn",
                   {{"size", {5}}, {"alpha", {0.5}}, {"beta", {0.75}}, {"k", {2}}},
                   {{"data", shape, false}},
                   shape});
  }
  return ops;
}

// A tensor as a primitive may get it: with `gap` unused elements behind each row of its last
// dimension, in float32 or bfloat16.
class LooseTensor {
 public:
  LooseTensor(const std::vector<int64_t>& shape, int64_t gap, bool bfloat16)
      : shape_(shape), strides_(shape.size(), 1), bfloat16_(bfloat16) {
    int64_t row = shape.back() + gap;
    for (size_t axis = shape.size() - 1; axis-- > 0; row *= shape[axis]) strides_[axis] = row;
    memory_ = std::make_unique<Buffer>(elements(shape) / shape.back() * (shape.back() + gap));
    for (size_t i = 0; i < memory_->size(); ++i) write(i, kUnused);
  }

  DLTensor view(bool with_data) {
    const DLDataType dtype = bfloat16_ ? DLDataType{kDLBfloat, 16, 1} : DLDataType{kDLFloat, 32, 1};
    return {with_data ? memory_->data() : nullptr,
            {kDLCPU, 0},
            static_cast<int32_t>(shape_.size()),
            dtype,
            shape_.data(),
            strides_.data(),
            0};
  }
  // Copies in, and rounds the source like the copy.
  void fill(const Buffer& source) {
    for (size_t i = 0; i < source.size(); ++i) {
      write(offset(i), source[i]);
      source[i] = read(offset(i));
    }
  }
  void check(const Buffer& expected) const {
    const float tolerance = bfloat16_ ? 1e-2f : 1e-4f;
    for (size_t i = 0; i < expected.size(); ++i) {
      CHECK(std::abs(read(offset(i)) - expected[i]) <= tolerance * (1 + std::abs(expected[i])));
    }
    const auto rows = static_cast<int64_t>(expected.size()) / shape_.back();
    const int64_t row = static_cast<int64_t>(memory_->size()) / rows;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = shape_.back(); j < row; ++j) CHECK(read(i * row + j) == kUnused);
    }
  }

 private:
  static constexpr float kUnused = 77;

  size_t offset(size_t i) const {
    const auto columns = static_cast<size_t>(shape_.back());
    const size_t row = memory_->size() / (elements(shape_) / columns);
    return i / columns * row + i % columns;
  }
  void write(size_t at, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const auto half = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    if (bfloat16_) {
      std::memcpy(reinterpret_cast<char*>(memory_->data()) + 2 * at, &half, 2);
    } else {
      (*memory_)[at] = value;
    }
  }
  float read(size_t at) const {
    if (!bfloat16_) return (*memory_)[at];
    uint16_t half;
    std::memcpy(&half, reinterpret_cast<const char*>(memory_->data()) + 2 * at, 2);
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  }

  std::vector<int64_t> shape_, strides_;
  bool bfloat16_;
  std::unique_ptr<Buffer> memory_;
};

// Calls the kernel without a plan. Which operands (the output is the last) have gaps, which are
// bfloat16: a bit each.
void check_loose(const Op& op, const TopLibraryKernels& library, unsigned gaps, unsigned bfloat16,
                 void (*reference)(const Op&, const std::vector<Buffer>&, const Buffer&)) {
  std::vector<Buffer> data;
  std::vector<LooseTensor> tensors;
  std::vector<DLTensor> specified;
  for (size_t i = 0; i <= op.operands.size(); ++i) {
    const bool is_out = i == op.operands.size();
    const auto& shape = is_out ? op.out_shape : op.operands[i].shape;
    const bool constant = !is_out && op.operands[i].constant;
    tensors.emplace_back(shape, constant || (gaps >> i & 1) == 0 ? 0 : 15,
                         (bfloat16 >> i & 1) != 0);
    if (!is_out) {
      data.emplace_back(elements(shape));
      data.back().randomise(static_cast<uint32_t>(13 * i + 1));
      tensors.back().fill(data.back());
    }
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    specified.push_back(tensors[i].view(i < op.operands.size() && op.operands[i].constant));
  }
  Buffer expected(elements(op.out_shape));
  reference(op, data, expected);
  const top::LibraryKernel kernel =
      top::create_library_kernel(library, {"onednn", op.symbol, op.attributes}, specified, 1);
  const top::LibraryBinding binding = top::bind_library_kernel(library, kernel);
  std::vector<DLTensor> given;
  for (LooseTensor& tensor : tensors) given.push_back(tensor.view(true));
  std::vector<TVMFFIAny> args(given.size());
  for (size_t i = 0; i < given.size(); ++i) args[i].v_ptr = &given[i];
  CHECK(library.call(binding.get(), args.data(), static_cast<int32_t>(args.size()), nullptr) == 0);
  tensors.back().check(expected);
}

void loose_tensors(const TopLibraryKernels& library) {
  for (unsigned gaps : {0u, 1u, 8u, 16u, 9u, 24u, 25u}) {
    for (unsigned bfloat16 : {0u, 1u | 2u, 1u | 2u | 8u | 16u}) {
      check_loose(convolutions()[5], library, gaps, bfloat16, naive_conv2d);   // 1x1
      check_loose(convolutions()[10], library, gaps, bfloat16, naive_conv2d);  // 3x3, groups
      check_loose(matmuls()[2], library, gaps, bfloat16, naive_matmul);
      check_loose(deconvolutions()[1], library, gaps >> 1, bfloat16 & 3, naive_deconv2d);
    }
  }
  for (unsigned gaps : {1u, 4u, 5u}) {
    check_loose(matmuls()[5], library, gaps, 0, naive_matmul);   // transposed A
    check_loose(matmuls()[12], library, gaps, 0, naive_matmul);  // heads
  }
  for (unsigned gaps : {0u, 1u, 2u, 3u}) {
    for (unsigned bfloat16 : {0u, 3u}) {
      check_loose(pools()[0], library, gaps, bfloat16, naive_pool2d);
      check_loose(softmaxes()[1], library, gaps, bfloat16, naive_softmax);
      check_loose(normalisations()[1], library, gaps, bfloat16, naive_lrn);
    }
  }
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
  for (const Op& op : operations()) check_op(op, library, naive_conv2d);
  for (const Op& op : normalisations()) check_op(op, library, naive_lrn);
  for (const Op& op : deconvolutions()) check_op(op, library, naive_deconv2d);
  for (const Op& op : pools()) check_op(op, library, naive_pool2d);
  for (const Op& op : softmaxes()) check_op(op, library, naive_softmax);
  for (const Op& op : layer_norms()) check_op(op, library, naive_layer_norm);
  loose_tensors(library);
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
