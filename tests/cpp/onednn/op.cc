#include "tests/cpp/onednn/op.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "tests/cpp/check.h"

namespace top::testing {
namespace {

// oneDNN's definitions of the operations of an epilogue.
double applied(const std::string& operation, const std::vector<double>& p, double x) {
  const auto clipped = [](double y) { return std::min(1.0, std::max(0.0, y)); };
  if (operation == "relu") return x < 0 ? p[0] * x : x;
  if (operation == "linear") return p[0] * x + p[1];
  if (operation == "clip") return std::min(p[1], std::max(p[0], x));
  if (operation == "sigmoid") return 1 / (1 + std::exp(-x));
  if (operation == "tanh") return std::tanh(x);
  if (operation == "gelu_erf") return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
  if (operation == "gelu_tanh") {
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }
  if (operation == "swish") return x / (1 + std::exp(-p[0] * x));
  if (operation == "hardsigmoid") return clipped(p[0] * x + p[1]);
  if (operation == "hardswish") return x * clipped(p[0] * x + p[1]);
  throw std::logic_error("no reference for " + operation);
}

}  // namespace

PlanData Op::plan(int threads) const {
  PlanBuilder build(threads);
  std::vector<int> args;
  for (const Operand& operand : operands) {
    args.push_back(operand.constant ? build.constant(operand.name, operand.shape)
                                    : build.input(operand.name, operand.shape));
  }
  args.push_back(build.output("out", out_shape));
  build.call("op", build.kernel("onednn", symbol, attributes), args, 0, threads);
  return build.plan;
}

size_t elements(const std::vector<int64_t>& shape) {
  size_t count = 1;
  for (int64_t dimension : shape) count *= dimension;
  return count;
}

double number(const Op& op, const char* name, size_t position) {
  const auto found = op.attributes.find(name);
  return found == op.attributes.end() ? 0 : found->second[position];
}

int64_t value(const Op& op, const char* name, size_t position) {
  return static_cast<int64_t>(number(op, name, position));
}

void finish(const Op& op, const std::vector<Buffer>& data, const Buffer& out) {
  const size_t channels = op.out_shape.back();
  const Buffer* bias = value(op, "bias") != 0 ? &data[2] : nullptr;
  const Buffer& residual = data.back();
  for (size_t i = 0; i < out.size(); ++i) {
    if (bias != nullptr) out[i] += (*bias)[i % channels];
    for (const auto& [name, parameters] : op.attributes) {
      if (name.compare(0, 4, "post") != 0) continue;
      const std::string operation = name.substr(name.find('.') + 1);
      out[i] = static_cast<float>(operation == "residual" ? out[i] + residual[i]
                                                          : applied(operation, parameters, out[i]));
    }
  }
}

TVMFFISafeCallType no_kernel(const std::string& symbol) { throw std::runtime_error(symbol); }

void check_close(const Buffer& given, const Buffer& expected) {
  for (size_t i = 0; i < expected.size(); ++i) {
    CHECK(std::abs(given[i] - expected[i]) <= 1e-4f * (1 + std::abs(expected[i])));
  }
}

void check_op(const Op& op, const TopLibraryKernels& library, Reference reference) {
  std::vector<Buffer> data;
  Constants constants;
  std::vector<const void*> inputs;
  for (size_t i = 0; i < op.operands.size(); ++i) {
    const Operand& operand = op.operands[i];
    data.emplace_back(elements(operand.shape));
    data.back().randomise(static_cast<uint32_t>(17 * i + 3));
    if (operand.constant) {
      constants[operand.name] = {data.back().data(), data.back().size() * 4};
    } else {
      inputs.push_back(data.back().data());
    }
  }
  Buffer expected(elements(op.out_shape));
  reference(op, data, expected);
  for (int threads : {1, 2}) {
    Executor executor(op.plan(threads), constants, no_kernel, &library);
    for (int round = 0; round < 3; ++round) {
      Buffer out(expected.size());
      executor.run(inputs, {out.data()});
      check_close(out, expected);
    }
  }
}

}  // namespace top::testing
