#include "runtime/kernel_library.h"

#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "runtime/kernel_error.h"
#include "runtime/team.h"
#include "runtime/workspace.h"

namespace top {
namespace {

// --- What TVM kernels call back (signatures: tvm/runtime/c_backend_api.h) ---

struct ParallelGroup {
  void* sync_handle;
  int32_t num_task;
};
using ParallelLambda = int (*)(int task_id, ParallelGroup* group, void* closure);

struct Launch {
  ParallelLambda lambda;
  void* closure;
  std::atomic<int> failed{0};
  std::string error;  // written by the first member that fails
};

void run_task(void* argument, int index, int threads) {
  auto* launch = static_cast<Launch*>(argument);
  ParallelGroup group{nullptr, threads};
  if (launch->lambda(index, &group, launch->closure) != 0) {
    // Errors are thread-local: carry the text over to the thread that called the kernel.
    std::string error = take_kernel_error();
    if (launch->failed.exchange(1, std::memory_order_acq_rel) == 0)
      launch->error = std::move(error);
  }
}

// A kernel that asks for more tasks than there are threads gets fewer: its lambda divides the work
// by the number it is told.
int parallel_launch(ParallelLambda lambda, void* closure, int num_task) {
  Launch launch{lambda, closure, {}, {}};
  const int threads = begin_region(run_task, &launch, num_task);
  run_task(&launch, 0, threads);
  end_region(threads);
  if (launch.failed.load(std::memory_order_acquire) == 0) return 0;
  raise_kernel_error("RuntimeError", launch.error);
  return -1;
}

int parallel_barrier(int, ParallelGroup* group) {
  region_barrier(group->num_task);
  return 0;
}

void* backend_allocate(int, int, uint64_t nbytes, int, int) { return allocate_workspace(nbytes); }

int backend_free(int, int, void* pointer) {
  if (free_workspace(pointer)) return 0;
  raise_kernel_error("RuntimeError", "A kernel freed workspace that it had not allocated.");
  return -1;
}

void* context_function(const std::string& symbol) {
  if (symbol == "__TVMBackendParallelLaunch") return reinterpret_cast<void*>(&parallel_launch);
  if (symbol == "__TVMBackendParallelBarrier") return reinterpret_cast<void*>(&parallel_barrier);
  if (symbol == "__TVMBackendAllocWorkspace") return reinterpret_cast<void*>(&backend_allocate);
  if (symbol == "__TVMBackendFreeWorkspace") return reinterpret_cast<void*>(&backend_free);
  return nullptr;
}

// --- The ELF image ---

template <typename T>
T read_at(std::string_view image, uint64_t offset) {
  if (offset > image.size() || image.size() - offset < sizeof(T)) {
    throw std::runtime_error("The kernel library is truncated.");
  }
  T value;
  std::memcpy(&value, image.data() + offset, sizeof(T));
  return value;
}

#if defined(__x86_64__)
constexpr Elf64_Half kMachine = EM_X86_64;
#elif defined(__aarch64__)
constexpr Elf64_Half kMachine = EM_AARCH64;
#else
#error "kernel libraries are for x86-64 and AArch64"
#endif

// The dynamic loader believes what an image says: it would map pages that a truncated image does
// not have, and fault when it touches them.
void check_image(std::string_view image) {
  if (image.size() < SELFMAG || std::memcmp(image.data(), ELFMAG, SELFMAG) != 0) {
    throw std::runtime_error("The kernel library is not an ELF shared library.");
  }
  const auto header = read_at<Elf64_Ehdr>(image, 0);
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
      header.e_machine != kMachine || header.e_type != ET_DYN) {
    throw std::runtime_error("The kernel library is not a shared library for this machine.");
  }
  for (int i = 0; i < header.e_phnum; ++i) {
    const auto segment = read_at<Elf64_Phdr>(image, header.e_phoff + i * sizeof(Elf64_Phdr));
    if (segment.p_offset > image.size() || image.size() - segment.p_offset < segment.p_filesz) {
      throw std::runtime_error("The kernel library is truncated.");
    }
  }
}

// Names of the symbols "__TVM..." of the dynamic symbol table: pointers that the loader of a
// library has to set, else its kernels jump to address 0.
std::vector<std::string> context_symbols(std::string_view image) {
  const auto header = read_at<Elf64_Ehdr>(image, 0);
  std::vector<std::string> names;
  for (int i = 0; i < header.e_shnum; ++i) {
    const auto section = read_at<Elf64_Shdr>(image, header.e_shoff + i * sizeof(Elf64_Shdr));
    if (section.sh_type != SHT_DYNSYM) continue;
    const auto strings =
        read_at<Elf64_Shdr>(image, header.e_shoff + section.sh_link * sizeof(Elf64_Shdr));
    for (uint64_t at = 0; at + sizeof(Elf64_Sym) <= section.sh_size; at += sizeof(Elf64_Sym)) {
      const auto symbol = read_at<Elf64_Sym>(image, section.sh_offset + at);
      const uint64_t begin = strings.sh_offset + symbol.st_name;
      if (begin >= image.size()) throw std::runtime_error("The kernel library is truncated.");
      const char* name = image.data() + begin;
      const std::string_view text(name, strnlen(name, image.size() - begin));
      if (text.substr(0, 5) == "__TVM") names.emplace_back(text);
    }
  }
  return names;
}

// dlopen wants a path: that of a file in memory, which needs no writable directory and leaves none
// behind. It stays open as long as the library, because the loader takes equal paths for the same
// library, and the path is that of its descriptor.
std::pair<void*, int> open_image(std::string_view image) {
  const int file = memfd_create("top_tvm_kernels", MFD_CLOEXEC);
  if (file < 0) {
    throw std::runtime_error(
        std::string("Cannot create a file in memory for the kernel library: ") +
        std::strerror(errno));
  }
  std::string error;
  for (size_t written = 0; written < image.size() && error.empty();) {
    const ssize_t count = write(file, image.data() + written, image.size() - written);
    if (count > 0) {
      written += count;
    } else if (errno != EINTR) {
      error = std::strerror(errno);
    }
  }
  void* handle = nullptr;
  if (error.empty()) {
    const std::string path = "/proc/self/fd/" + std::to_string(file);
    handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) error = dlerror();
  }
  if (handle == nullptr) {
    close(file);
    throw std::runtime_error("Cannot load the kernel library: " + error);
  }
  return {handle, file};
}

}  // namespace

KernelLibrary::KernelLibrary(std::string_view image) {
  require_tvm_ffi();  // which kernel libraries use without naming it as a dependency
  check_image(image);
  std::vector<std::pair<std::string, void*>> context;
  for (const std::string& symbol : context_symbols(image)) {
    void* function = context_function(symbol);
    if (function == nullptr) {
      throw std::runtime_error("The kernel library needs '" + symbol +
                               "', which this runtime does not provide; build it with this version "
                               "of top_tvm.");
    }
    context.emplace_back(symbol, function);
  }
  std::tie(handle_, file_) = open_image(image);
  // Set in this library only, so that TVM's own runtime in the same process is not disturbed.
  for (const auto& [symbol, function] : context) {
    if (void** slot = static_cast<void**>(dlsym(handle_, symbol.c_str()))) *slot = function;
  }
}

KernelLibrary::~KernelLibrary() {
  dlclose(handle_);
  close(file_);
}

TVMFFISafeCallType KernelLibrary::find(const std::string& symbol) const {
  void* address = dlsym(handle_, ("__tvm_ffi_" + symbol).c_str());
  // The library has data under such names as well, which a damaged plan could name.
  Dl_info info;
  Elf64_Sym* entry = nullptr;
  const bool found = address != nullptr &&
                     dladdr1(address, &info, reinterpret_cast<void**>(&entry), RTLD_DL_SYMENT) != 0;
  if (!found || entry == nullptr || ELF64_ST_TYPE(entry->st_info) != STT_FUNC) {
    throw std::runtime_error("The kernel library has no kernel '" + symbol + "'.");
  }
  return reinterpret_cast<TVMFFISafeCallType>(address);
}

}  // namespace top
