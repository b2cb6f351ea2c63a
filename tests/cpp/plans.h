// Small plans for the C++ tests, and memory that is aligned as the executor wants it.
#pragma once

#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/plan_data.h"
#include "runtime/workspace.h"

namespace top::testing {

class Buffer {
 public:
  explicit Buffer(size_t elements)
      : elements_(elements),
        data_(static_cast<float*>(std::aligned_alloc(kAlignment, round_up(elements * 4 + 64)))) {
    std::memset(data_.get(), 0, elements * 4);
  }
  float* data() const { return data_.get(); }
  size_t size() const { return elements_; }
  float& operator[](size_t i) const { return data_.get()[i]; }
  // Values in [-0.5, 0.5) that depend on the seed only.
  Buffer& randomise(uint32_t seed) {
    for (size_t i = 0; i < elements_; ++i) {
      seed = seed * 1664525u + 1013904223u;
      data_.get()[i] = static_cast<float>(seed >> 8) / 16777216.0f - 0.5f;
    }
    return *this;
  }

 private:
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  size_t elements_;
  std::unique_ptr<float, Free> data_;
};

// Adds float32 tensors and calls to a plan, in the order of PlanData's lists.
class PlanBuilder {
 public:
  explicit PlanBuilder(int streams) { plan.streams = streams; }

  int input(const std::string& name, std::vector<int64_t> shape) {
    plan.inputs.push_back(tensor(name, std::move(shape), Space::kInput, name, 0));
    return plan.inputs.back();
  }
  int output(const std::string& name, std::vector<int64_t> shape) {
    plan.outputs.push_back(tensor(name, std::move(shape), Space::kOutput, name, 0));
    return plan.outputs.back();
  }
  int constant(const std::string& name, std::vector<int64_t> shape) {
    return tensor(name, std::move(shape), Space::kConstant, name, 0);
  }
  // Behind everything allocated so far: no memory is shared.
  int arena(const std::string& name, std::vector<int64_t> shape) {
    const int index = tensor(name, std::move(shape), Space::kArena, "", plan.arena_bytes);
    plan.arena_bytes += round_up(plan.tensors[index].nbytes);
    return index;
  }
  int tensor(const std::string& name, std::vector<int64_t> shape, Space space,
             const std::string& storage, size_t offset) {
    const DLDataType dtype = {kDLFloat, 32, 1};
    const size_t nbytes = tensor_nbytes(name, dtype, shape, {});
    plan.tensors.push_back({name, dtype, std::move(shape), {}, space, storage, offset, nbytes});
    return static_cast<int>(plan.tensors.size()) - 1;
  }
  int kernel(const std::string& library, const std::string& symbol,
             std::map<std::string, std::vector<double>> attributes = {}) {
    plan.kernels.push_back({library, symbol, std::move(attributes)});
    return static_cast<int>(plan.kernels.size()) - 1;
  }
  // The last argument is the output.
  int call(const std::string& op, int kernel, std::vector<int> args, int stream, int threads = 1,
           std::vector<int> waits = {}) {
    plan.calls.push_back({op, kernel, std::move(args), 1, stream, threads, std::move(waits)});
    return static_cast<int>(plan.calls.size()) - 1;
  }

  PlanData plan{};
};

}  // namespace top::testing
