// Places the intermediate buffers of a plan in one arena without creating a data race.
//
// Storage reuse in program order is wrong once calls run concurrently: a buffer that is dead in
// issue order may still be read on another stream. Here two buffers share bytes only when the
// plan's own synchronisation orders every use of one before every write of the other.
#pragma once

#include <cstdint>
#include <vector>

namespace top {

// Every buffer starts at a multiple of this: kernels use aligned vector loads.
constexpr int64_t kArenaAlignment = 64;

// What orders one call of a plan; calls are listed in issue order.
struct ArenaCall {
  int stream;
  // 1, or the number of streams: such a call occupies every stream.
  int threads;
  // Earlier calls that must have finished.
  std::vector<int> waits;
};

// Memory and the calls that use it. Several calls may write a part each; every reader is ordered
// after the writers of what it reads.
struct ArenaBuffer {
  int64_t nbytes;
  std::vector<int> writers;
  std::vector<int> readers;
};

struct ArenaLayout {
  // First byte per buffer, a multiple of kArenaAlignment; 0 for empty buffers.
  std::vector<int64_t> offsets;
  int64_t total_bytes;
  // Most bytes alive at once in issue order: no layout can need less.
  int64_t lower_bound_bytes;
};

// Chooses offsets for all buffers. Deterministic; a pure function, callable from any thread. Throws
// std::invalid_argument naming the call or buffer that is malformed, or the call that reads a
// buffer without being ordered after any of its writers.
ArenaLayout plan_arena(int streams, const std::vector<ArenaCall>& calls,
                       const std::vector<ArenaBuffer>& buffers);

}  // namespace top
