// Products of matrices, batched, broadcast and with permuted operands.
#include <utility>

#include "tests/cpp/onednn/op.h"

namespace top::testing {
namespace {

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

}  // namespace

Family matmuls() {
  const std::vector<double> swap = {1, 0}, heads = {0, 2, 1, 3}, transposed_heads = {0, 2, 3, 1};
  return {
      {
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
          matmul(
              {1, 9, 4, 8}, {1, 7, 4, 8}, false, {1, 4, 9, 7},
              {{"permute_a", heads}, {"permute_b", transposed_heads}, {"post0.linear", {0.25, 0}}}),
          matmul({1, 4, 9, 7}, {1, 7, 4, 8}, false, {1, 9, 4, 8},
                 {{"permute_b", heads}, {"permute_out", heads}}),
          // A that is no matrix after the permutation, times a matrix.
          matmul({2, 5, 3, 8}, {8, 6}, true, {2, 3, 5, 6}, {{"permute_a", heads}, {"bias", {1}}}),
      },
      naive_matmul};
}

}  // namespace top::testing
