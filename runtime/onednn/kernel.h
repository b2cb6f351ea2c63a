// Library kernels of oneDNN: what a primitive needs to be called like a TVM kernel.
#pragma once

#include <cstdint>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <vector>

#include "runtime/onednn/spec.h"

namespace top::onednn {

// The one CPU engine of the process.
const dnnl::engine& cpu_engine();

// Where an argument of a primitive lies.
struct Place {
  int position = -1;                             // among the arguments of the call, or
  size_t offset = 0;                             // in the workspace of the call, or
  std::shared_ptr<const dnnl::memory> constant;  // in memory of its own

  static Place argument(int position) { return {position, 0, nullptr}; }
  static Place weights(std::shared_ptr<const dnnl::memory> memory) {
    return {-1, 0, std::move(memory)};
  }
};

struct Argument {
  int id;  // DNNL_ARG_...
  Place place;
  dnnl::memory::desc layout;
};

struct Step {
  dnnl::primitive primitive;
  std::vector<Argument> arguments;
};

// Primitives that are executed one after the other. Immutable once made: any number of bindings
// execute it at the same time, which oneDNN allows because the scratchpad is the caller's.
struct Kernel {
  std::vector<Step> steps;
  size_t workspace_bytes = 0;

  // Memory of `nbytes` in the workspace of each call.
  Place reserve(size_t nbytes);

  // Appends a step; its scratchpad is reserved here.
  template <typename Primitive>
  void add(const typename Primitive::primitive_desc& description, std::vector<Argument> arguments) {
    const dnnl::memory::desc scratchpad = description.scratchpad_desc();
    arguments.push_back({DNNL_ARG_SCRATCHPAD, reserve(scratchpad.get_size()), scratchpad});
    steps.push_back({Primitive(description), std::move(arguments)});
  }
};

// Most primitives only take tensors without gaps. An input or output that has gaps is copied to or
// from the workspace by these two; otherwise they are the tensor itself.
Argument dense_input(Kernel& kernel, const Spec& spec, int position, int id);

class DenseOutput {
 public:
  DenseOutput(Kernel& kernel, const Spec& spec, int position);
  // The row-major layout that the primitive writes.
  const dnnl::memory::desc& layout() const { return layout_; }
  const Place& place() const { return place_; }
  // To be called after the primitive was added.
  void copy_out(Kernel& kernel) const;

 private:
  int position_;
  dnnl::memory::desc layout_, destination_;
  Place place_;
};

// Weights of `source`'s layout at `data` in the layout `wanted`. Kernels that want the same layout
// of the same constant (other thread counts, other batch sizes) share one copy; where the layouts
// agree the constant itself is used.
std::shared_ptr<const dnnl::memory> pack_weights(void* data, const dnnl::memory::desc& source,
                                                 const dnnl::memory::desc& wanted);

// Attributes of a primitive without post-ops.
dnnl::primitive_attr user_scratchpad();

// conv2d.cc
std::unique_ptr<Kernel> make_conv2d(const Spec& spec);
std::unique_ptr<Kernel> make_deconv2d(const Spec& spec);
// matmul.cc
std::unique_ptr<Kernel> make_matmul(const Spec& spec);
// lrn.cc
std::unique_ptr<Kernel> make_lrn(const Spec& spec);
// pool2d.cc
std::unique_ptr<Kernel> make_max_pool2d(const Spec& spec);
std::unique_ptr<Kernel> make_avg_pool2d(const Spec& spec);
// rows.cc
std::unique_ptr<Kernel> make_softmax(const Spec& spec);
std::unique_ptr<Kernel> make_layer_norm(const Spec& spec);

}  // namespace top::onednn
