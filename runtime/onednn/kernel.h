// Library kernels of oneDNN: what a primitive needs to be called like a TVM kernel.
#pragma once

#include <cstdint>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <vector>

#include "runtime/library_kernels.h"

namespace top::onednn {

// The one CPU engine of the process.
const dnnl::engine& cpu_engine();

// A run-time or constant argument of the primitive.
struct Argument {
  int id;        // DNNL_ARG_...
  int position;  // among the arguments of the call
  dnnl::memory::desc layout;
};

// A created primitive. Immutable: any number of bindings execute it at the same time, which oneDNN
// allows because the scratchpad is the caller's.
struct Kernel {
  dnnl::primitive primitive;
  std::vector<Argument> arguments;  // set at each call
  // Weights as the primitive wants them; null when they come with each call.
  std::shared_ptr<const dnnl::memory> packed_weights;
  dnnl::memory::desc scratchpad;
  std::string implementation;  // oneDNN's name, for error messages and tests
};

// Read access to a TopKernelSpec. Every method throws std::invalid_argument on bad input.
class Spec {
 public:
  explicit Spec(const TopKernelSpec& spec) : spec_(spec) {}

  int threads() const { return spec_.threads; }
  // The attribute with exactly `count` values.
  std::vector<int64_t> attribute(const std::string& name, int count) const;
  // An attribute of one value; `fallback` when it is absent.
  int64_t flag(const std::string& name, int64_t fallback) const;
  // Checks how many arguments there are and that all are float32.
  void expect_args(int count) const;
  const DLTensor& arg(int position) const { return spec_.args[position]; }
  dnnl::memory::dims shape(int position) const;
  // Throws with what is expected when the condition does not hold.
  static void require(bool condition, const std::string& expectation);

 private:
  const TopKernelSpec& spec_;
};

// Weights of `source`'s layout at `data` in the layout `wanted`. Kernels that want the same layout
// of the same constant (other thread counts, other batch sizes) share one copy; where the layouts
// agree the constant itself is used.
std::shared_ptr<const dnnl::memory> pack_weights(void* data, const dnnl::memory::desc& source,
                                                 const dnnl::memory::desc& wanted);

// The order of what follows the product: bias, residual (an Argument of its own), ReLU.
struct Epilogue {
  bool bias, residual, relu;
  // Number of arguments that it adds.
  int num_args() const { return (bias ? 1 : 0) + (residual ? 1 : 0); }
};
Epilogue read_epilogue(const Spec& spec);
// `residual` is the layout of the residual tensor.
dnnl::primitive_attr make_attributes(const Epilogue& epilogue, const dnnl::memory::desc& residual);

// runtime/onednn/conv2d.cc, matmul.cc
std::unique_ptr<Kernel> make_conv2d(const Spec& spec);
std::unique_ptr<Kernel> make_matmul(const Spec& spec);

}  // namespace top::onednn
