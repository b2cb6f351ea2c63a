// The mutable state of one run at a time: arena, argument tensors, progress of the streams.
#pragma once

#include <tvm/ffi/c_api.h>

#include <chrono>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/executor.h"
#include "runtime/team.h"
#include "runtime/waiting.h"
#include "runtime/worker_pool.h"

namespace top {

// Used by the client thread of one run and by the workers that execute its streams. Everything is
// built once; a run only sets the addresses of inputs and outputs.
class ExecutionContext final : public StreamJob {
 public:
  explicit ExecutionContext(const Executor& executor);

  // As Executor::run.
  void run(const std::vector<const void*>& inputs, const std::vector<void*>& outputs,
           CallTime* times);

  void run_stream(int stream) noexcept override;

 private:
  struct FreeDeleter {
    void operator()(void* memory) const { std::free(memory); }
  };
  // A step with everything resolved, so that a worker reads one array from front to back.
  struct Step {
    TVMFFISafeCallType function;
    void* self;
    const TVMFFIAny* args;
    int32_t num_args;
    int32_t call;
    const StreamWait* waits;
    uint32_t num_waits;
    StepRole role;
    bool announces;
  };

  void build_tensors();
  void build_steps();
  void bind(const std::vector<const void*>& inputs, const std::vector<void*>& outputs);
  void execute(const Step& step) noexcept;
  void fail(int call) noexcept;

  const Executor& executor_;
  std::unique_ptr<char, FreeDeleter> arena_;
  std::vector<std::vector<int64_t>> strides_;
  std::vector<DLTensor> tensors_;                                       // per tensor of the plan
  std::vector<std::vector<TVMFFIAny>> args_;                            // per call
  std::vector<LibraryBinding> bindings_;                                // per call
  std::map<std::string, std::vector<int>> input_views_, output_views_;  // tensors by storage
  std::vector<std::vector<Step>> steps_;                                // per stream
  std::vector<Counter> progress_;  // per stream: announced steps
  Team team_;

  // Of the current run.
  CallTime* times_ = nullptr;
  std::chrono::steady_clock::time_point submitted_;
  std::atomic<bool> failed_{false};
  std::string failure_;  // written by the first call that fails
};

}  // namespace top
