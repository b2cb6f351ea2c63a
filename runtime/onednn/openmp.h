// OpenMP for oneDNN on the threads of the runtime.
//
// The oneDNN wheel is compiled for GNU OpenMP. libgomp would bring a second thread pool that knows
// nothing of streams, so the calls that libdnnl makes to it (ten functions) are redirected to this
// file, in libdnnl's own procedure linkage table; no other library in the process is touched. On
// threads of the runtime a parallel region is executed by the team of the gang call; on other
// threads, where somebody else uses the same libdnnl, the call goes on to libgomp.
#pragma once

#include "runtime/library_kernels.h"

namespace top {

// Redirects libdnnl's OpenMP calls; once per process. Throws std::runtime_error when libdnnl is not
// the build that this was written for.
void redirect_openmp(const TopHost* host);

// Makes omp_get_max_threads() return `threads` on this thread: what oneDNN plans a primitive for.
// Regions opened meanwhile run on this thread alone.
class PlannedThreads {
 public:
  explicit PlannedThreads(int threads);
  ~PlannedThreads();
  PlannedThreads(const PlannedThreads&) = delete;
  PlannedThreads& operator=(const PlannedThreads&) = delete;

 private:
  const int previous_;
};

}  // namespace top
