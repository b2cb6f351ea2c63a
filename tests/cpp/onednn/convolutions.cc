// Convolutions and transposed convolutions, with every operation of an epilogue.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "tests/cpp/onednn/op.h"

namespace top::testing {
namespace {

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

std::vector<double> doubles(const std::vector<int64_t>& values) {
  return {values.begin(), values.end()};
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

}  // namespace

Family convolutions() {
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
  return {ops, naive_conv2d};
}

Family activations() {
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
  return {ops, naive_conv2d};
}

Family deconvolutions() {
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
      {
          op({1, 5, 6, 17}, {17, 3, 2, 2}, {1, 10, 12, 3},
             {{"strides", {2, 2}}, {"padding", {0, 0, 0, 0}}, {"bias", {1}}, {"post0.relu", {0}}}),
          // Output padding: the last row and column get nothing but what overlaps there.
          op({2, 4, 3, 8}, {8, 16, 3, 3}, {2, 8, 6, 16},
             {{"strides", {2, 2}}, {"padding", {1, 1, 1, 1}}, {"post0.residual", {}}}),
          op({1, 4, 5, 12}, {12, 2, 3, 2}, {1, 9, 6, 6},
             {{"strides", {2, 1}}, {"padding", {0, 0, 0, 0}}, {"groups", {3}}, {"bias", {1}}}),
          op({1, 1, 7, 6}, {6, 5, 1, 4}, {1, 1, 19, 5},
             {{"strides", {1, 3}}, {"padding", {0, 1, 0, 2}}, {"post0.tanh", {}}}),
      },
      naive_deconv2d};
}

}  // namespace top::testing
