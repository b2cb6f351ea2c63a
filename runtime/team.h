// A team: the streams of one run when they execute one kernel together (a "gang call").
//
// One stream leads: it calls the kernel. The others serve: whenever the kernel opens a parallel
// region, every member executes the region's body with its own number. TVM's parallel loops and
// oneDNN's OpenMP regions both end up here, so that no other thread pool exists.
#pragma once

#include <atomic>
#include <cstdint>

#include "runtime/waiting.h"

namespace top {

// Body of a parallel region: member `index` of `threads`.
using RegionBody = void (*)(void* argument, int index, int threads);

// Owned by an execution context; used by the threads that run its streams, one gang call at a time.
class Team {
 public:
  explicit Team(int size) : size_(size) {}
  int size() const noexcept { return size_; }

  // Before a run, while no thread is inside.
  void reset() noexcept;
  // Leader: returns when all other streams serve; then regions of this thread use the team.
  void open() noexcept;
  // Leader: lets the other streams go on.
  void close() noexcept;
  // Every other stream: arrives at the gang call and executes regions until the leader closes it.
  void serve(int stream, int leader) noexcept;

  // Leader: starts a region on at most `threads` members and returns how many there are. The
  // caller must then execute the body itself as member 0 and call end_region().
  int begin_region(RegionBody body, void* argument, int threads) noexcept;
  void end_region() noexcept;
  // Every member of the current region.
  void barrier() noexcept;

 private:
  const int size_;
  Counter arrived_;   // members that serve, over all gang calls of the run
  Counter commands_;  // regions and closings published by the leader
  Counter answered_;  // members that have finished a region
  Counter barriers_;  // barriers passed
  alignas(64) std::atomic<int> at_barrier_{0};
  // The current command; written by the leader while every member waits for the next one.
  RegionBody body_ = nullptr;
  void* argument_ = nullptr;
  int threads_ = 0;
  uint32_t calls_ = 0;    // gang calls of this run; touched by leaders only
  uint32_t regions_ = 0;  // regions of this run; touched by leaders only
};

// Declares that the calling thread executes streams: kernels on it may use the functions below.
void become_stream_thread() noexcept;

// Threads that a region opened now by the calling thread would get: the size of the team for the
// leader of a gang call, 1 for other stream threads and inside a region, 0 for foreign threads.
int available_threads() noexcept;

// Parallel regions on behalf of the calling thread, for kernels: as Team::begin_region, with one
// thread where there is no team; threads <= 0 asks for as many as there are. The other two take the
// number of threads that begin_region returned.
int begin_region(RegionBody body, void* argument, int threads) noexcept;
void end_region(int threads) noexcept;
void region_barrier(int threads) noexcept;

}  // namespace top
