#include "runtime/executor.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <set>
#include <stdexcept>
#include <utility>

#include "runtime/execution_context.h"
#include "runtime/kernel_error.h"
#include "runtime/shared_kernels.h"
#include "runtime/waiting.h"
#include "runtime/worker_pool.h"
#include "runtime/workspace.h"

namespace top {
namespace {

PlanData checked(PlanData plan, const Constants& constants) {
  check_plan(plan, constants);
  return plan;
}

// Enough contexts to keep all cores busy, and one more so that a run can begin on the streams that
// the previous one has left already; a few at most, because each has an arena.
int context_limit(int streams) {
  return std::clamp(static_cast<int>(allowed_cores().size()) / streams, 1, 4) + 1;
}

void check_aligned(const void* pointer, const TensorData& tensor) {
  if (reinterpret_cast<uintptr_t>(pointer) % kAlignment != 0) {
    throw std::invalid_argument("The memory given for '" + tensor.name + "' is not aligned to " +
                                std::to_string(kAlignment) + " bytes.");
  }
}

}  // namespace

// What a run of a client needs: a context and an arena.
struct Executor::PooledContext {
  explicit PooledContext(const Executor& executor) : execution(executor) {
    const size_t nbytes = std::max(round_up(executor.plan().arena_bytes), kAlignment);
    arena.reset(std::aligned_alloc(kAlignment, nbytes));
    if (!arena) throw std::bad_alloc();
    // Touched now rather than page by page in the first run.
    std::memset(arena.get(), 0, nbytes);
  }

  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> arena;
  ExecutionContext execution;
};

// A client without a context, on its own stack; whoever frees a context hands it over.
struct Executor::Waiter {
  std::unique_ptr<PooledContext> context;
  Latch ready;
};

// Borrows a context for one run.
struct Executor::Lease {
  explicit Lease(Executor& owner) : executor(owner) {
    Waiter waiter;
    {
      std::lock_guard<std::mutex> lock(fork_guard());
      if (executor.generation_ != fork_generation()) {
        // In a child process: contexts that were in use belong to threads that do not exist here.
        executor.generation_ = fork_generation();
        executor.created_ = static_cast<int>(executor.free_.size());
        executor.waiting_.clear();
      }
      if (!executor.free_.empty()) {
        context = std::move(executor.free_.back());
        executor.free_.pop_back();
        return;
      }
      if (executor.created_ == executor.max_contexts_) {
        executor.waiting_.push_back(&waiter);
      } else {
        ++executor.created_;
        waiter.ready.set();
      }
    }
    waiter.ready.wait();
    context = std::move(waiter.context);
    if (context != nullptr) return;
    try {
      context = std::make_unique<PooledContext>(executor);
    } catch (...) {
      give_back();
      throw;
    }
  }
  ~Lease() { give_back(); }

  // With an empty context: gives back only the right to create one.
  void give_back() {
    std::lock_guard<std::mutex> lock(fork_guard());
    if (!executor.waiting_.empty()) {
      Waiter* next = executor.waiting_.front();
      executor.waiting_.pop_front();
      next->context = std::move(context);
      next->ready.set();
    } else if (context != nullptr) {
      executor.free_.push_back(std::move(context));
    } else {
      --executor.created_;
    }
  }

  Executor& executor;
  std::unique_ptr<PooledContext> context;
};

Executor::Executor(PlanData plan, Constants constants, const FindKernel& find_kernel,
                   const TopLibraryKernels* library_kernels)
    : plan_(checked(std::move(plan), constants)),
      constants_(std::move(constants)),
      library_kernels_(library_kernels),
      programs_(make_stream_programs(plan_)),
      max_contexts_(context_limit(plan_.streams)) {
  {
    std::lock_guard<std::mutex> lock(fork_guard());
    generation_ = fork_generation();
  }
  require_tvm_ffi();
  resolve_outputs();
  resolve_kernels(find_kernel);
}

Executor::~Executor() = default;

void Executor::resolve_outputs() {
  std::set<std::string> written_in_place;
  for (int tensor : plan_.outputs) {
    const TensorData& output = plan_.tensors[tensor];
    copied_outputs_.push_back(output.space != Space::kOutput ||
                              !written_in_place.insert(output.storage).second);
  }
}

void Executor::resolve_kernels(const FindKernel& find_kernel) {
  for (const CallData& call : plan_.calls) {
    const KernelData& kernel = plan_.kernels[call.kernel];
    if (kernel.library == "tvm") {
      functions_.push_back(find_kernel(kernel.symbol));
      kernels_.push_back(nullptr);
      continue;
    }
    if (kernel.library != "onednn") {
      throw std::invalid_argument("Op '" + call.op + "' wants a kernel of the unknown library '" +
                                  kernel.library + "'.");
    }
    if (library_kernels_ == nullptr) {
      throw std::runtime_error("Op '" + call.op + "' needs oneDNN, which is not available.");
    }
    // What the plan's own checks know about the memory that a call writes rests on this number.
    if (call.num_outputs != 1) {
      throw std::invalid_argument("Op '" + call.op + "' has " + std::to_string(call.num_outputs) +
                                  " outputs; kernels of oneDNN have one.");
    }
    std::vector<DLTensor> args;
    for (int index : call.args) {
      const TensorData& tensor = plan_.tensors[index];
      void* data = nullptr;
      if (tensor.space == Space::kConstant) {
        const void* constant = constants_.at(tensor.storage).data;
        data = static_cast<char*>(const_cast<void*>(constant)) + tensor.offset;
      }
      args.push_back(DLTensor{
          data, DLDevice{kDLCPU, 0}, static_cast<int32_t>(tensor.shape.size()), tensor.dtype,
          const_cast<int64_t*>(tensor.shape.data()),
          tensor.strides.empty() ? nullptr : const_cast<int64_t*>(tensor.strides.data()), 0});
    }
    try {
      kernels_.push_back(shared_library_kernel(*library_kernels_, kernel, args, call.threads));
    } catch (const std::runtime_error& error) {
      throw std::runtime_error("Cannot create op '" + call.op + "': " + error.what());
    }
    functions_.push_back(library_kernels_->call);
  }
}

void Executor::run(const std::vector<const void*>& inputs, const std::vector<void*>& outputs,
                   CallTime* times) {
  if (inputs.size() != plan_.inputs.size() || outputs.size() != plan_.outputs.size()) {
    throw std::invalid_argument("The plan has " + std::to_string(plan_.inputs.size()) +
                                " inputs and " + std::to_string(plan_.outputs.size()) +
                                " outputs, not " + std::to_string(inputs.size()) + " and " +
                                std::to_string(outputs.size()) + ".");
  }
  for (size_t i = 0; i < inputs.size(); ++i)
    check_aligned(inputs[i], plan_.tensors[plan_.inputs[i]]);
  for (size_t i = 0; i < outputs.size(); ++i) {
    check_aligned(outputs[i], plan_.tensors[plan_.outputs[i]]);
  }
  Lease lease(*this);
  ExecutionContext& execution = lease.context->execution;
  execution.prepare({lease.context->arena.get(), inputs.data(), outputs.data()}, times);
  WorkerPool::of_process(plan_.streams)->run(execution, plan_.streams);
  if (execution.failed()) throw std::runtime_error(execution.failure());
}

}  // namespace top
