// Library kernels that are shared by everything in the process that needs the same one.
#pragma once

#include <vector>

#include "runtime/library_module.h"

namespace top {

// As create_library_kernel, but returns the kernel that somebody uses already if it was made from
// the same arguments: symbol, attributes, types, shapes, strides, threads, and the same constants
// in memory. (Constants outlive their kernels, so the address of one stands for its values as long
// as the kernel exists.) A kernel goes when its last user goes. Any thread.
LibraryKernel shared_library_kernel(const TopLibraryKernels& library, const KernelData& kernel,
                                    const std::vector<DLTensor>& args, int threads);

}  // namespace top
