#include "runtime/library_module.h"

#include <dlfcn.h>

#include <map>
#include <mutex>
#include <stdexcept>

#include "runtime/kernel_error.h"
#include "runtime/team.h"
#include "runtime/workspace.h"

namespace top {
namespace {

const TopHost host = {
    [] { return available_threads(); },
    [](void (*body)(void*, int, int), void* argument, int threads) {
      return begin_region(body, argument, threads);
    },
    [](int threads) { end_region(threads); },
    [](int threads) { region_barrier(threads); },
    [](size_t nbytes) { return allocate_workspace(nbytes); },
    [](void* pointer) { free_workspace(pointer); },
    [](const char* kind, const char* message) { raise_kernel_error(kind, message); },
};

const TopLibraryKernels* open_module(const std::string& path) {
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    throw std::runtime_error(std::string("Cannot load the library kernels: ") + dlerror());
  }
  const auto entry =
      reinterpret_cast<TopLibraryKernelsFunction>(dlsym(handle, "top_library_kernels"));
  if (entry == nullptr) {
    throw std::runtime_error("'" + path + "' is not a module of library kernels.");
  }
  const TopLibraryKernels* library = entry();
  if (library->abi != TOP_LIBRARY_KERNELS_ABI) {
    throw std::runtime_error("'" + path + "' belongs to another version of top_tvm.");
  }
  if (library->initialize(&host) != 0) {
    throw std::runtime_error("Cannot start the library kernels: " + take_kernel_error());
  }
  return library;
}

}  // namespace

const TopLibraryKernels& load_library_kernels(const std::string& path) {
  static std::mutex mutex;
  static auto* loaded = new std::map<std::string, const TopLibraryKernels*>;
  std::lock_guard<std::mutex> lock(mutex);
  auto found = loaded->find(path);
  if (found == loaded->end()) found = loaded->emplace(path, open_module(path)).first;
  return *found->second;
}

LibraryKernel create_library_kernel(const TopLibraryKernels& library, const KernelData& kernel,
                                    const std::vector<DLTensor>& args, int threads) {
  std::vector<TopAttribute> attributes;
  for (const auto& [name, values] : kernel.attributes) {
    attributes.push_back({name.c_str(), values.data(), static_cast<int32_t>(values.size())});
  }
  const TopKernelSpec spec = {kernel.symbol.c_str(),
                              attributes.data(),
                              static_cast<int32_t>(attributes.size()),
                              args.data(),
                              static_cast<int32_t>(args.size()),
                              threads};
  void* created = library.create_kernel(&spec);
  if (created == nullptr) throw std::runtime_error(take_kernel_error());
  return LibraryKernel(created, library.destroy_kernel);
}

LibraryBinding bind_library_kernel(const TopLibraryKernels& library, const LibraryKernel& kernel) {
  void* binding = library.bind(kernel.get());
  if (binding == nullptr) throw std::runtime_error(take_kernel_error());
  // The deleter holds the kernel, so that it outlives its bindings.
  return LibraryBinding(binding, [kernel, unbind = library.unbind](void* bound) { unbind(bound); });
}

}  // namespace top
