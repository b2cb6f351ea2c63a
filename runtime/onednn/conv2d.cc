// "conv2d": data NHWC, weight OIHW constant, [bias], [residual NHWC], out NHWC.
#include "runtime/onednn/kernel.h"
#include "runtime/onednn/openmp.h"

namespace top::onednn {
namespace {

using dnnl::memory;

memory::desc nhwc(const memory::dims& shape) {
  return {
      {shape[0], shape[3], shape[1], shape[2]}, memory::data_type::f32, memory::format_tag::nhwc};
}

}  // namespace

std::unique_ptr<Kernel> make_conv2d(const Spec& spec) {
  const Epilogue epilogue = read_epilogue(spec);
  const int out = 2 + epilogue.num_args();
  spec.expect_args(out + 1);
  const auto strides = spec.attribute("strides", 2);
  const auto padding = spec.attribute("padding", 4);
  const auto dilation = spec.attribute("dilation", 2);
  const int64_t groups = spec.flag("groups", 1);

  const memory::dims data_shape = spec.shape(0), weight_shape = spec.shape(1);
  const memory::dims out_shape = spec.shape(out);
  Spec::require(data_shape.size() == 4 && weight_shape.size() == 4 && out_shape.size() == 4,
                "data, weight and output must have 4 dimensions");
  Spec::require(spec.arg(1).data != nullptr, "the weight must be a constant");
  const int64_t out_channels = weight_shape[0];
  Spec::require(groups > 0 && out_channels % groups == 0 &&
                    data_shape[3] == weight_shape[1] * groups && out_shape[3] == out_channels,
                "the channels of data, weight and output do not fit the groups");

  memory::dims filter = weight_shape;
  auto filter_format = memory::format_tag::oihw;
  if (groups > 1) {
    filter = {groups, out_channels / groups, weight_shape[1], weight_shape[2], weight_shape[3]};
    filter_format = memory::format_tag::goihw;
  }
  const memory::desc any_filter(filter, memory::data_type::f32, memory::format_tag::any);
  const memory::desc bias({out_channels}, memory::data_type::f32, memory::format_tag::x);
  if (epilogue.bias) {
    Spec::require(spec.shape(2) == memory::dims{out_channels}, "the bias must have shape (O,)");
  }
  if (epilogue.residual) {
    Spec::require(spec.shape(out - 1) == out_shape, "the residual must have the output's shape");
  }

  const PlannedThreads planned(spec.threads());
  const dnnl::convolution_forward::primitive_desc description(
      cpu_engine(), dnnl::prop_kind::forward_inference, dnnl::algorithm::convolution_direct,
      nhwc(data_shape), any_filter, epilogue.bias ? bias : memory::desc(), nhwc(out_shape), strides,
      {dilation[0] - 1, dilation[1] - 1},  // oneDNN counts the gaps
      {padding[0], padding[1]}, {padding[2], padding[3]},
      make_attributes(epilogue, nhwc(out_shape)));

  auto kernel = std::make_unique<Kernel>();
  kernel->primitive = dnnl::convolution_forward(description);
  kernel->implementation = description.impl_info_str();
  kernel->scratchpad = description.scratchpad_desc();
  kernel->packed_weights =
      pack_weights(spec.arg(1).data, {filter, memory::data_type::f32, filter_format},
                   description.weights_desc());
  kernel->arguments.push_back({DNNL_ARG_SRC, 0, nhwc(data_shape)});
  if (epilogue.bias) kernel->arguments.push_back({DNNL_ARG_BIAS, 2, bias});
  if (epilogue.residual) {
    kernel->arguments.push_back(
        {DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, out - 1, nhwc(out_shape)});
  }
  kernel->arguments.push_back({DNNL_ARG_DST, out, nhwc(out_shape)});
  return kernel;
}

}  // namespace top::onednn
