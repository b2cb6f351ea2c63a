// Temporary memory of kernels: a stack per thread that keeps its memory between calls.
#pragma once

#include <cstddef>

namespace top {

// Alignment of every buffer that a kernel sees; TVM's AVX-512 kernels fault on less.
constexpr size_t kAlignment = 64;

constexpr size_t round_up(size_t nbytes) {
  return (nbytes + kAlignment - 1) / kAlignment * kAlignment;
}

// 64-byte aligned memory of the calling thread, nullptr when there is none left. Free it on the
// same thread; the last allocation first is the fast order, any order is correct.
void* allocate_workspace(size_t nbytes) noexcept;
// False when the pointer is not a live allocation of the calling thread.
bool free_workspace(void* pointer) noexcept;

}  // namespace top
