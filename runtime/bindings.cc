// Python binding of the executor. Logic that explains errors to users is in Python
// (top_tvm/runtime/executable.py); what memory safety needs is checked here again.
#include "runtime/bindings.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "runtime/library_module.h"
#include "runtime/worker_pool.h"
#include "runtime/workspace.h"

namespace top {

bool is_contiguous(const InputArray& array) {
  if (array.size() == 0) return true;  // whatever its strides
  int64_t expected = 1;
  for (size_t axis = array.ndim(); axis-- > 0;) {
    if (array.shape(axis) > 1 && array.stride(axis) != expected) return false;
    expected *= static_cast<int64_t>(array.shape(axis));
  }
  return true;
}

namespace {

OutputArray aligned_empty(const std::vector<int64_t>& shape, DLDataType dtype) {
  const size_t nbytes = tensor_nbytes("array", dtype, shape, {});
  void* data = std::aligned_alloc(kAlignment, std::max(round_up(nbytes), kAlignment));
  if (data == nullptr) throw std::bad_alloc();
  nb::capsule owner(data, [](void* memory) noexcept { std::free(memory); });
  const std::vector<size_t> dimensions(shape.begin(), shape.end());
  const nb::dlpack::dtype type = {dtype.code, dtype.bits, dtype.lanes};
  return OutputArray(data, dimensions.size(), dimensions.data(), owner, nullptr, type);
}

bool is_aligned(const InputArray& array) {
  return reinterpret_cast<uintptr_t>(array.data()) % kAlignment == 0;
}

// --- The plan, read from the dataclasses of top_tvm/plan.py ---

template <typename T>
T attribute(nb::handle object, const char* name) {
  return nb::cast<T>(object.attr(name));
}

// Tuples and other sequences of numbers.
template <typename Number>
std::vector<Number> numbers(nb::handle sequence) {
  std::vector<Number> values;
  for (nb::handle value : sequence) values.push_back(nb::cast<Number>(value));
  return values;
}

TensorData read_tensor(nb::handle tensor) {
  TensorData data{};
  data.name = attribute<std::string>(tensor, "name");
  data.dtype = parse_dtype(attribute<std::string>(tensor, "dtype"));
  data.shape = numbers<int64_t>(tensor.attr("shape"));
  data.strides = numbers<int64_t>(tensor.attr("strides"));
  data.space = parse_space(attribute<std::string>(tensor, "space"));
  data.storage = attribute<std::string>(tensor, "storage");
  data.offset = attribute<size_t>(tensor, "offset");
  data.nbytes = tensor_nbytes(data.name, data.dtype, data.shape, data.strides);
  return data;
}

KernelData read_kernel(nb::handle kernel) {
  KernelData data{
      attribute<std::string>(kernel, "library"), attribute<std::string>(kernel, "symbol"), {}};
  for (auto [name, values] : attribute<nb::dict>(kernel, "attributes")) {
    data.attributes[nb::cast<std::string>(name)] = numbers<double>(values);
  }
  return data;
}

CallData read_call(nb::handle call) {
  return {attribute<std::string>(call, "op"), attribute<int>(call, "kernel"),
          numbers<int>(call.attr("args")),    attribute<int>(call, "num_outputs"),
          attribute<int>(call, "stream"),     attribute<int>(call, "threads"),
          numbers<int>(call.attr("waits"))};
}

PlanData read_plan(nb::handle plan) {
  PlanData data{};
  data.streams = attribute<int>(plan, "streams");
  for (nb::handle tensor : plan.attr("tensors")) data.tensors.push_back(read_tensor(tensor));
  for (nb::handle kernel : plan.attr("kernels")) data.kernels.push_back(read_kernel(kernel));
  for (nb::handle call : plan.attr("calls")) data.calls.push_back(read_call(call));
  data.inputs = numbers<int>(plan.attr("inputs"));
  data.outputs = numbers<int>(plan.attr("outputs"));
  data.arena_bytes = attribute<size_t>(plan, "arena_bytes");
  return data;
}

void check_repeats(int warmup, int repeats) {
  if (warmup < 0 || repeats < 1) {
    throw std::invalid_argument("warmup must not be negative, repeats must be at least 1.");
  }
}

}  // namespace

BoundExecutor::BoundExecutor(nb::object plan, std::map<std::string, InputArray> constants,
                             nb::object library, const std::optional<std::string>& library_kernels)
    : constants_(std::move(constants)), library_(std::move(library)) {
  PlanData data = read_plan(plan);
  Constants memory;
  for (const auto& [key, array] : constants_) {
    if (!is_contiguous(array)) {
      throw std::invalid_argument("Constant '" + key + "' is not contiguous.");
    }
    memory[key] = {array.data(), array.nbytes()};
  }
  const KernelLibrary* kernels =
      library_.is_none() ? nullptr : nb::cast<const KernelLibrary*>(library_);
  const auto find_kernel = [kernels](const std::string& symbol) {
    if (kernels == nullptr) {
      throw std::runtime_error("Kernel '" + symbol + "' needs a kernel library.");
    }
    return kernels->find(symbol);
  };
  const Unlocked unlocked;  // packing weights takes a while
  const TopLibraryKernels* table =
      library_kernels ? &load_library_kernels(*library_kernels) : nullptr;
  executor_ = std::make_shared<Executor>(std::move(data), std::move(memory), find_kernel, table);
}

std::vector<OutputArray> BoundExecutor::run(const std::vector<InputArray>& inputs) {
  Bound bound = bind(inputs);
  {
    const Unlocked unlocked;
    executor_->run(bound.inputs, bound.outputs);
  }
  return std::move(bound.arrays);
}

OutputArray BoundExecutor::time(const std::vector<InputArray>& inputs, int warmup, int repeats) {
  check_repeats(warmup, repeats);
  const Bound bound = bind(inputs);
  OutputArray result = aligned_empty({repeats}, {kDLFloat, 64, 1});
  auto* times_us = static_cast<double*>(result.data());
  const Unlocked unlocked;
  for (int i = 0; i < warmup; ++i) executor_->run(bound.inputs, bound.outputs);
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    executor_->run(bound.inputs, bound.outputs);
    const std::chrono::duration<double, std::micro> elapsed =
        std::chrono::steady_clock::now() - start;
    times_us[i] = elapsed.count();
  }
  return result;
}

OutputArray BoundExecutor::timeline(const std::vector<InputArray>& inputs, int warmup,
                                    int repeats) {
  check_repeats(warmup, repeats);
  const Bound bound = bind(inputs);
  const size_t num_calls = executor_->plan().calls.size();
  OutputArray result =
      aligned_empty({repeats, static_cast<int64_t>(num_calls), 2}, {kDLFloat, 64, 1});
  auto* times_us = static_cast<double*>(result.data());
  const Unlocked unlocked;
  std::vector<CallTime> times(num_calls);
  for (int i = 0; i < warmup; ++i) executor_->run(bound.inputs, bound.outputs);
  for (int i = 0; i < repeats; ++i) {
    executor_->run(bound.inputs, bound.outputs, times.data());
    for (const CallTime& call : times) {
      *times_us++ = static_cast<double>(call.start_ns) * 1e-3;
      *times_us++ = static_cast<double>(call.end_ns) * 1e-3;
    }
  }
  return result;
}

BoundExecutor::Bound BoundExecutor::bind(const std::vector<InputArray>& inputs) const {
  const PlanData& plan = executor_->plan();
  if (inputs.size() != plan.inputs.size()) {
    throw std::invalid_argument("The plan has " + std::to_string(plan.inputs.size()) +
                                " inputs, given " + std::to_string(inputs.size()) + ".");
  }
  Bound bound;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const TensorData& tensor = plan.tensors[plan.inputs[i]];
    if (!is_contiguous(inputs[i]) || inputs[i].nbytes() != tensor.nbytes) {
      throw std::invalid_argument("Input '" + tensor.storage + "' must be contiguous with " +
                                  std::to_string(tensor.nbytes) + " bytes.");
    }
    bound.inputs.push_back(inputs[i].data());
  }
  for (int output : plan.outputs) {
    bound.arrays.push_back(aligned_empty(plan.tensors[output].shape, plan.tensors[output].dtype));
    bound.outputs.push_back(bound.arrays.back().data());
  }
  return bound;
}

void bind_runtime(nb::module_& module) {
  module.def(
      "aligned_empty",
      [](const std::vector<int64_t>& shape, const std::string& dtype) {
        return aligned_empty(shape, parse_dtype(dtype));
      },
      nb::arg("shape"), nb::arg("dtype"));
  module.def(
      "is_ready", [](const InputArray& array) { return is_contiguous(array) && is_aligned(array); },
      nb::arg("array"));
  module.def("allowed_cores", &allowed_cores);

  nb::class_<KernelLibrary>(module, "KernelLibrary")
      .def(
          "__init__",
          [](KernelLibrary* self, nb::bytes image) {
            new (self) KernelLibrary(std::string_view(image.c_str(), image.size()));
          },
          nb::arg("image"));

  nb::class_<BoundExecutor>(module, "Executor")
      .def(nb::init<nb::object, std::map<std::string, InputArray>, nb::object,
                    const std::optional<std::string>&>(),
           nb::arg("plan"), nb::arg("constants"), nb::arg("library").none(),
           nb::arg("library_kernels").none())
      .def("run", &BoundExecutor::run, nb::arg("inputs"))
      .def("time", &BoundExecutor::time, nb::arg("inputs"), nb::arg("warmup"), nb::arg("repeats"))
      .def("timeline", &BoundExecutor::timeline, nb::arg("inputs"), nb::arg("warmup"),
           nb::arg("repeats"));

  // Before the interpreter and its libraries go away: clients have left, workers are joined.
  nb::module_::import_("atexit").attr("register")(nb::cpp_function([] {
    nb::gil_scoped_release unlocked;
    close_client_gate();
    WorkerPool::shut_down();
  }));
}

}  // namespace top
