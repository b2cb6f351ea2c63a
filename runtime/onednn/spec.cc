#include "runtime/onednn/spec.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace top::onednn {

using dnnl::memory;

namespace {

constexpr int64_t kMaxExtent = 65535;

}  // namespace

void Spec::require(bool condition, const std::string& expectation) {
  if (!condition) throw std::invalid_argument(expectation);
}

const TopAttribute* Spec::know(int index) const {
  known_[index] = true;
  return &spec_.attributes[index];
}

const TopAttribute* Spec::find(const std::string& name) const {
  for (int i = 0; i < spec_.num_attributes; ++i) {
    if (name == spec_.attributes[i].name) return know(i);
  }
  return nullptr;
}

const TopAttribute* Spec::find_prefix(const std::string& prefix) const {
  for (int i = 0; i < spec_.num_attributes; ++i) {
    if (std::strncmp(spec_.attributes[i].name, prefix.c_str(), prefix.size()) == 0) return know(i);
  }
  return nullptr;
}

void Spec::expect_no_more_attributes() const {
  for (int i = 0; i < spec_.num_attributes; ++i) {
    require(known_[i], std::string("attribute '") + spec_.attributes[i].name + "' is not known");
  }
}

std::vector<int64_t> Spec::integers(const std::string& name, int count) const {
  const TopAttribute* attribute = find(name);
  require(attribute != nullptr, "attribute '" + name + "' is missing");
  require(attribute->num_values == count,
          "attribute '" + name + "' must have " + std::to_string(count) + " values");
  std::vector<int64_t> values;
  for (int i = 0; i < count; ++i) {
    const double value = attribute->values[i];
    // Beyond 2^53 a double does not hold every integer.
    require(std::trunc(value) == value && std::abs(value) <= 9007199254740992.0,
            "attribute '" + name + "' must have integers");
    values.push_back(static_cast<int64_t>(value));
  }
  return values;
}

std::vector<int64_t> Spec::extents(const std::string& name, int count, int64_t least) const {
  const std::vector<int64_t> values = integers(name, count);
  for (const int64_t value : values) {
    require(value >= least && value <= kMaxExtent,
            "attribute '" + name + "' must have integers from " + std::to_string(least) + " to " +
                std::to_string(kMaxExtent));
  }
  return values;
}

int64_t Spec::flag(const std::string& name, int64_t fallback) const {
  return find(name) == nullptr ? fallback : integers(name, 1)[0];
}

float Spec::number(const std::string& name) const {
  const TopAttribute* attribute = find(name);
  require(attribute != nullptr, "attribute '" + name + "' is missing");
  require(attribute->num_values == 1, "attribute '" + name + "' must have 1 value");
  return static_cast<float>(attribute->values[0]);
}

void Spec::expect_args(int count) const {
  require(spec_.num_args == count, "expected " + std::to_string(count) + " arguments, given " +
                                       std::to_string(spec_.num_args));
  for (int i = 0; i < count; ++i) {
    type(i);
    const DLTensor& tensor = arg(i);
    require(tensor.ndim >= 1 && tensor.ndim <= DNNL_MAX_NDIMS &&
                std::all_of(tensor.shape, tensor.shape + tensor.ndim,
                            [](int64_t extent) { return extent >= 1; }),
            "argument " + std::to_string(i) + " must have 1 to " + std::to_string(DNNL_MAX_NDIMS) +
                " dimensions of at least 1");
  }
}

memory::dims Spec::shape(int position) const {
  return {arg(position).shape, arg(position).shape + arg(position).ndim};
}

memory::data_type Spec::type(int position) const {
  const DLDataType& dtype = arg(position).dtype;
  if (dtype.lanes == 1 && dtype.code == kDLFloat && dtype.bits == 32) {
    return memory::data_type::f32;
  }
  require(dtype.lanes == 1 && dtype.code == kDLBfloat && dtype.bits == 16,
          "argument " + std::to_string(position) + " must be float32 or bfloat16");
  return memory::data_type::bf16;
}

memory::desc Spec::layout(int position) const {
  if (!has_gaps(position)) return dense_layout(position);
  const int64_t* strides = arg(position).strides;
  return {shape(position), type(position), memory::dims(strides, strides + arg(position).ndim)};
}

memory::desc Spec::dense_layout(int position) const {
  return row_major(shape(position), type(position));
}

bool Spec::has_gaps(int position) const {
  const DLTensor& tensor = arg(position);
  if (tensor.strides == nullptr) return false;
  const memory::dims dense = dense_layout(position).get_strides();
  for (int axis = 0; axis < tensor.ndim; ++axis) {
    // The stride of a dimension of length 1 is never used.
    if (tensor.shape[axis] != 1 && tensor.strides[axis] != dense[axis]) return true;
  }
  return false;
}

void Spec::expect_no_gaps(int position) const {
  require(!has_gaps(position), "argument " + std::to_string(position) + " must not have gaps");
}

memory::desc row_major(const memory::dims& shape, memory::data_type type) {
  memory::dims strides(shape.size(), 1);
  for (size_t axis = shape.size(); axis-- > 1;) {
    // A dimension of length 0 must not make the strides of the others collapse.
    strides[axis - 1] = strides[axis] * std::max<int64_t>(1, shape[axis]);
  }
  return {shape, type, strides};
}

memory::desc channels_second(const memory::desc& channels_last) {
  return channels_last.permute_axes({0, 2, 3, 1});
}

}  // namespace top::onednn
