// What a kernel is to be created from, checked on access.
#pragma once

#include <cstdint>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <vector>

#include "runtime/library_kernels.h"

namespace top::onednn {

// Read access to a TopKernelSpec. Every method throws std::invalid_argument on bad input.
class Spec {
 public:
  explicit Spec(const TopKernelSpec& spec) : spec_(spec), known_(spec.num_attributes, false) {}

  int threads() const { return spec_.threads; }
  // The first attribute whose name begins with `prefix`, or null.
  const TopAttribute* find_prefix(const std::string& prefix) const;
  const TopAttribute* find(const std::string& name) const;
  // Refuses attributes that nobody has asked for: whoever wrote them means something by them.
  void expect_no_more_attributes() const;
  // The attribute with exactly `count` integers.
  std::vector<int64_t> integers(const std::string& name, int count) const;
  // The same for strides, padding and the like: `least` to 65535. oneDNN's own checks compare
  // shapes with them in 64 bits, but the code it generates computes addresses in 32.
  std::vector<int64_t> extents(const std::string& name, int count, int64_t least) const;
  // An attribute of one integer; `fallback` when it is absent.
  int64_t flag(const std::string& name, int64_t fallback) const;
  // The attribute with exactly one number.
  float number(const std::string& name) const;
  // Checks how many arguments there are, that all are float32 or bfloat16, and have 1 to 12
  // dimensions of at least 1.
  void expect_args(int count) const;
  const DLTensor& arg(int position) const { return spec_.args[position]; }
  dnnl::memory::dims shape(int position) const;
  dnnl::memory::data_type type(int position) const;
  // Shape, type and strides as the tensor has them.
  dnnl::memory::desc layout(int position) const;
  // The same without gaps: row-major.
  dnnl::memory::desc dense_layout(int position) const;
  bool has_gaps(int position) const;
  // Refuses a vector or weight that is read as one piece but is not.
  void expect_no_gaps(int position) const;
  // Throws with what is expected when the condition does not hold.
  static void require(bool condition, const std::string& expectation);

 private:
  const TopAttribute* know(int index) const;

  const TopKernelSpec& spec_;
  mutable std::vector<bool> known_;  // attributes that were asked for
};

dnnl::memory::desc row_major(const dnnl::memory::dims& shape, dnnl::memory::data_type type);
// Logical dimensions (N, C, H, W), as oneDNN names them, of a tensor described as (N, H, W, C).
dnnl::memory::desc channels_second(const dnnl::memory::desc& channels_last);

}  // namespace top::onednn
