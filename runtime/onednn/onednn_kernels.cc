// The table of the module _onednn: oneDNN primitives as library kernels.
#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include "runtime/onednn/kernel.h"
#include "runtime/onednn/openmp.h"

namespace top::onednn {
namespace {

const TopHost* host = nullptr;

// A kernel with memory objects of its own, whose addresses each call sets.
struct Binding {
  const Kernel& kernel;
  dnnl::stream stream;
  std::vector<dnnl::memory> memories;  // as kernel.arguments, then the scratchpad
  std::vector<dnnl_exec_arg_t> arguments;
  size_t scratchpad_bytes;

  explicit Binding(const Kernel& bound)
      : kernel(bound), stream(cpu_engine()), scratchpad_bytes(bound.scratchpad.get_size()) {
    const auto add = [this](int id, const dnnl::memory::desc& layout) {
      memories.emplace_back(layout, cpu_engine(), nullptr);
      arguments.push_back({id, memories.back().get()});
    };
    for (const Argument& argument : kernel.arguments) add(argument.id, argument.layout);
    add(DNNL_ARG_SCRATCHPAD, kernel.scratchpad);
    if (kernel.packed_weights) {
      arguments.push_back({DNNL_ARG_WEIGHTS, kernel.packed_weights->get()});
    }
  }
};

// Runs a function of the table: exceptions become errors of the packed-function ABI.
template <typename Function, typename Result>
Result guarded(const char* symbol, Result failure, Function&& function) noexcept {
  try {
    return function();
  } catch (const std::invalid_argument& error) {
    const std::string message = std::string("oneDNN ") + symbol + ": " + error.what();
    host->raise_error("ValueError", message.c_str());
  } catch (const std::exception& error) {
    const std::string message = std::string("oneDNN ") + symbol + ": " + error.what();
    host->raise_error("RuntimeError", message.c_str());
  }
  return failure;
}

int initialize(const TopHost* from) {
  host = from;
  return guarded("start", -1, [from] {
    redirect_openmp(from);
    return 0;
  });
}

void* create_kernel(const TopKernelSpec* raw) {
  return guarded(raw->symbol, static_cast<void*>(nullptr), [raw]() -> void* {
    const std::string symbol = raw->symbol;
    const Spec spec(*raw);
    if (symbol == "conv2d") return make_conv2d(spec).release();
    if (symbol == "matmul") return make_matmul(spec).release();
    throw std::invalid_argument("there is no such kernel");
  });
}

void destroy_kernel(void* kernel) { delete static_cast<Kernel*>(kernel); }

void* bind(void* kernel) {
  return guarded("bind", static_cast<void*>(nullptr),
                 [kernel]() -> void* { return new Binding(*static_cast<Kernel*>(kernel)); });
}

void unbind(void* binding) { delete static_cast<Binding*>(binding); }

int fail(const char* message) {
  host->raise_error("RuntimeError", message);
  return -1;
}

int call(void* self, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  Binding& binding = *static_cast<Binding*>(self);
  const Kernel& kernel = binding.kernel;
  dnnl_status_t status = dnnl_success;
  for (size_t i = 0; i < kernel.arguments.size() && status == dnnl_success; ++i) {
    const auto* tensor = static_cast<const DLTensor*>(args[kernel.arguments[i].position].v_ptr);
    status = dnnl_memory_set_data_handle(binding.memories[i].get(), tensor->data);
  }
  void* scratchpad = nullptr;
  if (binding.scratchpad_bytes != 0) {
    scratchpad = host->allocate_workspace(binding.scratchpad_bytes);
    if (scratchpad == nullptr)
      return fail("no memory is left for the workspace of a oneDNN kernel");
    dnnl_memory_set_data_handle(binding.memories.back().get(), scratchpad);
  }
  if (status == dnnl_success) {
    status = dnnl_primitive_execute(kernel.primitive.get(), binding.stream.get(),
                                    static_cast<int>(binding.arguments.size()),
                                    binding.arguments.data());
  }
  if (scratchpad != nullptr) host->free_workspace(scratchpad);
  return status == dnnl_success ? 0 : fail("oneDNN could not execute the primitive");
}

}  // namespace
}  // namespace top::onednn

extern "C" __attribute__((visibility("default"))) const TopLibraryKernels* top_library_kernels() {
  using namespace top::onednn;
  static const std::string version = std::to_string(dnnl_version()->major) + "." +
                                     std::to_string(dnnl_version()->minor) + "." +
                                     std::to_string(dnnl_version()->patch);
  static const TopLibraryKernels table = {
      TOP_LIBRARY_KERNELS_ABI,
      version.c_str(),
      initialize,
      create_kernel,
      destroy_kernel,
      bind,
      unbind,
      call,
  };
  return &table;
}
