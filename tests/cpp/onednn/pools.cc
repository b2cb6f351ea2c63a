// Maximum and average pools.
#include <algorithm>
#include <utility>

#include "tests/cpp/onednn/op.h"

namespace top::testing {
namespace {

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

}  // namespace

Family pools() {
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
  return {ops, naive_pool2d};
}

}  // namespace top::testing
