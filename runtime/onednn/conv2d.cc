// "conv2d" and its transpose "deconv2d": data NHWC, constant weight, [bias], [residual NHWC], out
// NHWC. The weight is OIHW; that of a transposed convolution IOHW, as ONNX has it.
#include "runtime/onednn/epilogue.h"
#include "runtime/onednn/kernel.h"
#include "runtime/onednn/openmp.h"
#include "runtime/onednn/product.h"

namespace top::onednn {
namespace {

using dnnl::memory;

struct Geometry {
  std::vector<int64_t> strides, padding, dilation;
  int64_t groups;

  explicit Geometry(const Spec& spec)
      : strides(spec.extents("strides", 2, 1)),
        padding(spec.extents("padding", 4, 0)),
        dilation(spec.extents("dilation", 2, 1)),
        groups(spec.flag("groups", 1)) {}

  bool is_product(const memory::dims& weight) const {
    return groups == 1 && strides == std::vector<int64_t>{1, 1} &&
           padding == std::vector<int64_t>{0, 0, 0, 0} && weight[2] == 1 && weight[3] == 1;
  }
};

// The weight as stored, in oneDNN's dimensions ([G], O, I, H, W), from (first, second, H, W) where
// `first` counts the channels of all groups: of the output, or of the input when transposed.
memory::desc stored_filter(const memory::dims& weight, memory::data_type type, int64_t groups,
                           bool is_transposed) {
  const memory::dims shape = {groups, weight[0] / groups, weight[1], weight[2], weight[3]};
  memory::desc stored = row_major(shape, type);
  if (is_transposed) stored = stored.permute_axes({0, 2, 1, 3, 4});
  if (groups > 1) return stored;
  const memory::dims dims = stored.get_dims(), strides = stored.get_strides();
  return {{dims.begin() + 1, dims.end()}, type, memory::dims(strides.begin() + 1, strides.end())};
}

// Convolution is dnnl::convolution_forward or deconvolution_forward.
template <typename Convolution>
std::unique_ptr<Kernel> make_convolution(const Spec& spec, const Epilogue& epilogue,
                                         const Geometry& geometry, const memory::desc& stored,
                                         dnnl::algorithm algorithm) {
  auto kernel = std::make_unique<Kernel>();
  const PlannedThreads planned(spec.threads());
  Argument data = dense_input(*kernel, spec, 0, DNNL_ARG_SRC);
  data.layout = channels_second(data.layout);
  const DenseOutput output(*kernel, spec, epilogue.output_position());
  const memory::desc out_layout = channels_second(output.layout());
  std::vector<Argument> arguments = {data, {DNNL_ARG_DST, output.place(), out_layout}};
  memory::desc residual;
  if (epilogue.has_residual()) {
    Argument added =
        dense_input(*kernel, spec, epilogue.residual_position(), epilogue.residual_id());
    residual = added.layout = channels_second(added.layout);
    arguments.push_back(added);
  }
  const memory::desc bias = epilogue.bias ? spec.dense_layout(2) : memory::desc();
  const memory::desc any_filter(stored.get_dims(), stored.get_data_type(), memory::format_tag::any);
  const auto& padding = geometry.padding;
  const typename Convolution::primitive_desc description(
      cpu_engine(), dnnl::prop_kind::forward_inference, algorithm, data.layout, any_filter, bias,
      out_layout, geometry.strides,
      {geometry.dilation[0] - 1, geometry.dilation[1] - 1},  // oneDNN counts the gaps
      {padding[0], padding[1]}, {padding[2], padding[3]}, epilogue.attributes(residual));
  const memory::desc packed = description.weights_desc();
  arguments.push_back(
      {DNNL_ARG_WEIGHTS, Place::weights(pack_weights(spec.arg(1).data, stored, packed)), packed});
  if (epilogue.bias) arguments.push_back({DNNL_ARG_BIAS, Place::argument(2), bias});
  kernel->add<Convolution>(description, std::move(arguments));
  output.copy_out(*kernel);
  return kernel;
}

void check_convolution(const Spec& spec, const Epilogue& epilogue, int64_t groups,
                       bool is_transposed) {
  const memory::dims data = spec.shape(0), weight = spec.shape(1);
  const memory::dims out = spec.shape(epilogue.output_position());
  Spec::require(data.size() == 4 && weight.size() == 4 && out.size() == 4,
                "data, weight and output must have 4 dimensions");
  Spec::require(spec.arg(1).data != nullptr, "the weight must be a constant");
  spec.expect_no_gaps(1);
  const int64_t whole = is_transposed ? data[3] : out[3], part = is_transposed ? out[3] : data[3];
  Spec::require(groups > 0 && groups <= weight[0] && weight[0] % groups == 0 &&
                    whole == weight[0] && part == weight[1] * groups,
                "the channels of data, weight and output do not fit the groups");
  epilogue.check(spec, out[3]);
}

}  // namespace

std::unique_ptr<Kernel> make_conv2d(const Spec& spec) {
  const Epilogue epilogue(spec);
  const Geometry geometry(spec);
  check_convolution(spec, epilogue, geometry.groups, false);
  const memory::dims weight = spec.shape(1);
  // oneDNN's convolutions only take tensors without gaps, its products take gaps between rows.
  const int out = epilogue.output_position();
  if (geometry.is_product(weight) && (spec.has_gaps(0) || spec.has_gaps(out))) {
    const memory::desc stored({weight[1], weight[0]}, spec.type(1), memory::dims{1, weight[1]});
    return make_product(spec, epilogue, {spec.layout(0), stored, spec.layout(out)});
  }
  return make_convolution<dnnl::convolution_forward>(
      spec, epilogue, geometry, stored_filter(weight, spec.type(1), geometry.groups, false),
      dnnl::algorithm::convolution_direct);
}

std::unique_ptr<Kernel> make_deconv2d(const Spec& spec) {
  const Epilogue epilogue(spec);
  const Geometry geometry(spec);
  check_convolution(spec, epilogue, geometry.groups, true);
  return make_convolution<dnnl::deconvolution_forward>(
      spec, epilogue, geometry, stored_filter(spec.shape(1), spec.type(1), geometry.groups, true),
      dnnl::algorithm::deconvolution_direct);
}

}  // namespace top::onednn
