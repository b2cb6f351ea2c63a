// "matmul": A (..., M, K), B (..., K, N), [bias (N,)], [residual like the output], out.
//
// The attributes permute_a and permute_b say in which order the axes of the stored tensors are to
// be read (as numpy.transpose does), permute_out in which order the axes of the product are stored.
#include "runtime/onednn/epilogue.h"
#include "runtime/onednn/kernel.h"
#include "runtime/onednn/product.h"

namespace top::onednn {
namespace {

using dnnl::memory;

// The attribute as a permutation of the axes of `layout`; the identity when it is absent.
std::vector<int> permutation(const Spec& spec, const std::string& name,
                             const memory::desc& layout) {
  const int axes = layout.get_ndims();
  std::vector<int> order;
  for (int axis = 0; axis < axes; ++axis) order.push_back(axis);
  if (spec.find(name) == nullptr) return order;
  std::vector<bool> seen(axes, false);
  const std::vector<int64_t> values = spec.integers(name, axes);
  for (int axis = 0; axis < axes; ++axis) {
    Spec::require(values[axis] >= 0 && values[axis] < axes && !seen[values[axis]],
                  "attribute '" + name + "' must be a permutation of the axes");
    seen[values[axis]] = true;
    order[axis] = static_cast<int>(values[axis]);
  }
  return order;
}

std::vector<int> inverse(const std::vector<int>& permutation) {
  std::vector<int> result(permutation.size());
  for (size_t i = 0; i < permutation.size(); ++i) result[permutation[i]] = static_cast<int>(i);
  return result;
}

}  // namespace

std::unique_ptr<Kernel> make_matmul(const Spec& spec) {
  const Epilogue epilogue(spec);
  const memory::desc a = spec.layout(0), b = spec.layout(1);
  const memory::desc c = spec.layout(epilogue.output_position());
  // permute_axes() moves axis i to permutation[i].
  Product product = {a.permute_axes(inverse(permutation(spec, "permute_a", a))),
                     b.permute_axes(inverse(permutation(spec, "permute_b", b))),
                     c.permute_axes(permutation(spec, "permute_out", c))};
  epilogue.check(spec, product.c.get_dims().back());
  return make_product(spec, epilogue, std::move(product));
}

}  // namespace top::onednn
