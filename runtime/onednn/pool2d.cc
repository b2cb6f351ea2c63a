// "max_pool2d", "avg_pool2d": data NHWC, out NHWC. The shape of the output says whether a window
// that begins inside the padded data and ends outside of it counts (ONNX's ceil_mode).
#include <algorithm>

#include "runtime/onednn/kernel.h"
#include "runtime/onednn/openmp.h"

namespace top::onednn {
namespace {

using dnnl::memory;

std::unique_ptr<Kernel> make_pool2d(const Spec& spec, dnnl::algorithm algorithm) {
  spec.expect_args(2);
  const auto window = spec.extents("window", 2, 1), strides = spec.extents("strides", 2, 1);
  const auto padding = spec.extents("padding", 4, 0), dilation = spec.extents("dilation", 2, 1);
  const memory::dims in = spec.shape(0), out = spec.shape(1);
  Spec::require(in.size() == 4 && out.size() == 4 && in[0] == out[0] && in[3] == out[3],
                "data and output must have 4 dimensions, batch and channels in common");
  memory::dims before = {padding[0], padding[1]}, after = {padding[2], padding[3]};
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t extent = (window[axis] - 1) * dilation[axis] + 1;
    const int64_t needed =
        (out[1 + axis] - 1) * strides[axis] + extent - in[1 + axis] - before[axis];
    after[axis] = std::max(after[axis], needed);
  }
  auto kernel = std::make_unique<Kernel>();
  const PlannedThreads planned(spec.threads());
  Argument data = dense_input(*kernel, spec, 0, DNNL_ARG_SRC);
  data.layout = channels_second(data.layout);
  const DenseOutput output(*kernel, spec, 1);
  const memory::desc out_layout = channels_second(output.layout());
  kernel->add<dnnl::pooling_forward>(
      {cpu_engine(), dnnl::prop_kind::forward_inference, algorithm, data.layout, out_layout,
       strides, window, memory::dims{dilation[0] - 1, dilation[1] - 1}, before, after,
       user_scratchpad()},
      {data, {DNNL_ARG_DST, output.place(), out_layout}});
  output.copy_out(*kernel);
  return kernel;
}

}  // namespace

std::unique_ptr<Kernel> make_max_pool2d(const Spec& spec) {
  return make_pool2d(spec, dnnl::algorithm::pooling_max);
}

std::unique_ptr<Kernel> make_avg_pool2d(const Spec& spec) {
  return make_pool2d(spec, spec.flag("include_padding", 0) != 0
                               ? dnnl::algorithm::pooling_avg_include_padding
                               : dnnl::algorithm::pooling_avg_exclude_padding);
}

}  // namespace top::onednn
