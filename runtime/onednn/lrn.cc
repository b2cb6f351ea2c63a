// "lrn": data NHWC, out NHWC; local response normalisation across channels,
// x / (k + alpha / size * sum of x^2 over `size` channels)^beta.
#include "runtime/onednn/kernel.h"
#include "runtime/onednn/openmp.h"

namespace top::onednn {

std::unique_ptr<Kernel> make_lrn(const Spec& spec) {
  spec.expect_args(2);
  const int64_t size = spec.extents("size", 1, 1)[0];
  Spec::require(size % 2 == 1, "the size of the window must be odd");
  Spec::require(spec.shape(0).size() == 4 && spec.shape(0) == spec.shape(1),
                "data and output must have the same 4 dimensions");

  auto kernel = std::make_unique<Kernel>();
  const PlannedThreads planned(spec.threads());
  Argument data = dense_input(*kernel, spec, 0, DNNL_ARG_SRC);
  const DenseOutput out(*kernel, spec, 1);
  data.layout = channels_second(data.layout);
  const dnnl::memory::desc out_layout = channels_second(out.layout());
  kernel->add<dnnl::lrn_forward>(
      {cpu_engine(), dnnl::prop_kind::forward_inference, dnnl::algorithm::lrn_across_channels,
       data.layout, out_layout, size, spec.number("alpha"), spec.number("beta"), spec.number("k"),
       user_scratchpad()},
      {data, {DNNL_ARG_DST, out.place(), out_layout}});
  out.copy_out(*kernel);
  return kernel;
}

}  // namespace top::onednn
