// A loaded module of library kernels and the kernels created by it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/library_kernels.h"
#include "runtime/plan_data.h"

namespace top {

// Loads the module at `path`, once per process; modules are never unloaded. Throws
// std::runtime_error when that fails.
const TopLibraryKernels& load_library_kernels(const std::string& path);

// A kernel and a binding of it, released in the right order.
using LibraryKernel = std::shared_ptr<void>;
using LibraryBinding = std::shared_ptr<void>;

// `args` as in TopKernelSpec. Throws std::runtime_error with the module's own message.
LibraryKernel create_library_kernel(const TopLibraryKernels& library, const KernelData& kernel,
                                    const std::vector<DLTensor>& args, int threads);
LibraryBinding bind_library_kernel(const TopLibraryKernels& library, const LibraryKernel& kernel);

}  // namespace top
