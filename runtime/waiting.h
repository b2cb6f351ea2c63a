// How threads of the runtime wait for each other: spin for a bounded time, then park in the kernel.
//
// Waking a parked thread costs microseconds, spinning for long starves whoever else needs the core:
// both are measured facts on small machines, so every wait does a little of the first, then parks.
#pragma once

#include <atomic>
#include <cstdint>

namespace top {

// How often a wait polls before it parks; 0 when there are more worker threads than cores.
// Written by the worker pool when it grows, read by everyone.
extern std::atomic<int> spin_budget;

// About 50 us of polling: longer than most operators of small networks are apart.
constexpr int kSpinPolls = 2000;

inline void cpu_relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void park_while_equal(const std::atomic<uint32_t>& word, uint32_t value) noexcept;
// Takes an address only: the word may be gone already (see Latch), then waking nobody is harmless.
void wake_all(const std::atomic<uint32_t>* word) noexcept;

// A count that only rises (modulo 2^32), on a cache line of its own. Any thread may call any
// method.
class alignas(64) Counter {
 public:
  // Only while nobody waits.
  void reset() noexcept { value_.store(0, std::memory_order_relaxed); }
  uint32_t load() const noexcept { return value_.load(std::memory_order_acquire); }

  // Everything the caller did before is visible to whoever sees the new count.
  void add() noexcept {
    // Both operations are sequentially consistent, as are their mirror images in wait_for: either
    // this thread sees the sleeper, or the sleeper sees the new value.
    value_.fetch_add(1, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) != 0) wake_all(&value_);
  }

  void wait_for(uint32_t target) noexcept {
    wait_for(target, spin_budget.load(std::memory_order_relaxed));
  }
  void wait_for(uint32_t target, int polls) noexcept {
    if (reached(load(), target)) return;
    for (; polls > 0; --polls) {
      cpu_relax();
      if (reached(load(), target)) return;
    }
    park_until(target);
  }

 private:
  static bool reached(uint32_t value, uint32_t target) noexcept {
    return static_cast<int32_t>(value - target) >= 0;
  }
  void park_until(uint32_t target) noexcept;

  std::atomic<uint32_t> value_{0};
  std::atomic<uint32_t> sleepers_{0};
};

// How a thread that waits for many things at once sleeps until one of them may have happened. Its
// owner prepares, looks once more at everything it waits for, then sleeps or cancels. Others change
// what the owner waits for, then wake it. All that is sequentially consistent, the look and the
// change included: either the owner sees the change, or whoever made it sees that it must wake the
// owner, who is never left asleep. To wake a thread that is awake costs one read.
class Sleeper {
 public:
  // Owner only.
  void prepare() noexcept { state_.exchange(kAsleep, std::memory_order_seq_cst); }
  void cancel() noexcept { state_.store(kAwake, std::memory_order_relaxed); }
  void sleep() noexcept {
    while (state_.load(std::memory_order_acquire) == kAsleep) park_while_equal(state_, kAsleep);
  }
  // Any thread.
  void wake() noexcept {
    if (state_.load(std::memory_order_seq_cst) == kAwake) return;
    if (state_.exchange(kAwake, std::memory_order_acq_rel) == kAsleep) wake_all(&state_);
  }

 private:
  enum : uint32_t { kAwake, kAsleep };
  std::atomic<uint32_t> state_{kAwake};
};

// Set once, waited for by one thread, which may destroy the latch as soon as wait() returns: set()
// touches the memory exactly once.
class Latch {
 public:
  void set() noexcept;
  void wait() noexcept;

 private:
  enum : uint32_t { kOpen, kWaiting, kSet };
  std::atomic<uint32_t> state_{kOpen};
};

}  // namespace top
