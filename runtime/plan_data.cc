#include "runtime/plan_data.h"

#include <algorithm>
#include <stdexcept>

#include "runtime/workspace.h"

namespace top {
namespace {

[[noreturn]] void reject(const std::string& message) { throw std::invalid_argument(message); }

void check_index(int index, size_t size, const std::string& what) {
  if (index < 0 || static_cast<size_t>(index) >= size) {
    reject(what + " is number " + std::to_string(index) + " of " + std::to_string(size) + ".");
  }
}

void check_inside(const TensorData& tensor, size_t available, const std::string& memory) {
  if (tensor.offset % kAlignment != 0) {
    reject("Tensor '" + tensor.name + "' lies at offset " + std::to_string(tensor.offset) + " of " +
           memory + ", which is not a multiple of " + std::to_string(kAlignment) + ".");
  }
  if (tensor.offset > available || available - tensor.offset < tensor.nbytes) {
    reject("Tensor '" + tensor.name + "' (" + std::to_string(tensor.nbytes) + " bytes at offset " +
           std::to_string(tensor.offset) + ") reaches beyond the " + std::to_string(available) +
           " bytes of " + memory + ".");
  }
}

void check_constant(const TensorData& tensor, const Constants& constants) {
  const auto found = constants.find(tensor.storage);
  if (found == constants.end()) {
    reject("Tensor '" + tensor.name + "' wants constant '" + tensor.storage +
           "', which does not exist.");
  }
  if (reinterpret_cast<uintptr_t>(found->second.data) % kAlignment != 0) {
    reject("Constant '" + tensor.storage + "' is not aligned to " + std::to_string(kAlignment) +
           " bytes.");
  }
  check_inside(tensor, found->second.nbytes, "constant '" + tensor.storage + "'");
}

// Bytes behind every graph input or output: what the caller provides for the tensor in the plan's
// list. Views of it may not be larger.
std::map<std::string, size_t> boundary_bytes(const PlanData& plan, Space space) {
  const bool input = space == Space::kInput;
  std::map<std::string, size_t> bytes;
  for (int index : input ? plan.inputs : plan.outputs) {
    check_index(index, plan.tensors.size(), input ? "An input tensor" : "An output tensor");
    const TensorData& tensor = plan.tensors[index];
    // They are copied as a whole to memory that has room for their elements only.
    if (!tensor.strides.empty())
      reject("Tensor '" + tensor.name + "' has strides at the boundary.");
    if (tensor.space != space) {
      // Outputs may be anything (they are copied then), inputs may not.
      if (input) reject("Input tensor '" + tensor.name + "' is not in the space of inputs.");
      continue;
    }
    if (tensor.offset != 0) {
      reject("Tensor '" + tensor.name + "' must begin at offset 0 of its storage.");
    }
    if (!bytes.emplace(tensor.storage, tensor.nbytes).second && input) {
      reject("Two inputs are called '" + tensor.storage + "'.");
    }
  }
  return bytes;
}

void check_tensors(const PlanData& plan, const Constants& constants) {
  const auto input_bytes = boundary_bytes(plan, Space::kInput);
  const auto output_bytes = boundary_bytes(plan, Space::kOutput);
  for (const TensorData& tensor : plan.tensors) {
    if (tensor.space == Space::kArena) {
      check_inside(tensor, plan.arena_bytes, "the arena");
    } else if (tensor.space == Space::kConstant) {
      check_constant(tensor, constants);
    } else {
      const bool input = tensor.space == Space::kInput;
      const std::string memory = (input ? "input '" : "output '") + tensor.storage + "'";
      const auto& bytes = input ? input_bytes : output_bytes;
      const auto found = bytes.find(tensor.storage);
      if (found == bytes.end()) {
        reject("Tensor '" + tensor.name + "' lies in " + memory +
               ", which the plan does not list.");
      }
      check_inside(tensor, found->second, memory);
    }
  }
}

void check_call(const PlanData& plan, size_t index) {
  const CallData& call = plan.calls[index];
  const std::string op = "op '" + call.op + "'";
  check_index(call.kernel, plan.kernels.size(), "The kernel of " + op);
  check_index(call.stream, plan.streams, "The stream of " + op);
  if (call.threads != 1 && call.threads != plan.streams) {
    reject("The threads of " + op + " are " + std::to_string(call.threads) + ", not 1 or all " +
           std::to_string(plan.streams) + " streams.");
  }
  for (int arg : call.args) check_index(arg, plan.tensors.size(), "An argument of " + op);
  const size_t num_args = call.args.size();
  if (call.num_outputs < 0 || static_cast<size_t>(call.num_outputs) > num_args) {
    reject("The number of outputs of " + op + " does not fit its arguments.");
  }
  for (size_t i = num_args - call.num_outputs; i < num_args; ++i) {
    const TensorData& tensor = plan.tensors[call.args[i]];
    if (tensor.space == Space::kInput || tensor.space == Space::kConstant) {
      reject("The " + op + " writes tensor '" + tensor.name + "', which is read-only.");
    }
  }
  for (int wait : call.waits) {
    // Waits that only point backwards in one global order cannot form a circle.
    if (wait < 0 || static_cast<size_t>(wait) >= index) {
      reject("The " + op + " waits for call " + std::to_string(wait) + ", which is not before it.");
    }
  }
}

}  // namespace

DLDataType parse_dtype(const std::string& name) {
  static const std::map<std::string, DLDataType> types = {
      {"float16", {kDLFloat, 16, 1}}, {"float32", {kDLFloat, 32, 1}},
      {"float64", {kDLFloat, 64, 1}}, {"bfloat16", {kDLBfloat, 16, 1}},
      {"int8", {kDLInt, 8, 1}},       {"int16", {kDLInt, 16, 1}},
      {"int32", {kDLInt, 32, 1}},     {"int64", {kDLInt, 64, 1}},
      {"uint8", {kDLUInt, 8, 1}},     {"uint16", {kDLUInt, 16, 1}},
      {"uint32", {kDLUInt, 32, 1}},   {"uint64", {kDLUInt, 64, 1}},
      {"bool", {kDLBool, 8, 1}},
  };
  const auto found = types.find(name);
  if (found == types.end()) reject("Kernels cannot take tensors of dtype '" + name + "'.");
  return found->second;
}

size_t tensor_nbytes(const std::string& name, DLDataType dtype, const std::vector<int64_t>& shape,
                     const std::vector<int64_t>& strides) {
  if (!strides.empty() && strides.size() != shape.size()) {
    reject("Tensor '" + name + "' must have one stride per dimension.");
  }
  size_t elements = 1;
  bool fits = true, empty = false;
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    fits = fits && shape[axis] >= 0;
    empty = empty || shape[axis] == 0;
    if (strides.empty()) {
      fits = fits && !__builtin_mul_overflow(elements, static_cast<size_t>(shape[axis]), &elements);
      continue;
    }
    size_t reach = 0;
    fits = fits && strides[axis] >= 0 &&
           !__builtin_mul_overflow(static_cast<size_t>(std::max<int64_t>(shape[axis], 1) - 1),
                                   static_cast<size_t>(strides[axis]), &reach) &&
           !__builtin_add_overflow(elements, reach, &elements);
  }
  size_t nbytes = 0;
  fits = fits && !__builtin_mul_overflow(elements, static_cast<size_t>(dtype.bits / 8), &nbytes) &&
         nbytes <= SIZE_MAX / 2;
  if (!fits) reject("The shape of tensor '" + name + "' is negative or too large.");
  return empty ? 0 : nbytes;
}

Space parse_space(const std::string& name) {
  if (name == "input") return Space::kInput;
  if (name == "output") return Space::kOutput;
  if (name == "constant") return Space::kConstant;
  if (name == "arena") return Space::kArena;
  reject("There is no space '" + name + "'; a tensor is in input, output, constant or arena.");
}

void check_plan(const PlanData& plan, const Constants& constants) {
  if (plan.streams < 1 || plan.streams > 1024) {
    reject("A plan has 1 to 1024 streams, not " + std::to_string(plan.streams) + ".");
  }
  check_tensors(plan, constants);
  for (size_t i = 0; i < plan.calls.size(); ++i) check_call(plan, i);
}

}  // namespace top
