// "conv2d": data NHWC, weight OIHW constant, [bias], [residual NHWC], out NHWC.
#include "runtime/onednn/epilogue.h"
#include "runtime/onednn/kernel.h"
#include "runtime/onednn/openmp.h"
#include "runtime/onednn/product.h"

namespace top::onednn {

using dnnl::memory;

std::unique_ptr<Kernel> make_conv2d(const Spec& spec) {
  const Epilogue epilogue(spec);
  const int out = epilogue.output_position();
  const auto strides = spec.integers("strides", 2);
  const auto padding = spec.integers("padding", 4);
  const auto dilation = spec.integers("dilation", 2);
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

  // oneDNN's convolutions only take tensors without gaps, its products take gaps between rows.
  const std::vector<int64_t> ones = {1, 1}, zeros = {0, 0, 0, 0};
  const bool is_product = groups == 1 && strides == ones && padding == zeros &&
                          weight_shape[2] == 1 && weight_shape[3] == 1;
  if (is_product && (spec.has_gaps(0) || spec.has_gaps(out))) {
    const memory::desc stored({weight_shape[1], out_channels}, spec.type(1),
                              memory::dims{1, weight_shape[1]});
    return make_product(spec, epilogue, {spec.layout(0), stored, spec.layout(out)});
  }

  memory::dims filter = weight_shape;
  if (groups > 1) {
    filter = {groups, out_channels / groups, weight_shape[1], weight_shape[2], weight_shape[3]};
  }
  const memory::desc stored_filter = row_major(filter, spec.type(1));
  const memory::desc any_filter(filter, spec.type(1), memory::format_tag::any);
  const memory::desc bias = epilogue.bias ? spec.dense_layout(2) : memory::desc();
  epilogue.check(spec, out_channels);

  auto kernel = std::make_unique<Kernel>();
  const PlannedThreads planned(spec.threads());
  Argument data = dense_input(*kernel, spec, 0, DNNL_ARG_SRC);
  data.layout = channels_second(data.layout);
  const DenseOutput output(*kernel, spec, out);
  const memory::desc out_layout = channels_second(output.layout());
  std::vector<Argument> arguments = {data, {DNNL_ARG_DST, output.place(), out_layout}};
  memory::desc residual;
  if (epilogue.has_residual()) {
    Argument added =
        dense_input(*kernel, spec, epilogue.residual_position(), epilogue.residual_id());
    residual = added.layout = channels_second(added.layout);
    arguments.push_back(added);
  }
  const dnnl::convolution_forward::primitive_desc description(
      cpu_engine(), dnnl::prop_kind::forward_inference, dnnl::algorithm::convolution_direct,
      data.layout, any_filter, bias, out_layout, strides,
      {dilation[0] - 1, dilation[1] - 1},  // oneDNN counts the gaps
      {padding[0], padding[1]}, {padding[2], padding[3]}, epilogue.attributes(residual));
  const memory::desc packed = description.weights_desc();
  arguments.push_back({DNNL_ARG_WEIGHTS,
                       Place::weights(pack_weights(spec.arg(1).data, stored_filter, packed)),
                       packed});
  if (epilogue.bias) arguments.push_back({DNNL_ARG_BIAS, Place::argument(2), bias});
  kernel->add<dnnl::convolution_forward>(description, std::move(arguments));
  output.copy_out(*kernel);
  return kernel;
}

}  // namespace top::onednn
