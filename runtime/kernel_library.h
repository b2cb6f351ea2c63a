// The shared library of TVM-compiled kernels of one artifact.
#pragma once

#include <tvm/ffi/c_api.h>

#include <string>
#include <string_view>

namespace top {

// Immutable after construction; any thread may look up symbols. Kernels must not be called after
// the library is destroyed.
class KernelLibrary {
 public:
  // Loads an ELF image. Throws std::runtime_error when it cannot be loaded here, or when its
  // kernels want a runtime function that is not provided.
  explicit KernelLibrary(std::string_view image);
  ~KernelLibrary();
  KernelLibrary(const KernelLibrary&) = delete;
  KernelLibrary& operator=(const KernelLibrary&) = delete;

  // The kernel of that name; throws std::runtime_error when there is none.
  TVMFFISafeCallType find(const std::string& symbol) const;

 private:
  void* handle_ = nullptr;
  int file_ = -1;  // the image
};

}  // namespace top
