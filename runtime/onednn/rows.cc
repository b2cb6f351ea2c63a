// Primitives over the last axis: "softmax" (data, out) and "layer_norm" (data, scale, shift, out).
#include "runtime/onednn/kernel.h"
#include "runtime/onednn/openmp.h"

namespace top::onednn {
namespace {

using dnnl::memory;

// (..., C) as (rows, C).
memory::desc as_rows(const memory::desc& layout) {
  const memory::dims shape = layout.get_dims();
  int64_t rows = 1;
  for (size_t axis = 0; axis + 1 < shape.size(); ++axis) rows *= shape[axis];
  return row_major({rows, shape.back()}, layout.get_data_type());
}

void check_shapes(const Spec& spec, int out) {
  Spec::require(!spec.shape(0).empty() && spec.shape(0) == spec.shape(out),
                "data and output must have the same shape");
}

}  // namespace

std::unique_ptr<Kernel> make_softmax(const Spec& spec) {
  spec.expect_args(2);
  check_shapes(spec, 1);
  auto kernel = std::make_unique<Kernel>();
  const PlannedThreads planned(spec.threads());
  Argument data = dense_input(*kernel, spec, 0, DNNL_ARG_SRC);
  data.layout = as_rows(data.layout);
  const DenseOutput output(*kernel, spec, 1);
  const memory::desc out_layout = as_rows(output.layout());
  kernel->add<dnnl::softmax_forward>(
      {cpu_engine(), dnnl::prop_kind::forward_inference, dnnl::algorithm::softmax_accurate,
       data.layout, out_layout, 1, user_scratchpad()},
      {data, {DNNL_ARG_DST, output.place(), out_layout}});
  output.copy_out(*kernel);
  return kernel;
}

std::unique_ptr<Kernel> make_layer_norm(const Spec& spec) {
  spec.expect_args(4);
  check_shapes(spec, 3);
  const memory::dims columns = {spec.shape(0).back()};
  for (int position : {1, 2}) {
    Spec::require(spec.shape(position) == columns && spec.type(position) == memory::data_type::f32,
                  "scale and shift must be float32 and have one value per column");
    spec.expect_no_gaps(position);
  }
  auto kernel = std::make_unique<Kernel>();
  const PlannedThreads planned(spec.threads());
  Argument data = dense_input(*kernel, spec, 0, DNNL_ARG_SRC);
  data.layout = as_rows(data.layout);
  const DenseOutput output(*kernel, spec, 3);
  const memory::desc out_layout = as_rows(output.layout());
  const auto flags = dnnl::normalization_flags::use_scale | dnnl::normalization_flags::use_shift;
  kernel->add<dnnl::layer_normalization_forward>(
      {cpu_engine(), dnnl::prop_kind::forward_inference, data.layout, out_layout,
       spec.number("epsilon"), flags, user_scratchpad()},
      {data,
       {DNNL_ARG_SCALE, Place::argument(1), spec.dense_layout(1)},
       {DNNL_ARG_SHIFT, Place::argument(2), spec.dense_layout(2)},
       {DNNL_ARG_DST, output.place(), out_layout}});
  output.copy_out(*kernel);
  return kernel;
}

}  // namespace top::onednn
