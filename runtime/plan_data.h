// The plan as the executor takes it: the C++ mirror of python/top_tvm/plan.py.
#pragma once

#include <dlpack/dlpack.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace top {

enum class Space { kInput, kOutput, kConstant, kArena };

struct TensorData {
  std::string name;
  DLDataType dtype;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  // in elements; row-major contiguous when empty
  Space space;
  std::string storage;  // name of the input or output, key of the constant
  size_t offset;
  size_t nbytes;  // from the first byte to the last, derived from dtype, shape and strides
};

struct KernelData {
  std::string library;
  std::string symbol;
  std::map<std::string, std::vector<double>> attributes;
};

struct CallData {
  std::string op;
  int kernel;
  std::vector<int> args;  // inputs, then outputs
  int num_outputs;
  int stream;
  int threads;
  std::vector<int> waits;  // indices of earlier calls
};

struct PlanData {
  int streams;
  std::vector<TensorData> tensors;
  std::vector<KernelData> kernels;
  std::vector<CallData> calls;
  std::vector<int> inputs;
  std::vector<int> outputs;
  size_t arena_bytes;
};

// Memory of a constant. The caller keeps it alive and unchanged.
struct ConstantData {
  const void* data;
  size_t nbytes;
};
using Constants = std::map<std::string, ConstantData>;

// NumPy's name of an element type; throws std::invalid_argument for one that kernels cannot take.
DLDataType parse_dtype(const std::string& name);
// Throws std::invalid_argument for negative dimensions or strides, and for sizes that do not fit 63
// bits.
size_t tensor_nbytes(const std::string& name, DLDataType dtype, const std::vector<int64_t>& shape,
                     const std::vector<int64_t>& strides);
Space parse_space(const std::string& name);

// Checks what memory safety and termination of the executor rest on: indices, bounds, alignment,
// writable spaces, waits on earlier calls. Throws std::invalid_argument naming the tensor or op.
// Freedom from races is the business of the plan's own validation.
void check_plan(const PlanData& plan, const Constants& constants);

}  // namespace top
