// Executes a plan: any number of concurrent runs of one static multi-stream schedule.
#pragma once

#include <tvm/ffi/c_api.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/library_module.h"
#include "runtime/plan_data.h"
#include "runtime/stream_program.h"

namespace top {

class ExecutionContext;

// When a call ran, in nanoseconds since the run was prepared.
struct CallTime {
  int64_t start_ns;
  int64_t end_ns;
};

// Finds the function of a kernel of the plan's kernel library; throws when there is none.
using FindKernel = std::function<TVMFFISafeCallType(const std::string& symbol)>;

// Immutable after construction but for the list of execution contexts. Any thread may call run,
// except a worker of the pool; no thread may be inside when it is destroyed.
class Executor {
 public:
  // Checks the plan and resolves every kernel. `library_kernels` may be null when no kernel of the
  // plan comes from a library. What `find_kernel` returns and the constants must outlive this.
  // Throws std::invalid_argument for a bad plan, std::runtime_error for a missing kernel.
  Executor(PlanData plan, Constants constants, const FindKernel& find_kernel,
           const TopLibraryKernels* library_kernels);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // One run. `inputs` and `outputs` follow the plan's lists; each has the bytes of its tensor and
  // is 64-byte aligned; outputs overlap nothing. `times`, if given, has one element per call.
  // Throws std::runtime_error naming the op when a kernel fails; the executor stays usable.
  void run(const std::vector<const void*>& inputs, const std::vector<void*>& outputs,
           CallTime* times = nullptr);

  const PlanData& plan() const { return plan_; }

 private:
  friend class ExecutionContext;
  struct Lease;
  struct PooledContext;
  struct Waiter;

  void resolve_outputs();
  void resolve_kernels(const FindKernel& find_kernel);

  const PlanData plan_;
  const Constants constants_;
  const TopLibraryKernels* const library_kernels_;
  const std::vector<StreamProgram> programs_;  // one per stream
  std::vector<TVMFFISafeCallType> functions_;  // per call
  std::vector<LibraryKernel> kernels_;         // per call; null for TVM kernels
  std::vector<bool> copied_outputs_;           // per graph output: not written in place

  // Free contexts and clients waiting for one, in order of arrival; guarded by fork_guard().
  std::vector<std::unique_ptr<PooledContext>> free_;
  std::deque<Waiter*> waiting_;
  int created_ = 0;
  uint64_t generation_;
  const int max_contexts_;
};

}  // namespace top
