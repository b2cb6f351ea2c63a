// C = A B with an epilogue: what matrix products and 1x1 convolutions come down to.
#pragma once

#include <memory>

#include "runtime/onednn/epilogue.h"
#include "runtime/onednn/kernel.h"

namespace top::onednn {

// Layouts of A (..., M, K), B (..., K, N) and C (..., M, N), with any strides. Leading dimensions
// that are missing or 1 are broadcast.
struct Product {
  dnnl::memory::desc a, b, c;
};

// A is argument 0, B argument 1 and C the output of the epilogue. The residual is laid out in its
// own dimensions as C is in its.
std::unique_ptr<Kernel> make_product(const Spec& spec, const Epilogue& epilogue, Product product);

}  // namespace top::onednn
