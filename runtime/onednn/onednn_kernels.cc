// The table of the module _onednn: oneDNN primitives as library kernels.
#include <exception>
#include <map>
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
  struct BoundStep {
    dnnl_primitive_t primitive;
    std::vector<dnnl_exec_arg_t> arguments;
  };
  // Memory at an argument of the call, or at an offset of the workspace when `position` is -1.
  struct Moving {
    dnnl::memory memory;
    int position;
    size_t offset;
  };

  dnnl::stream stream;
  std::vector<BoundStep> steps;
  std::vector<Moving> moving;
  size_t workspace_bytes;

  explicit Binding(const Kernel& kernel)
      : stream(cpu_engine()), workspace_bytes(kernel.workspace_bytes) {
    for (const Step& step : kernel.steps) {
      steps.push_back({step.primitive.get(), {}});
      for (const Argument& argument : step.arguments) {
        const Place& place = argument.place;
        if (place.constant) {
          steps.back().arguments.push_back({argument.id, place.constant->get()});
          continue;
        }
        moving.push_back(
            {dnnl::memory(argument.layout, cpu_engine(), nullptr), place.position, place.offset});
        steps.back().arguments.push_back({argument.id, moving.back().memory.get()});
      }
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
    static const std::map<std::string, std::unique_ptr<Kernel> (*)(const Spec&)> makers = {
        {"avg_pool2d", make_avg_pool2d}, {"conv2d", make_conv2d},  {"deconv2d", make_deconv2d},
        {"layer_norm", make_layer_norm}, {"lrn", make_lrn},        {"matmul", make_matmul},
        {"max_pool2d", make_max_pool2d}, {"softmax", make_softmax}};
    const Spec spec(*raw);
    const auto found = makers.find(raw->symbol);
    if (found == makers.end()) throw std::invalid_argument("there is no such kernel");
    std::unique_ptr<Kernel> kernel = found->second(spec);
    spec.expect_no_more_attributes();
    return kernel.release();
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
  char* workspace = nullptr;
  if (binding.workspace_bytes != 0) {
    workspace = static_cast<char*>(host->allocate_workspace(binding.workspace_bytes));
    if (workspace == nullptr) {
      return fail("no memory is left for the workspace of a oneDNN kernel");
    }
  }
  dnnl_status_t status = dnnl_success;
  for (const Binding::Moving& moving : binding.moving) {
    void* data = workspace + moving.offset;
    if (moving.position >= 0) {
      data = static_cast<const DLTensor*>(args[moving.position].v_ptr)->data;
    }
    if (status == dnnl_success) status = dnnl_memory_set_data_handle(moving.memory.get(), data);
  }
  for (const Binding::BoundStep& step : binding.steps) {
    if (status != dnnl_success) break;
    status = dnnl_primitive_execute(step.primitive, binding.stream.get(),
                                    static_cast<int>(step.arguments.size()), step.arguments.data());
  }
  if (workspace != nullptr) host->free_workspace(workspace);
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
