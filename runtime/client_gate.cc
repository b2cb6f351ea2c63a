#include "runtime/client_gate.h"

#include <unistd.h>

#include <cstdint>
#include <mutex>

#include "runtime/waiting.h"
#include "runtime/worker_pool.h"

namespace top {
namespace {

// Guarded by fork_guard(), so that a child finds it consistent; never destroyed.
struct Gate {
  int inside = 0;
  bool closed = false;
  uint64_t generation = 0;
  Counter left;
};

Gate& current_gate() {
  static Gate* gate = new Gate;
  if (gate->generation != fork_generation()) {
    // The threads that were inside exist in the parent only.
    gate->generation = fork_generation();
    gate->inside = 0;
    gate->closed = false;
  }
  return *gate;
}

}  // namespace

ClientInside::ClientInside() {
  {
    std::lock_guard<std::mutex> lock(fork_guard());
    Gate& gate = current_gate();
    if (!gate.closed) {
      gate.inside += 1;
      return;
    }
  }
  for (;;) pause();
}

ClientInside::~ClientInside() {
  std::lock_guard<std::mutex> lock(fork_guard());
  Gate& gate = current_gate();
  gate.inside -= 1;
  gate.left.add();
}

void close_client_gate() {
  for (;;) {
    Gate* gate;
    uint32_t left;
    {
      std::lock_guard<std::mutex> lock(fork_guard());
      gate = &current_gate();
      gate->closed = true;
      if (gate->inside == 0) return;
      left = gate->left.load();
    }
    gate->left.wait_for(left + 1);
  }
}

}  // namespace top
