#include "runtime/onednn/epilogue.h"

#include <algorithm>
#include <map>

namespace top::onednn {
namespace {

constexpr const char* kResidual = "residual";

struct Eltwise {
  dnnl::algorithm algorithm;
  size_t num_parameters;
};

// Parameters are oneDNN's alpha and beta: x < 0 ? alpha x : x, alpha x + beta, [alpha, beta],
// x sigmoid(alpha x), x max(0, min(1, alpha x + beta)) and the same without the factor x.
const std::map<std::string, Eltwise>& eltwise() {
  using dnnl::algorithm;
  static const auto* operations = new std::map<std::string, Eltwise>{
      {"relu", {algorithm::eltwise_relu, 1}},
      {"linear", {algorithm::eltwise_linear, 2}},
      {"clip", {algorithm::eltwise_clip_v2, 2}},
      {"sigmoid", {algorithm::eltwise_logistic, 0}},
      {"tanh", {algorithm::eltwise_tanh, 0}},
      {"gelu_erf", {algorithm::eltwise_gelu_erf, 0}},
      {"gelu_tanh", {algorithm::eltwise_gelu_tanh, 0}},
      {"swish", {algorithm::eltwise_swish, 1}},
      {"hardswish", {algorithm::eltwise_hardswish, 2}},
      {"hardsigmoid", {algorithm::eltwise_hardsigmoid, 2}},
  };
  return *operations;
}

bool is_residual(const PostOp& operation) { return operation.name == kResidual; }

}  // namespace

Epilogue::Epilogue(const Spec& spec) : bias(spec.flag("bias", 0) != 0) {
  for (;;) {
    const std::string prefix = "post" + std::to_string(operations.size()) + ".";
    const TopAttribute* attribute = spec.find_prefix(prefix);
    if (attribute == nullptr) break;
    operations.push_back({std::string(attribute->name).substr(prefix.size()),
                          {attribute->values, attribute->values + attribute->num_values}});
  }
  Spec::require(std::count_if(operations.begin(), operations.end(), is_residual) <= 1,
                "there can be one residual only");
  for (const PostOp& operation : operations) {
    const auto known = eltwise().find(operation.name);
    Spec::require(is_residual(operation) || known != eltwise().end(),
                  "there is no operation '" + operation.name + "' to follow");
    const size_t expected = is_residual(operation) ? 0 : known->second.num_parameters;
    Spec::require(operation.parameters.size() == expected,
                  "'" + operation.name + "' must have " + std::to_string(expected) + " values");
  }
  spec.expect_args(output_position() + 1);
}

void Epilogue::check(const Spec& spec, int64_t channels) const {
  if (bias) {
    spec.expect_no_gaps(2);
    Spec::require(spec.shape(2) == dnnl::memory::dims{channels} &&
                      spec.type(2) == dnnl::memory::data_type::f32,
                  "the bias must be float32 and have one value for each of the " +
                      std::to_string(channels) + " columns or channels of the output");
  }
  Spec::require(!has_residual() || spec.shape(residual_position()) == spec.shape(output_position()),
                "the residual must have the output's shape");
}

bool Epilogue::has_residual() const {
  return std::any_of(operations.begin(), operations.end(), is_residual);
}

int Epilogue::residual_id() const {
  const auto found = std::find_if(operations.begin(), operations.end(), is_residual);
  const auto index = static_cast<int>(found - operations.begin());
  return DNNL_ARG_ATTR_MULTIPLE_POST_OP(index) | DNNL_ARG_SRC_1;
}

dnnl::primitive_attr Epilogue::attributes(const dnnl::memory::desc& residual) const {
  dnnl::post_ops chain;
  for (const PostOp& operation : operations) {
    if (is_residual(operation)) {
      chain.append_binary(dnnl::algorithm::binary_add, residual);
      continue;
    }
    const auto parameter = [&operation](size_t index) {
      return index < operation.parameters.size() ? operation.parameters[index] : 0.0f;
    };
    chain.append_eltwise(eltwise().at(operation.name).algorithm, parameter(0), parameter(1));
  }
  dnnl::primitive_attr attributes = user_scratchpad();
  attributes.set_post_ops(chain);
  return attributes;
}

}  // namespace top::onednn
