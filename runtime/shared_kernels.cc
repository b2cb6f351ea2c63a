#include "runtime/shared_kernels.h"

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "runtime/worker_pool.h"

namespace top {
namespace {

// The arguments as bytes; lists carry their length, so that equal keys mean equal arguments.
class Key {
 public:
  Key(const TopLibraryKernels& library, const KernelData& kernel, const std::vector<DLTensor>& args,
      int threads) {
    add(&library);
    add(threads);
    add_text(kernel.symbol);
    add(kernel.attributes.size());
    for (const auto& [name, values] : kernel.attributes) {
      add_text(name);
      add(values.size());
      for (double value : values) add(value);
    }
    for (const DLTensor& arg : args) {
      add(arg.data);
      add(arg.dtype.code);
      add(arg.dtype.bits);
      add(arg.dtype.lanes);
      add(arg.ndim);
      add(arg.strides != nullptr);
      for (int axis = 0; axis < arg.ndim; ++axis) {
        add(arg.shape[axis]);
        if (arg.strides != nullptr) add(arg.strides[axis]);
      }
    }
  }
  std::string take() { return std::move(bytes_); }

 private:
  template <typename Value>
  void add(Value value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void add_text(const std::string& text) {
    add(text.size());
    bytes_ += text;
  }

  std::string bytes_;
};

// Kernels in use; guarded by fork_guard(). Never destroyed: kernels may live until the process
// ends.
std::map<std::string, std::weak_ptr<void>>& kernels_in_use() {
  static auto* kernels = new std::map<std::string, std::weak_ptr<void>>;
  return *kernels;
}

}  // namespace

LibraryKernel shared_library_kernel(const TopLibraryKernels& library, const KernelData& kernel,
                                    const std::vector<DLTensor>& args, int threads) {
  const std::string key = Key(library, kernel, args, threads).take();
  {
    std::lock_guard<std::mutex> lock(fork_guard());
    const auto found = kernels_in_use().find(key);
    if (found != kernels_in_use().end()) {
      if (LibraryKernel shared = found->second.lock()) return shared;
    }
  }
  // Not under the lock, since it takes a while. Where several threads create the same kernel at
  // once the first one to come back is kept.
  LibraryKernel created = create_library_kernel(library, kernel, args, threads);
  void* const address = created.get();
  LibraryKernel shared(address, [key, created = std::move(created)](void*) mutable {
    {
      std::lock_guard<std::mutex> lock(fork_guard());
      const auto found = kernels_in_use().find(key);
      // It may stand for a newer kernel already.
      if (found != kernels_in_use().end() && found->second.expired()) kernels_in_use().erase(found);
    }
    created.reset();
  });
  LibraryKernel first;
  {
    std::lock_guard<std::mutex> lock(fork_guard());
    std::weak_ptr<void>& entry = kernels_in_use()[key];
    first = entry.lock();
    if (first == nullptr) entry = shared;
  }
  return first != nullptr ? first : shared;
}

}  // namespace top
