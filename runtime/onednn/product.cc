#include "runtime/onednn/product.h"

#include <algorithm>

#include "runtime/onednn/openmp.h"

namespace top::onednn {
namespace {

using dnnl::memory;

bool collapses(const memory::desc& layout) {
  const memory::dims shape = layout.get_dims(), strides = layout.get_strides();
  for (size_t axis = 0; axis + 2 < shape.size(); ++axis) {
    if (shape[axis] != 1 && strides[axis] != strides[axis + 1] * shape[axis + 1]) return false;
  }
  return true;
}

// (..., M, K) as (rows, K).
memory::desc as_matrix(const memory::desc& layout) {
  const memory::dims shape = layout.get_dims(), strides = layout.get_strides();
  const size_t last = shape.size() - 1;
  int64_t rows = 1;
  for (size_t axis = 0; axis < last; ++axis) rows *= shape[axis];
  // The stride of a dimension of length 1 says nothing.
  int64_t row = 0;
  for (size_t axis = 0; axis < last; ++axis) {
    if (shape[axis] != 1) row = strides[axis];
  }
  if (row == 0) row = shape[last] * strides[last];
  return {{rows, shape[last]}, layout.get_data_type(), {row, strides[last]}};
}

// Leading dimensions of length 1, as NumPy's matmul adds them.
memory::desc extended(const memory::desc& layout, size_t dimensions) {
  memory::dims shape = layout.get_dims(), strides = layout.get_strides();
  while (shape.size() < dimensions) {
    strides.insert(strides.begin(), std::max<int64_t>(1, shape[0]) * strides[0]);
    shape.insert(shape.begin(), 1);
  }
  return {shape, layout.get_data_type(), strides};
}

bool fits(const Product& product) {
  const memory::dims a = product.a.get_dims(), b = product.b.get_dims(), c = product.c.get_dims();
  const size_t row = c.size() - 2, column = c.size() - 1;
  if (a[column] != b[row] || c[row] != a[row] || c[column] != b[column]) return false;
  for (size_t axis = 0; axis < row; ++axis) {
    if ((a[axis] != 1 && a[axis] != c[axis]) || (b[axis] != 1 && b[axis] != c[axis]) ||
        std::max(a[axis], b[axis]) != c[axis]) {
      return false;
    }
  }
  return true;
}

}  // namespace

std::unique_ptr<Kernel> make_product(const Spec& spec, const Epilogue& epilogue, Product product) {
  const int out = epilogue.output_position(), added = epilogue.residual_position();
  const bool constant_b = spec.arg(1).data != nullptr;
  Spec::require(
      product.a.get_ndims() >= 2 && product.b.get_ndims() >= 2 && product.c.get_ndims() >= 2,
      "A, B and the output must have at least 2 dimensions");
  auto kernel = std::make_unique<Kernel>();
  const PlannedThreads planned(spec.threads());

  // oneDNN adds a residual only where it is laid out like the output, so one of them is copied
  // otherwise: both in row-major layout, which the caller's dimensions of C are then in as well.
  Argument residual{0, Place::argument(added), {}};
  Place output = Place::argument(out);
  std::unique_ptr<const DenseOutput> copied;
  if (epilogue.has_residual()) {
    const bool alike = spec.layout(added).get_strides() == spec.layout(out).get_strides();
    if (!alike) {
      Spec::require(product.c == spec.layout(out), "the output cannot be permuted and added to");
      residual = dense_input(*kernel, spec, added, 0);
      copied = std::make_unique<DenseOutput>(*kernel, spec, out);
      output = copied->place();
      product.c = copied->layout();
    }
  }
  if (product.b.get_ndims() == 2 && collapses(product.a) && collapses(product.c)) {
    product.a = as_matrix(product.a);
    product.c = as_matrix(product.c);
  }
  const auto dimensions = static_cast<size_t>(
      std::max({product.a.get_ndims(), product.b.get_ndims(), product.c.get_ndims()}));
  product.a = extended(product.a, dimensions);
  product.b = extended(product.b, dimensions);
  product.c = extended(product.c, dimensions);
  Spec::require(fits(product), "the shapes of A, B and the output do not fit");
  residual.layout = memory::desc(product.c.get_dims(),
                                 epilogue.has_residual() ? spec.type(added) : spec.type(out),
                                 product.c.get_strides());

  memory::dims bias_shape(dimensions, 1);
  bias_shape.back() = product.c.get_dims().back();
  const memory::desc bias = row_major(bias_shape, memory::data_type::f32);
  const memory::desc wanted_b =
      constant_b ? memory::desc(product.b.get_dims(), spec.type(1), memory::format_tag::any)
                 : product.b;
  const dnnl::matmul::primitive_desc description(cpu_engine(), product.a, wanted_b,
                                                 epilogue.bias ? bias : memory::desc(), product.c,
                                                 epilogue.attributes(residual.layout));

  const memory::desc layout_b = description.weights_desc();
  std::vector<Argument> arguments = {
      {DNNL_ARG_SRC, Place::argument(0), product.a},
      {DNNL_ARG_WEIGHTS,
       constant_b ? Place::weights(pack_weights(spec.arg(1).data, product.b, layout_b))
                  : Place::argument(1),
       layout_b},
      {DNNL_ARG_DST, output, product.c}};
  if (epilogue.bias) arguments.push_back({DNNL_ARG_BIAS, Place::argument(2), bias});
  if (epilogue.has_residual()) {
    arguments.push_back({epilogue.residual_id(), residual.place, residual.layout});
  }
  kernel->add<dnnl::matmul>(description, std::move(arguments));
  if (copied) copied->copy_out(*kernel);
  return kernel;
}

}  // namespace top::onednn
