// What follows a product inside the same primitive: bias, then operations in the order of their
// attributes "post0.<operation>", "post1.<operation>", ...
#pragma once

#include <string>
#include <vector>

#include "runtime/onednn/kernel.h"

namespace top::onednn {

struct PostOp {
  std::string name;
  std::vector<float> parameters;
};

struct Epilogue {
  bool bias;
  std::vector<PostOp> operations;

  // Checks the number of arguments, too.
  explicit Epilogue(const Spec& spec);
  bool has_residual() const;
  // Number of arguments that it adds behind the first two of the primitive: bias, residual.
  int num_args() const { return (bias ? 1 : 0) + (has_residual() ? 1 : 0); }
  // Position of the residual, which has the output's shape.
  int residual_position() const { return bias ? 3 : 2; }
  // Position of the output.
  int output_position() const { return 2 + num_args(); }
  // Checks the arguments of a product with `channels` columns.
  void check(const Spec& spec, int64_t channels) const;
  // `residual` is its layout with the dimensions of the primitive.
  dnnl::primitive_attr attributes(const dnnl::memory::desc& residual) const;
  // DNNL_ARG_... of the residual.
  int residual_id() const;
};

}  // namespace top::onednn
