// The mutable state of one run at a time: argument tensors and the progress of the streams.
#pragma once

#include <tvm/ffi/c_api.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "runtime/executor.h"
#include "runtime/stream_job.h"
#include "runtime/team.h"

namespace top {

// Where one run reads and writes; everything is 64-byte aligned and outputs overlap nothing. Inputs
// and outputs follow the plan's lists; the two arrays are read by prepare() only.
struct RunMemory {
  void* arena;  // of plan().arena_bytes
  const void* const* inputs;
  void* const* outputs;
};

// Everything is built once and holds no memory for tensors; a run only sets their addresses. Used
// by one owner, who prepares the context, starts it on a pool (WorkerPool::start or run) and leaves
// it alone until it has finished. The executor outlives it.
class ExecutionContext final : public StreamJob {
 public:
  // Called by the worker that finishes the run, once the outputs are there. It may prepare and
  // start this context again, or destroy it.
  using Completion = std::function<void(ExecutionContext& context)>;

  explicit ExecutionContext(const Executor& executor);

  // Before each run. `times`, if given, has one element per call, counted from now.
  void prepare(const RunMemory& memory, CallTime* times = nullptr, Completion completion = {});
  // The workers of its streams for WorkerPool::start: from `first` on, none for a stream without
  // steps.
  std::vector<int> workers_from(int first) const;

  // After a run: whether a kernel failed, and which one with its message. Outputs are not complete
  // then.
  bool failed() const { return failed_.load(std::memory_order_relaxed); }
  const std::string& failure() const { return failure_; }

  // The op that the stream executes or waits for; empty behind the last one. Any thread, any time.
  std::string current_op(int stream) const;

  // For workers.
  Progress advance(int stream, bool may_enter_gang) noexcept override;
  void finished() noexcept override;

 private:
  // A step with everything resolved, so that a worker reads one array from front to back.
  struct Step {
    TVMFFISafeCallType function;
    void* self;
    const TVMFFIAny* args;
    const StreamWait* waits;
    const int* waiters;
    int32_t num_args;
    int32_t call;
    uint16_t num_waits;
    uint16_t num_waiters;
    StepRole role;
    bool before_gang;
  };
  struct Stream {
    std::vector<Step> steps;
    const Step* end = nullptr;
    // Written by the stream's worker only.
    std::atomic<const Step*> next{nullptr};
    alignas(64) std::atomic<uint32_t> announced{0};  // steps that somebody waits for
  };
  // A graph input or output, and the tensors that lie in its memory.
  struct Views {
    int position;
    std::vector<int> tensors;
  };

  void build_tensors();
  void build_steps();
  void set_base(const std::vector<int>& tensors, const void* base);
  void execute(const Step& step) noexcept;
  void fail(int call) noexcept;

  const Executor& executor_;
  std::vector<std::vector<int64_t>> strides_;
  std::vector<DLTensor> tensors_;             // per tensor of the plan
  std::vector<std::vector<TVMFFIAny>> args_;  // per call
  std::vector<LibraryBinding> bindings_;      // per call
  std::vector<Views> input_views_, output_views_;
  std::vector<int> arena_views_;
  std::vector<Stream> streams_;
  Team team_;

  // Of the current run.
  void* arena_ = nullptr;
  std::vector<void*> outputs_;
  Completion completion_;
  CallTime* times_ = nullptr;
  std::chrono::steady_clock::time_point prepared_;
  std::atomic<bool> failed_{false};
  std::string failure_;  // written by the first call that fails
};

}  // namespace top
