// The C interface between the executor and a module of library kernels such as _onednn.
//
// A module exports one function, top_library_kernels(), that returns its table. Kernels are called
// like TVM kernels (packed-function ABI, DLTensor arguments), so that the executor does not care
// where a kernel comes from.
#pragma once

#include <dlpack/dlpack.h>
#include <tvm/ffi/c_api.h>

#include <cstddef>
#include <cstdint>

extern "C" {

#define TOP_LIBRARY_KERNELS_ABI 2

struct TopAttribute {
  const char* name;
  const double* values;  // integers are integral
  int32_t num_values;
};

// What to create: `args` as they will be passed in calls, with strides where they have gaps; `data`
// is set for constants (which stay valid as long as the kernel) and null for tensors that come with
// each call.
struct TopKernelSpec {
  const char* symbol;
  const TopAttribute* attributes;
  int32_t num_attributes;
  const DLTensor* args;
  int32_t num_args;
  int32_t threads;
};

// What a module gets from the process that loads it; see runtime/team.h, workspace.h and
// kernel_error.h.
struct TopHost {
  int (*available_threads)();
  int (*begin_region)(void (*body)(void* argument, int index, int threads), void* argument,
                      int threads);
  void (*end_region)(int threads);
  void (*region_barrier)(int threads);
  void* (*allocate_workspace)(size_t nbytes);
  void (*free_workspace)(void* pointer);
  void (*raise_error)(const char* kind, const char* message);
};

// Functions that return a pointer return null after raise_error(), as kernels return non-zero. All
// may be called from any thread.
struct TopLibraryKernels {
  int32_t abi;
  const char* version;
  // Called once, before anything else; 0 on success.
  int (*initialize)(const TopHost* host);
  void* (*create_kernel)(const TopKernelSpec* spec);
  void (*destroy_kernel)(void* kernel);
  // A binding holds the state of one call in one execution context: it is what `call` gets as its
  // first argument, by one thread at a time. It must go before its kernel.
  void* (*bind)(void* kernel);
  void (*unbind)(void* binding);
  TVMFFISafeCallType call;
};

typedef const TopLibraryKernels* (*TopLibraryKernelsFunction)();
}
