// Errors of kernels: the packed-function ABI reports them through a thread-local of libtvm_ffi.
//
// libtvm_ffi is found among the libraries that are loaded globally when it is first needed, not
// when this code is loaded: the compiler's half of the native module works without it.
#pragma once

#include <string>

namespace top {

// Throws std::runtime_error unless libtvm_ffi is loaded and global, as kernels need it.
void require_tvm_ffi();

// Takes the error that the last failing kernel of this thread raised: "ValueError: what was wrong".
std::string take_kernel_error();
// Raises an error the way a kernel does, before it returns a non-zero code.
void raise_kernel_error(const char* kind, const std::string& message);

}  // namespace top
