// Softmax, layer normalisation and local response normalisation.
#include <algorithm>
#include <cmath>

#include "tests/cpp/onednn/op.h"

namespace top::testing {
namespace {

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

}  // namespace

Family softmaxes() {
  return {{{"softmax", {}, {{"data", {1, 1000}, false}}, {1, 1000}},
           {"softmax", {}, {{"data", {2, 3, 5, 17}, false}}, {2, 3, 5, 17}}},
          naive_softmax};
}

Family layer_norms() {
  std::vector<Op> ops;
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{3, 64}, {2, 5, 17}, {1, 3}}) {
    ops.push_back(
        {"layer_norm",
         {{"epsilon", {0.01}}},
         {{"data", shape, false}, {"scale", {shape.back()}, true}, {"shift", {shape.back()}, true}},
         shape});
  }
  return {ops, naive_layer_norm};
}

Family local_response_norms() {
  std::vector<Op> ops;
  for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{
           {1, 7, 5, 96}, {2, 4, 4, 17}, {1, 3, 3, 3}, {1, 1, 1, 33}}) {
    ops.push_back({"lrn",
                   {{"size", {5}}, {"alpha", {0.5}}, {"beta", {0.75}}, {"k", {2}}},
                   {{"data", shape, false}},
                   shape});
  }
  return {ops, naive_lrn};
}

}  // namespace top::testing
