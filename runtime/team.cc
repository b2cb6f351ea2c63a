#include "runtime/team.h"

#include <algorithm>

namespace top {
namespace {

// What the calling thread may do in parallel. `team` is set for the leader of a gang call and,
// while a region lasts, for its members; `depth` counts the regions the thread is inside.
struct ThreadRole {
  bool stream_thread = false;
  bool leads = false;
  Team* team = nullptr;
  int depth = 0;
};
thread_local ThreadRole role;

}  // namespace

void Team::reset() noexcept {
  arrived_.reset();
  commands_.reset();
  answered_.reset();
  calls_ = 0;
  regions_ = 0;
}

void Team::open() noexcept {
  ++calls_;
  arrived_.wait_for(calls_ * static_cast<uint32_t>(size_ - 1));
  role.team = this;
  role.leads = true;
}

void Team::close() noexcept {
  role.team = nullptr;
  role.leads = false;
  body_ = nullptr;
  commands_.add();
}

void Team::serve(int stream, int leader) noexcept {
  // The leader is member 0 whatever its stream.
  const int member = stream < leader ? stream + 1 : stream;
  // Read before arriving: until this member has arrived the leader publishes nothing.
  uint32_t seen = commands_.load();
  arrived_.add();
  for (;;) {
    commands_.wait_for(++seen);
    if (body_ == nullptr) return;
    if (member < threads_) {
      role.team = this;
      role.depth = 1;
      body_(argument_, member, threads_);
      role.depth = 0;
      role.team = nullptr;
    }
    answered_.add();
  }
}

int Team::begin_region(RegionBody body, void* argument, int threads) noexcept {
  body_ = body;
  argument_ = argument;
  threads_ = std::min(threads, size_);
  ++regions_;
  commands_.add();
  return threads_;
}

void Team::end_region() noexcept {
  answered_.wait_for(regions_ * static_cast<uint32_t>(size_ - 1));
}

void Team::barrier() noexcept {
  const uint32_t passed = barriers_.load();
  if (at_barrier_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
    at_barrier_.store(0, std::memory_order_relaxed);
    barriers_.add();
  } else {
    barriers_.wait_for(passed + 1);
  }
}

void become_stream_thread() noexcept { role.stream_thread = true; }

int available_threads() noexcept {
  if (!role.stream_thread) return 0;
  return role.leads && role.depth == 0 ? role.team->size() : 1;
}

int begin_region(RegionBody body, void* argument, int threads) noexcept {
  const int available = std::max(1, available_threads());
  if (threads <= 0 || threads > available) threads = available;
  // A region of one thread is not announced: the leader just runs the body.
  if (role.depth++ == 0 && threads > 1) threads = role.team->begin_region(body, argument, threads);
  return threads;
}

void end_region(int threads) noexcept {
  if (--role.depth == 0 && threads > 1) role.team->end_region();
}

void region_barrier(int threads) noexcept {
  if (threads > 1) role.team->barrier();
}

}  // namespace top
