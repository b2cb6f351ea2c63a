#include "runtime/waiting.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>

namespace top {

std::atomic<int> spin_budget{0};

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t), "a futex is a plain 32-bit word");

void park_while_equal(const std::atomic<uint32_t>& word, uint32_t value) noexcept {
  // Returns early on signals and when the value has changed already: callers check again.
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}

void wake_all(const std::atomic<uint32_t>* word) noexcept {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

void Counter::park_until(uint32_t target) noexcept {
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  for (;;) {
    const uint32_t value = value_.load(std::memory_order_seq_cst);
    if (reached(value, target)) break;
    park_while_equal(value_, value);
  }
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
}

void Latch::set() noexcept {
  if (state_.exchange(kSet, std::memory_order_acq_rel) == kWaiting) wake_all(&state_);
}

void Latch::wait() noexcept {
  uint32_t expected = kOpen;
  if (!state_.compare_exchange_strong(expected, kWaiting, std::memory_order_acq_rel)) return;
  while (state_.load(std::memory_order_acquire) != kSet) park_while_equal(state_, kWaiting);
}

}  // namespace top
