#include "runtime/execution_context.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>

#include "runtime/kernel_error.h"
#include "runtime/workspace.h"

namespace top {

ExecutionContext::ExecutionContext(const Executor& executor)
    : executor_(executor), progress_(executor.plan().streams), team_(executor.plan().streams) {
  const size_t arena_bytes = std::max(round_up(executor.plan().arena_bytes), kAlignment);
  arena_.reset(static_cast<char*>(std::aligned_alloc(kAlignment, arena_bytes)));
  if (!arena_) throw std::bad_alloc();
  // Touched now rather than page by page in the first run.
  std::memset(arena_.get(), 0, arena_bytes);
  build_tensors();
  build_steps();
}

void ExecutionContext::build_tensors() {
  const std::vector<TensorData>& tensors = executor_.plan().tensors;
  strides_.resize(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorData& tensor = tensors[i];
    std::vector<int64_t>& strides = strides_[i];
    strides = tensor.strides;
    if (strides.empty()) {
      strides.assign(tensor.shape.size(), 1);
      for (size_t axis = strides.size(); axis-- > 1;) {
        strides[axis - 1] = strides[axis] * tensor.shape[axis];
      }
    }
    void* data = nullptr;
    if (tensor.space == Space::kArena) {
      data = arena_.get() + tensor.offset;
    } else if (tensor.space == Space::kConstant) {
      // Kernels get constants as inputs only: check_plan refuses calls that would write them.
      const void* constant = executor_.constants_.at(tensor.storage).data;
      data = static_cast<char*>(const_cast<void*>(constant)) + tensor.offset;
    } else {
      auto& views = tensor.space == Space::kInput ? input_views_ : output_views_;
      views[tensor.storage].push_back(static_cast<int>(i));
    }
    tensors_.push_back(DLTensor{data, DLDevice{kDLCPU, 0}, static_cast<int32_t>(strides.size()),
                                tensor.dtype, const_cast<int64_t*>(tensor.shape.data()),
                                strides.data(), 0});
  }
}

void ExecutionContext::build_steps() {
  const PlanData& plan = executor_.plan();
  for (size_t call = 0; call < plan.calls.size(); ++call) {
    std::vector<TVMFFIAny> args;
    for (int tensor : plan.calls[call].args) {
      TVMFFIAny arg{};
      arg.type_index = kTVMFFIDLTensorPtr;
      arg.v_ptr = &tensors_[tensor];
      args.push_back(arg);
    }
    args_.push_back(std::move(args));
    const LibraryKernel& kernel = executor_.kernels_[call];
    bindings_.push_back(kernel ? bind_library_kernel(*executor_.library_kernels_, kernel)
                               : nullptr);
  }
  for (const StreamProgram& program : executor_.programs_) {
    std::vector<Step> steps;
    for (const StreamStep& step : program) {
      const std::vector<TVMFFIAny>& args = args_[step.call];
      steps.push_back({executor_.functions_[step.call], bindings_[step.call].get(), args.data(),
                       static_cast<int32_t>(args.size()), step.call, step.waits.data(),
                       static_cast<uint32_t>(step.waits.size()), step.role, step.announces});
    }
    steps_.push_back(std::move(steps));
  }
}

void ExecutionContext::bind(const std::vector<const void*>& inputs,
                            const std::vector<void*>& outputs) {
  const PlanData& plan = executor_.plan();
  const auto set_views = [&](const std::vector<int>& views, const void* base) {
    for (int view : views) {
      char* begin = static_cast<char*>(const_cast<void*>(base));
      tensors_[view].data = begin + plan.tensors[view].offset;
    }
  };
  for (size_t i = 0; i < inputs.size(); ++i) {
    set_views(input_views_[plan.tensors[plan.inputs[i]].storage], inputs[i]);
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (executor_.copied_outputs_[i]) continue;
    set_views(output_views_[plan.tensors[plan.outputs[i]].storage], outputs[i]);
  }
}

void ExecutionContext::run(const std::vector<const void*>& inputs,
                           const std::vector<void*>& outputs, CallTime* times) {
  const PlanData& plan = executor_.plan();
  bind(inputs, outputs);
  for (Counter& progress : progress_) progress.reset();
  team_.reset();
  failed_.store(false, std::memory_order_relaxed);
  times_ = times;
  if (times != nullptr) submitted_ = std::chrono::steady_clock::now();
  WorkerPool::of_process(plan.streams)->run(*this, plan.streams);
  if (failed_.load(std::memory_order_relaxed)) throw std::runtime_error(failure_);
  for (size_t i = 0; i < outputs.size(); ++i) {
    const int tensor = plan.outputs[i];
    if (executor_.copied_outputs_[i]) {
      std::memcpy(outputs[i], tensors_[tensor].data, plan.tensors[tensor].nbytes);
    }
  }
}

// A failed run keeps to the protocol: every stream walks its steps to the end, waiting and
// announcing as always, only without calling kernels. So nobody can be left waiting.
void ExecutionContext::run_stream(int stream) noexcept {
  for (const Step& step : steps_[stream]) {
    for (uint32_t i = 0; i < step.num_waits; ++i) {
      progress_[step.waits[i].stream].wait_for(step.waits[i].count);
    }
    if (step.role == StepRole::kAlone) {
      execute(step);
    } else if (step.role == StepRole::kLeader) {
      team_.open();
      execute(step);
      team_.close();
    } else {
      team_.serve(stream, executor_.plan().calls[step.call].stream);
    }
    if (step.announces) progress_[stream].add();
  }
}

void ExecutionContext::execute(const Step& step) noexcept {
  if (failed_.load(std::memory_order_relaxed)) return;
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = times_ != nullptr ? Clock::now() : Clock::time_point();
  TVMFFIAny result{};
  result.type_index = kTVMFFINone;
  if (step.function(step.self, step.args, step.num_args, &result) != 0) fail(step.call);
  if (times_ != nullptr) {
    times_[step.call] = {std::chrono::nanoseconds(start - submitted_).count(),
                         std::chrono::nanoseconds(Clock::now() - submitted_).count()};
  }
}

void ExecutionContext::fail(int call) noexcept {
  // Taken in any case: the error must not stay behind in the thread.
  std::string message = take_kernel_error();
  if (failed_.exchange(true, std::memory_order_acq_rel)) return;
  failure_ = "Op '" + executor_.plan().calls[call].op + "' failed: " + message;
}

}  // namespace top
