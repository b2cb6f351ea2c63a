#include "runtime/onednn/openmp.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "runtime/onednn/plt.h"

namespace top {
namespace {

const TopHost* host = nullptr;

// The static loop that a thread is executing: start and width of its next chunk, the distance to
// the one after it, and where the loop ends.
struct StaticLoop {
  long start, width, stride, limit;
  bool up;
};

// A parallel region as one of its threads sees it.
struct Frame {
  int index = 0;
  int threads = 1;
  StaticLoop loop{};
};

// Regions the thread is inside, innermost last. Nested regions have one thread, as by default in
// libgomp; oneDNN nests two deep.
constexpr int kMaxDepth = 16;
struct ThreadState {
  int planned = 0;  // see PlannedThreads; 0: none
  int depth = 0;
  Frame frames[kMaxDepth];

  Frame* frame() { return depth == 0 ? nullptr : &frames[depth - 1]; }
  Frame& push(int index, int threads) {
    if (depth == kMaxDepth) {
      std::fputs("top_tvm: oneDNN nests OpenMP regions deeper than expected\n", stderr);
      std::abort();
    }
    return frames[depth++] = Frame{index, threads, {}};
  }
};
thread_local ThreadState state;

// Whether the calling thread is one of the runtime's, or prepares a primitive for it.
bool ours() { return state.planned > 0 || state.depth > 0 || host->available_threads() > 0; }

using OutlinedBody = void (*)(void*);
struct Region {
  OutlinedBody body;
  void* data;
};

void run_member(void* argument, int index, int threads) {
  // Copied by the member before it runs: all members read the leader's Region while it lasts.
  const Region region = *static_cast<Region*>(argument);
  state.push(index, threads);
  region.body(region.data);
  --state.depth;
}

// The original functions, by the types of gcc's libgomp ABI (GOMP_1.0, OMP_1.0).
void (*gomp_parallel_start)(OutlinedBody, void*, unsigned);
void (*gomp_parallel_end)();
void (*gomp_barrier)();
bool (*gomp_loop_static_start)(long, long, long, long, long*, long*);
bool (*gomp_loop_static_next)(long*, long*);
void (*gomp_loop_end_nowait)();
int (*omp_thread_num)();
int (*omp_num_threads)();
int (*omp_max_threads)();
int (*omp_inside_parallel)();

// gcc's code for a region: parallel_start(body, data, n); body(data); parallel_end().
thread_local Region leader_region;

void parallel_start(OutlinedBody body, void* data, unsigned threads) {
  if (!ours()) return gomp_parallel_start(body, data, threads);
  if (state.planned > 0 || state.depth > 0) {
    state.push(0, 1);
    return;
  }
  leader_region = {body, data};
  state.push(0, host->begin_region(run_member, &leader_region, static_cast<int>(threads)));
}

void parallel_end() {
  if (!ours()) return gomp_parallel_end();
  const int threads = state.frame()->threads;
  --state.depth;
  // Inner regions were never announced to the team.
  if (state.planned == 0 && state.depth == 0) host->end_region(threads);
}

void barrier() {
  if (!ours()) return gomp_barrier();
  if (const Frame* frame = state.frame()) host->region_barrier(frame->threads);
}

// Iterations of the next chunk, clipped to the loop.
bool next_chunk(StaticLoop& loop, long* start, long* end) {
  const bool up = loop.up;
  if (up ? loop.start >= loop.limit : loop.start <= loop.limit) return false;
  *start = loop.start;
  *end = loop.start + loop.width;
  if (up ? *end > loop.limit : *end < loop.limit) *end = loop.limit;
  loop.start += loop.stride;
  return true;
}

// schedule(static): chunk 0 means one nearly equal piece per thread, the first ones larger by one
// iteration; otherwise chunks are dealt out in turn.
bool loop_static_start(long start, long end, long increment, long chunk, long* chunk_start,
                       long* chunk_end) {
  if (!ours()) {
    return gomp_loop_static_start(start, end, increment, chunk, chunk_start, chunk_end);
  }
  static thread_local Frame serial;
  Frame& frame = state.depth > 0 ? *state.frame() : serial;
  const long index = frame.index, threads = frame.threads;
  const long rounding = increment > 0 ? increment - 1 : increment + 1;
  const long iterations = std::max(0L, (end - start + rounding) / increment);
  if (chunk == 0) {
    const long size = iterations / threads, larger = iterations % threads;
    const long first = index * size + std::min(index, larger);
    const long last = first + size + (index < larger ? 1 : 0);
    // One piece: the stride leads to the limit.
    const long begin = start + first * increment, limit = start + last * increment;
    frame.loop = {begin, limit - begin, limit - begin, limit, increment > 0};
  } else {
    const long step = chunk * increment;
    frame.loop = {start + index * step, step, threads * step, end, increment > 0};
  }
  return next_chunk(frame.loop, chunk_start, chunk_end);
}

bool loop_static_next(long* start, long* end) {
  if (!ours()) return gomp_loop_static_next(start, end);
  // A loop outside of any region was given out whole by loop_static_start.
  return state.depth > 0 && next_chunk(state.frame()->loop, start, end);
}

void loop_end_nowait() {
  if (!ours()) gomp_loop_end_nowait();
}

int get_thread_num() {
  if (!ours()) return omp_thread_num();
  return state.depth > 0 ? state.frame()->index : 0;
}

int get_num_threads() {
  if (!ours()) return omp_num_threads();
  return state.depth > 0 ? state.frame()->threads : 1;
}

int get_max_threads() {
  if (!ours()) return omp_max_threads();
  if (state.planned > 0) return state.planned;
  return state.depth > 0 ? 1 : host->available_threads();
}

int in_parallel() {
  if (!ours()) return omp_inside_parallel();
  return state.depth > 0 && state.frames[0].threads > 1;
}

template <typename Function>
Redirection redirection(const char* name, Function* function, Function** original) {
  return {name, reinterpret_cast<void*>(function), reinterpret_cast<void**>(original)};
}

}  // namespace

void redirect_openmp(const TopHost* from) {
  host = from;
  redirect_plt("libdnnl.so.3",
               {redirection("GOMP_parallel_start", &parallel_start, &gomp_parallel_start),
                redirection("GOMP_parallel_end", &parallel_end, &gomp_parallel_end),
                redirection("GOMP_barrier", &barrier, &gomp_barrier),
                redirection("GOMP_loop_static_start", &loop_static_start, &gomp_loop_static_start),
                redirection("GOMP_loop_static_next", &loop_static_next, &gomp_loop_static_next),
                redirection("GOMP_loop_end_nowait", &loop_end_nowait, &gomp_loop_end_nowait),
                redirection("omp_get_thread_num", &get_thread_num, &omp_thread_num),
                redirection("omp_get_num_threads", &get_num_threads, &omp_num_threads),
                redirection("omp_get_max_threads", &get_max_threads, &omp_max_threads),
                redirection("omp_in_parallel", &in_parallel, &omp_inside_parallel)});
}

PlannedThreads::PlannedThreads(int threads) : previous_(state.planned) { state.planned = threads; }
PlannedThreads::~PlannedThreads() { state.planned = previous_; }

}  // namespace top
