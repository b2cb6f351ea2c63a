#include "runtime/execution_context.h"

#include <cstring>
#include <map>
#include <utility>

#include "runtime/kernel_error.h"
#include "runtime/worker_pool.h"

namespace top {

ExecutionContext::ExecutionContext(const Executor& executor)
    : executor_(executor), streams_(executor.plan().streams), team_(executor.plan().streams) {
  build_tensors();
  build_steps();
}

void ExecutionContext::build_tensors() {
  const PlanData& plan = executor_.plan();
  std::map<std::string, std::vector<int>> inputs, outputs;  // tensors by storage
  strides_.resize(plan.tensors.size());
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    const TensorData& tensor = plan.tensors[i];
    std::vector<int64_t>& strides = strides_[i];
    strides = tensor.strides;
    if (strides.empty()) {
      strides.assign(tensor.shape.size(), 1);
      for (size_t axis = strides.size(); axis-- > 1;) {
        strides[axis - 1] = strides[axis] * tensor.shape[axis];
      }
    }
    void* data = nullptr;
    const int index = static_cast<int>(i);
    if (tensor.space == Space::kConstant) {
      // Kernels get constants as inputs only: check_plan refuses calls that would write them.
      const void* constant = executor_.constants_.at(tensor.storage).data;
      data = static_cast<char*>(const_cast<void*>(constant)) + tensor.offset;
    } else if (tensor.space == Space::kArena) {
      arena_views_.push_back(index);
    } else {
      (tensor.space == Space::kInput ? inputs : outputs)[tensor.storage].push_back(index);
    }
    tensors_.push_back(DLTensor{data, DLDevice{kDLCPU, 0}, static_cast<int32_t>(strides.size()),
                                tensor.dtype, const_cast<int64_t*>(tensor.shape.data()),
                                strides.data(), 0});
  }
  for (size_t i = 0; i < plan.inputs.size(); ++i) {
    input_views_.push_back({static_cast<int>(i), inputs[plan.tensors[plan.inputs[i]].storage]});
  }
  for (size_t i = 0; i < plan.outputs.size(); ++i) {
    if (executor_.copied_outputs_[i]) continue;
    output_views_.push_back({static_cast<int>(i), outputs[plan.tensors[plan.outputs[i]].storage]});
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
  for (size_t i = 0; i < streams_.size(); ++i) {
    Stream& stream = streams_[i];
    for (const StreamStep& step : executor_.programs_[i]) {
      const std::vector<TVMFFIAny>& args = args_[step.call];
      stream.steps.push_back(
          {executor_.functions_[step.call], bindings_[step.call].get(), args.data(),
           step.waits.data(), step.waiters.data(), static_cast<int32_t>(args.size()), step.call,
           static_cast<uint16_t>(step.waits.size()), static_cast<uint16_t>(step.waiters.size()),
           step.role, step.before_gang});
    }
    stream.end = stream.steps.data() + stream.steps.size();
    stream.next.store(stream.end, std::memory_order_relaxed);
  }
}

void ExecutionContext::set_base(const std::vector<int>& tensors, const void* base) {
  char* begin = static_cast<char*>(const_cast<void*>(base));
  for (int tensor : tensors)
    tensors_[tensor].data = begin + executor_.plan().tensors[tensor].offset;
}

void ExecutionContext::prepare(const RunMemory& memory, CallTime* times, Completion completion) {
  if (memory.arena != arena_) set_base(arena_views_, arena_ = memory.arena);
  for (const Views& views : input_views_) set_base(views.tensors, memory.inputs[views.position]);
  for (const Views& views : output_views_) set_base(views.tensors, memory.outputs[views.position]);
  outputs_.assign(memory.outputs, memory.outputs + executor_.plan().outputs.size());
  for (Stream& stream : streams_) {
    stream.next.store(stream.steps.data(), std::memory_order_relaxed);
    stream.announced.store(0, std::memory_order_relaxed);
  }
  team_.reset();
  failed_.store(false, std::memory_order_relaxed);
  completion_ = std::move(completion);
  times_ = times;
  if (times != nullptr) prepared_ = std::chrono::steady_clock::now();
}

std::vector<int> ExecutionContext::workers_from(int first) const {
  std::vector<int> workers;
  bool any = false;
  for (size_t i = 0; i < streams_.size(); ++i) {
    const bool has_steps = !streams_[i].steps.empty();
    workers.push_back(has_steps ? first + static_cast<int>(i) : kNoWorker);
    any = any || has_steps;
  }
  // A plan without calls: somebody has to finish the run.
  if (!any) workers[0] = first;
  return workers;
}

std::string ExecutionContext::current_op(int stream) const {
  const Step* step = streams_[stream].next.load(std::memory_order_relaxed);
  return step == streams_[stream].end ? "" : executor_.plan().calls[step->call].op;
}

// A failed run keeps to the protocol: every stream walks its steps to the end, waiting and
// announcing as always, only without calling kernels. So nobody can be left waiting.
Progress ExecutionContext::advance(int index, bool may_enter_gang) noexcept {
  Stream& stream = streams_[index];
  const Step* step = stream.next.load(std::memory_order_relaxed);
  if (step == stream.end) return Progress::kDone;
  for (const StreamWait *wait = step->waits, *end = wait + step->num_waits; wait != end; ++wait) {
    if (streams_[wait->stream].announced.load(std::memory_order_seq_cst) < wait->count) {
      return step->before_gang ? Progress::kBlockedBeforeGang : Progress::kBlocked;
    }
  }
  if (step->role == StepRole::kAlone) {
    execute(*step);
  } else if (!may_enter_gang) {
    return Progress::kBlockedBeforeGang;
  } else if (step->role == StepRole::kLeader) {
    team_.open();
    execute(*step);
    team_.close();
  } else {
    team_.serve(index, executor_.plan().calls[step->call].stream);
  }
  if (step->num_waiters != 0) {
    const uint32_t announced = stream.announced.load(std::memory_order_relaxed) + 1;
    stream.announced.store(announced, std::memory_order_seq_cst);
    for (int i = 0; i < step->num_waiters; ++i) wake(step->waiters[i]);
  }
  stream.next.store(++step, std::memory_order_relaxed);
  return step == stream.end ? Progress::kDone : Progress::kStepped;
}

void ExecutionContext::finished() noexcept {
  const PlanData& plan = executor_.plan();
  for (size_t i = 0; i < outputs_.size() && !failed(); ++i) {
    if (!executor_.copied_outputs_[i]) continue;
    const int tensor = plan.outputs[i];
    std::memcpy(outputs_[i], tensors_[tensor].data, plan.tensors[tensor].nbytes);
  }
  // Moved, because it may prepare the next run.
  const Completion completion = std::move(completion_);
  if (completion) completion(*this);
}

void ExecutionContext::execute(const Step& step) noexcept {
  if (failed()) return;
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = times_ != nullptr ? Clock::now() : Clock::time_point();
  TVMFFIAny result{};
  result.type_index = kTVMFFINone;
  if (step.function(step.self, step.args, step.num_args, &result) != 0) fail(step.call);
  if (times_ != nullptr) {
    times_[step.call] = {std::chrono::nanoseconds(start - prepared_).count(),
                         std::chrono::nanoseconds(Clock::now() - prepared_).count()};
  }
}

void ExecutionContext::fail(int call) noexcept {
  // Taken in any case: the error must not stay behind in the thread.
  std::string message = take_kernel_error();
  if (failed_.exchange(true, std::memory_order_acq_rel)) return;
  failure_ = "Op '" + executor_.plan().calls[call].op + "' failed: " + message;
}

}  // namespace top
