#include "runtime/onednn/plt.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <set>
#include <stdexcept>

namespace top {
namespace {

struct JumpSlot {
  std::string symbol;
  void** address;
};

// Entries of the procedure linkage table: what the library imports by function calls.
std::vector<JumpSlot> jump_slots(const link_map& library) {
  const ElfW(Rela)* relocations = nullptr;
  size_t nbytes = 0;
  const ElfW(Sym)* symbols = nullptr;
  const char* strings = nullptr;
  for (const ElfW(Dyn)* entry = library.l_ld; entry->d_tag != DT_NULL; ++entry) {
    // glibc has turned these into absolute addresses.
    const auto address = entry->d_un.d_ptr;
    if (entry->d_tag == DT_JMPREL) relocations = reinterpret_cast<const ElfW(Rela)*>(address);
    if (entry->d_tag == DT_PLTRELSZ) nbytes = entry->d_un.d_val;
    if (entry->d_tag == DT_SYMTAB) symbols = reinterpret_cast<const ElfW(Sym)*>(address);
    if (entry->d_tag == DT_STRTAB) strings = reinterpret_cast<const char*>(address);
  }
  std::vector<JumpSlot> slots;
  if (relocations == nullptr || symbols == nullptr || strings == nullptr) return slots;
  for (size_t i = 0; i < nbytes / sizeof(*relocations); ++i) {
    const size_t symbol = ELF64_R_SYM(relocations[i].r_info);
    slots.push_back({strings + symbols[symbol].st_name,
                     reinterpret_cast<void**>(library.l_addr + relocations[i].r_offset)});
  }
  return slots;
}

struct AddressRange {
  uintptr_t begin, end;
};

// The part of the library that the loader has made read-only after relocation (RELRO).
AddressRange relocation_read_only(const link_map& library) {
  struct Search {
    uintptr_t base;
    AddressRange found;
  } search{library.l_addr, {0, 0}};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* argument) {
        auto* wanted = static_cast<Search*>(argument);
        if (info->dlpi_addr != wanted->base) return 0;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const ElfW(Phdr) & header = info->dlpi_phdr[i];
          if (header.p_type != PT_GNU_RELRO) continue;
          const uintptr_t begin = info->dlpi_addr + header.p_vaddr;
          wanted->found = {begin, begin + header.p_memsz};
        }
        return 1;
      },
      &search);
  return search.found;
}

// oneDNN's wheel is linked with full RELRO: its slots are read-only by now. The page is made
// writable for the one store and read-only again.
void write_slot(void** slot, void* value, const AddressRange& read_only) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(slot);
  const uintptr_t page_bytes = sysconf(_SC_PAGESIZE);
  void* page = reinterpret_cast<void*>(address / page_bytes * page_bytes);
  const bool protect = address >= read_only.begin && address < read_only.end;
  if (protect && mprotect(page, page_bytes, PROT_READ | PROT_WRITE) != 0) {
    throw std::runtime_error(std::string("Cannot redirect the OpenMP calls of oneDNN: ") +
                             std::strerror(errno));
  }
  // Other threads may be calling through the slot: they see the old function or the new one.
  __atomic_store_n(slot, value, __ATOMIC_RELEASE);
  if (protect) mprotect(page, page_bytes, PROT_READ);
}

bool is_openmp(const std::string& symbol) {
  return symbol.rfind("GOMP_", 0) == 0 || symbol.rfind("omp_", 0) == 0;
}

}  // namespace

void redirect_plt(const std::string& soname, const std::vector<Redirection>& redirections) {
  void* handle = dlopen(soname.c_str(), RTLD_NOW | RTLD_NOLOAD);
  link_map* library = nullptr;
  if (handle == nullptr || dlinfo(handle, RTLD_DI_LINKMAP, &library) != 0) {
    throw std::runtime_error("'" + soname + "' is not loaded.");
  }
  const std::vector<JumpSlot> slots = jump_slots(*library);

  std::set<std::string> imported, expected;
  for (const JumpSlot& slot : slots) {
    if (is_openmp(slot.symbol)) imported.insert(slot.symbol);
  }
  for (const Redirection& redirection : redirections) expected.insert(redirection.symbol);
  if (imported != expected) {
    std::string names;
    for (const std::string& symbol : imported) names += ' ' + symbol;
    throw std::runtime_error("'" + soname + "' imports other OpenMP functions than expected:" +
                             names + ". Install the oneDNN version that top_tvm asks for.");
  }
  for (const Redirection& redirection : redirections) {
    *redirection.original = dlsym(handle, redirection.symbol.c_str());
    if (*redirection.original == nullptr) {
      throw std::runtime_error("'" + redirection.symbol + "' is not loaded.");
    }
  }

  const AddressRange read_only = relocation_read_only(*library);
  for (const JumpSlot& slot : slots) {
    for (const Redirection& redirection : redirections) {
      if (redirection.symbol == slot.symbol) {
        write_slot(slot.address, redirection.replacement, read_only);
      }
    }
  }
  // The handle is kept: the library must stay loaded as it is.
}

}  // namespace top
