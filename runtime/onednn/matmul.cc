// "matmul": A (..., M, K), B (K, N) or transposed (N, K) or batched (..., K, N), [bias (N,)],
// [residual like the output], out.
#include <algorithm>
#include <functional>
#include <numeric>

#include "runtime/onednn/kernel.h"
#include "runtime/onednn/openmp.h"

namespace top::onednn {
namespace {

using dnnl::memory;

memory::desc row_major(const memory::dims& shape) {
  memory::dims strides(shape.size(), 1);
  for (size_t axis = shape.size(); axis-- > 1;) {
    // A dimension of length 0 or 1 must not make the strides of the others collapse.
    strides[axis - 1] = strides[axis] * std::max<int64_t>(1, shape[axis]);
  }
  return {shape, memory::data_type::f32, strides};
}

// Shape and layout of B as (..., K, N) when it is stored as (..., N, K).
memory::desc transposed(memory::dims stored) {
  memory::dims strides = row_major(stored).get_strides();
  std::swap(stored[stored.size() - 1], stored[stored.size() - 2]);
  std::swap(strides[strides.size() - 1], strides[strides.size() - 2]);
  return {stored, memory::data_type::f32, strides};
}

// (..., M, K) as (rows, K), for a B that is the same for all of A.
memory::dims as_matrix(const memory::dims& shape) {
  const int64_t rows =
      std::accumulate(shape.begin(), shape.end() - 1, int64_t{1}, std::multiplies<int64_t>());
  return {rows, shape.back()};
}

// Leading dimensions of length 1, as NumPy's matmul adds them.
memory::dims extended(memory::dims shape, size_t dimensions) {
  shape.insert(shape.begin(), dimensions - std::min(dimensions, shape.size()), 1);
  return shape;
}

}  // namespace

std::unique_ptr<Kernel> make_matmul(const Spec& spec) {
  const Epilogue epilogue = read_epilogue(spec);
  const int out = 2 + epilogue.num_args();
  spec.expect_args(out + 1);
  const bool transpose = spec.flag("transpose_b", 0) != 0;
  memory::dims a = spec.shape(0), b = spec.shape(1), c = spec.shape(out);
  Spec::require(a.size() >= 2 && b.size() >= 2 && c.size() >= 2,
                "A, B and the output must have at least 2 dimensions");
  if (epilogue.residual) {
    Spec::require(spec.shape(out - 1) == c, "the residual must have the output's shape");
  }
  if (b.size() == 2) {
    a = as_matrix(a);
    c = as_matrix(c);
  }
  const size_t dimensions = std::max({a.size(), b.size(), c.size()});
  a = extended(a, dimensions);
  b = extended(b, dimensions);
  c = extended(c, dimensions);
  const memory::desc stored_b = transpose ? transposed(b) : row_major(b);
  const int64_t columns = stored_b.get_dims().back();
  Spec::require(a.back() == stored_b.get_dims()[dimensions - 2] && c.back() == columns &&
                    c[dimensions - 2] == a[dimensions - 2],
                "the shapes of A, B and the output do not fit");

  memory::dims bias_shape(dimensions, 1);
  bias_shape.back() = columns;
  const memory::desc bias = row_major(bias_shape);
  if (epilogue.bias) {
    Spec::require(spec.shape(2) == memory::dims{columns}, "the bias must have shape (N,)");
  }
  const bool constant_b = spec.arg(1).data != nullptr;
  const memory::desc wanted_b =
      constant_b
          ? memory::desc(stored_b.get_dims(), memory::data_type::f32, memory::format_tag::any)
          : stored_b;

  const PlannedThreads planned(spec.threads());
  const dnnl::matmul::primitive_desc description(
      cpu_engine(), row_major(a), wanted_b, epilogue.bias ? bias : memory::desc(), row_major(c),
      make_attributes(epilogue, row_major(c)));

  auto kernel = std::make_unique<Kernel>();
  kernel->primitive = dnnl::matmul(description);
  kernel->implementation = description.impl_info_str();
  kernel->scratchpad = description.scratchpad_desc();
  kernel->arguments.push_back({DNNL_ARG_SRC, 0, row_major(a)});
  if (constant_b) {
    kernel->packed_weights = pack_weights(spec.arg(1).data, stored_b, description.weights_desc());
  } else {
    kernel->arguments.push_back({DNNL_ARG_WEIGHTS, 1, stored_b});
  }
  if (epilogue.bias) kernel->arguments.push_back({DNNL_ARG_BIAS, 2, bias});
  if (epilogue.residual) {
    kernel->arguments.push_back(
        {DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, out - 1, row_major(c)});
  }
  kernel->arguments.push_back({DNNL_ARG_DST, out, row_major(c)});
  return kernel;
}

}  // namespace top::onednn
