#include "runtime/kernel_error.h"

#include <dlfcn.h>
#include <tvm/ffi/c_api.h>

#include <stdexcept>

namespace top {
namespace {

template <typename Function>
Function* find_global(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
}

struct TvmFfi {
  decltype(&TVMFFIErrorMoveFromRaised) move_from_raised =
      find_global<decltype(TVMFFIErrorMoveFromRaised)>("TVMFFIErrorMoveFromRaised");
  decltype(&TVMFFIErrorSetRaisedFromCStr) set_raised =
      find_global<decltype(TVMFFIErrorSetRaisedFromCStr)>("TVMFFIErrorSetRaisedFromCStr");
  decltype(&TVMFFIObjectDecRef) dec_ref =
      find_global<decltype(TVMFFIObjectDecRef)>("TVMFFIObjectDecRef");
};

// Only after require_tvm_ffi() has passed: no kernel exists before.
const TvmFfi& tvm_ffi() {
  static const TvmFfi functions;
  return functions;
}

std::string text(const TVMFFIByteArray& bytes) { return std::string(bytes.data, bytes.size); }

}  // namespace

void require_tvm_ffi() {
  if (dlsym(RTLD_DEFAULT, "TVMFFIErrorMoveFromRaised") == nullptr) {
    throw std::runtime_error("libtvm_ffi.so is not loaded; install apache-tvm-ffi.");
  }
}

std::string take_kernel_error() {
  TVMFFIObjectHandle error = nullptr;
  tvm_ffi().move_from_raised(&error);
  if (error == nullptr) return "the kernel gave no reason";
  const TVMFFIErrorCell* cell = TVMFFIErrorGetCellPtr(error);
  std::string message = text(cell->kind) + ": " + text(cell->message);
  tvm_ffi().dec_ref(error);
  return message;
}

void raise_kernel_error(const char* kind, const std::string& message) {
  tvm_ffi().set_raised(kind, message.c_str());
}

}  // namespace top
