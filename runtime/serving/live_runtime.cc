#include "runtime/serving/live_runtime.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>

#include "runtime/workspace.h"

namespace top {
namespace {

// Tasks that have ended and that clients have not been told about, before submission is refused.
constexpr size_t kMostUndelivered = 4096;
// Blocks of outputs that are kept when clients have dropped them.
constexpr size_t kSpareOutputs = 64;

size_t tasks_of(const VariantSet& set, size_t model, size_t batch) {
  return static_cast<size_t>(set.batch_sizes[model][batch]);
}

// Where one of several tensors begins that lie one behind the other, each for so many tasks.
size_t offset_of(const std::vector<BoundaryTensor>& tensors, size_t index, size_t tasks) {
  size_t offset = 0;
  for (size_t i = 0; i < index; ++i) offset += round_up(tensors[i].nbytes * tasks);
  return offset;
}

size_t total_bytes(const std::vector<BoundaryTensor>& tensors, size_t tasks) {
  return offset_of(tensors, tensors.size(), tasks);
}

}  // namespace

Nanoseconds LiveRuntime::now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

LiveRuntime::LiveRuntime(VariantSet set, std::vector<ServedModel> models, int streams,
                         size_t queue_size)
    : models_(std::move(models)),
      streams_(streams),
      pool_(WorkerPool::of_process(streams)),
      scheduler_(std::move(set), queue_size),
      most_slots_((queue_size + 1) * models_.size() + kMostUndelivered) {
  if (models_.size() != variants().models.size()) {
    throw std::invalid_argument("Not every model of the variants is given.");
  }
  for (const Activity& worker : pool_->activity()) busy_before_ns_.push_back(worker.busy_ns);
  build_paths();
  allocate_instances();
  for (size_t m = 0; m < models_.size(); ++m) {
    const size_t task_bytes = total_bytes(models_[m].inputs, 1);
    input_pools_.push_back(std::make_shared<BlockPool>(task_bytes, queue_size));
    memory_bytes_ += queue_size * task_bytes;
  }
}

LiveRuntime::~LiveRuntime() = default;

void LiveRuntime::build_paths() {
  const VariantSet& set = variants();
  arena_bytes_.assign(models_.size(), 0);
  between_bytes_.assign(models_.size(), 0);
  for (const Variant& variant : set.variants) {
    auto& of_variant = paths_.emplace_back(models_.size());
    for (size_t m = 0; m < models_.size(); ++m) {
      const ModelVariant& shape = variant.models[m];
      for (size_t b = 0; b < shape.latency_us.size(); ++b) {
        auto& lanes = of_variant[m].emplace_back();
        for (const Lane& lane : shape.lanes) lanes.push_back(make_path(variant, m, b, lane));
      }
    }
  }
}

LiveRuntime::LanePath LiveRuntime::make_path(const Variant& variant, size_t model, size_t batch,
                                             const Lane& lane) {
  const ServedModel& served = models_[model];
  LanePath path;
  std::vector<const PlanData*> plans;
  for (int number : lane.plans[batch]) {
    if (number < 0 || number >= static_cast<int>(served.plans.size())) {
      throw std::invalid_argument("Model '" + variants().models[model] + "' has no plan " +
                                  std::to_string(number) + ".");
    }
    Executor& executor = *served.plans[number];
    plans.push_back(&executor.plan());
    if (lane.first_stream + plans.back()->streams > streams_) {
      throw std::invalid_argument("Variant '" + variant.id + "' needs more than " +
                                  std::to_string(streams_) + " streams.");
    }
    auto context = std::make_unique<ExecutionContext>(executor);
    model_of_job_[context.get()] = static_cast<int>(model);
    std::vector<int> workers = context->workers_from(lane.first_stream);
    path.segments.push_back({std::move(context), std::move(workers)});
  }
  path.routes = link_segments(plans, served.inputs, served.outputs,
                              static_cast<int>(tasks_of(variants(), model, batch)));
  arena_bytes_[model] = std::max(arena_bytes_[model], round_up(path.routes.arena_bytes));
  between_bytes_[model] = std::max(between_bytes_[model], path.routes.between_bytes);
  return path;
}

void LiveRuntime::allocate_instances() {
  const VariantSet& set = variants();
  for (size_t m = 0; m < models_.size(); ++m) {
    const int slots = scheduler_.slots(static_cast<int>(m));
    const size_t batches = set.batch_sizes[m].size();
    const size_t most_tasks = tasks_of(set, m, batches - 1);
    const size_t batch_bytes = most_tasks > 1 ? total_bytes(models_[m].inputs, most_tasks) : 0;
    const size_t instance_bytes = arena_bytes_[m] + between_bytes_[m] + batch_bytes;
    const size_t bytes = std::max(instance_bytes * slots, kAlignment);
    allocations_.emplace_back(static_cast<char*>(std::aligned_alloc(kAlignment, bytes)), std::free);
    char* base = allocations_.back().get();
    if (base == nullptr) throw std::bad_alloc();
    std::memset(base, 0, bytes);  // touched now; batches are filled up with zeros
    auto& instances = instances_.emplace_back(slots);
    for (int slot = 0; slot < slots; ++slot) instances[slot].base = base + slot * instance_bytes;
    memory_bytes_ += bytes;

    auto& pools = output_pools_.emplace_back();
    for (size_t b = 0; b < batches; ++b) {
      const size_t output_bytes = total_bytes(models_[m].outputs, tasks_of(set, m, b));
      pools.push_back(std::make_shared<BlockPool>(output_bytes, slots + kSpareOutputs));
      if (b + 1 == batches) memory_bytes_ += output_bytes * slots;
    }
  }
}

LiveRuntime::LanePath& LiveRuntime::path(const Instance& instance) {
  return paths_[instance.variant][instance.model][instance.batch][instance.lane];
}

LiveTask* LiveRuntime::take_slot(int model) {
  if (free_slots_.empty()) {
    if (slots_.size() == most_slots_) return nullptr;
    slots_.emplace_back();
    slots_.back().slot = static_cast<uint32_t>(slots_.size() - 1);
    free_slots_.push_back(&slots_.back());
  }
  LiveTask* task = free_slots_.back();
  free_slots_.pop_back();
  ++task->generation;
  task->model = model;
  return task;
}

TaskState LiveRuntime::submit(int model, const std::vector<const void*>& inputs, int priority,
                              Nanoseconds deadline_ns, void* client, Ticket* ticket) {
  LiveTask* task = nullptr;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) return TaskState::kCancelled;
    task = take_slot(model);
    if (task == nullptr || scheduler_.full(model)) {
      if (task != nullptr) free_slots_.push_back(task);
      return scheduler_.reject(model, now());
    }
  }
  try {
    task->input_memory = input_pools_[model]->take();
  } catch (const std::bad_alloc&) {
    std::lock_guard<std::mutex> lock(mutex_);
    free_slots_.push_back(task);
    throw;
  }
  task->inputs.clear();
  for (size_t i = 0; i < inputs.size(); ++i) {
    char* memory = task->input_memory.memory() + offset_of(models_[model].inputs, i, 1);
    std::memcpy(memory, inputs[i], models_[model].inputs[i].nbytes);
    task->inputs.push_back(memory);
  }
  task->priority = priority;
  task->deadline_ns = deadline_ns;
  task->client = client;

  thread_local std::vector<Instance*> starts;
  starts.clear();
  TaskState state;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const Nanoseconds time = now();
    state = closed_ ? TaskState::kCancelled : scheduler_.submit(task, time);
    if (state != TaskState::kQueued) {
      task->input_memory = BlockReference();
      free_slots_.push_back(task);
      return state;
    }
    *ticket = {task->slot, task->generation};
    scheduler_.pump(time, &starts);
    collect_finished();
  }
  start(starts);
  return TaskState::kQueued;
}

bool LiveRuntime::cancel(Ticket ticket) {
  std::lock_guard<std::mutex> lock(mutex_);
  LiveTask& task = slots_[ticket.slot];
  if (task.generation != ticket.generation || is_final(task.state)) return false;
  scheduler_.cancel(&task, now());
  collect_finished();
  return task.state == TaskState::kCancelled;
}

void LiveRuntime::apply(const Decision& decision) {
  std::vector<Instance*> starts;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const Nanoseconds time = now();
    scheduler_.apply(decision, time);
    scheduler_.pump(time, &starts);
    collect_finished();
  }
  start(starts);
}

Snapshot LiveRuntime::snapshot() {
  std::lock_guard<std::mutex> lock(mutex_);
  return scheduler_.snapshot(now());
}

std::vector<ModelStatistics> LiveRuntime::statistics() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<ModelStatistics> statistics;
  for (size_t m = 0; m < models_.size(); ++m) {
    statistics.push_back(scheduler_.statistics(static_cast<int>(m)));
  }
  return statistics;
}

void LiveRuntime::keep_segments(size_t count) {
  std::lock_guard<std::mutex> lock(mutex_);
  scheduler_.log().keep(count);
}

std::vector<SegmentRun> LiveRuntime::segments() {
  std::lock_guard<std::mutex> lock(mutex_);
  return scheduler_.log().runs();
}

size_t LiveRuntime::in_flight() {
  std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<size_t>(scheduler_.in_flight());
}

void LiveRuntime::close(bool cancel_queued) {
  std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  if (cancel_queued) scheduler_.cancel_queued(now());
  collect_finished();
}

bool LiveRuntime::wait_idle(std::chrono::nanoseconds timeout) {
  std::unique_lock<std::mutex> lock(mutex_);
  return idle_.wait_for(lock, timeout, [this] {
    return scheduler_.queued() == 0 && scheduler_.in_flight() == 0 && undelivered_ == 0;
  });
}

// With mutex_ held.
void LiveRuntime::collect_finished() {
  ended_.clear();
  scheduler_.take_finished(&ended_);
  if (ended_.empty()) return;
  for (Task* ended : ended_) {
    auto* task = static_cast<LiveTask*>(ended);
    task->input_memory = BlockReference();
    finished_.push_back(task);
  }
  undelivered_ += ended_.size();
  if (delivery_waits_) delivery_.notify_one();
}

void LiveRuntime::wait_finished(std::vector<LiveTask*>* tasks, std::chrono::nanoseconds timeout) {
  std::unique_lock<std::mutex> lock(mutex_);
  delivery_waits_ = true;
  delivery_.wait_for(lock, timeout, [this] { return !finished_.empty(); });
  delivery_waits_ = false;
  tasks->insert(tasks->end(), finished_.begin(), finished_.end());
  finished_.clear();
}

void LiveRuntime::recycle(const std::vector<LiveTask*>& tasks) {
  for (LiveTask* task : tasks) {
    task->output_memory = BlockReference();
    task->outputs.clear();
    task->failure.clear();
    task->client = nullptr;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  const Nanoseconds time = now();
  for (LiveTask* task : tasks) {
    scheduler_.delivered(*task, time);
    free_slots_.push_back(task);
  }
  undelivered_ -= tasks.size();
  if (undelivered_ == 0) idle_.notify_all();
}

// The stations of these instances are theirs alone until their segments are finished.
void LiveRuntime::start(std::vector<Instance*>& instances) {
  thread_local std::vector<Launch> launches;
  launches.clear();
  for (size_t i = 0; i < instances.size(); ++i) {
    if (!prepare(instances[i])) {
      fail(instances[i], "There is not enough memory for the outputs.", &instances);
      continue;
    }
    Station& at = path(*instances[i]).segments[instances[i]->segment];
    launches.push_back({at.context.get(), &at.workers});
  }
  if (!launches.empty()) pool_->start(launches);
}

// An instance whose segment cannot be started.
void LiveRuntime::fail(Instance* instance, const std::string& why, std::vector<Instance*>* starts) {
  std::lock_guard<std::mutex> lock(mutex_);
  const Nanoseconds time = now();
  for (Task* task : instance->tasks) {
    if (task != nullptr) static_cast<LiveTask*>(task)->failure = why;
  }
  scheduler_.segment_finished(instance, true, time);
  scheduler_.pump(time, starts);
  collect_finished();
}

// False if there is no memory for the outputs.
bool LiveRuntime::prepare(Instance* instance) {
  const int model = instance->model;
  const std::vector<BoundaryTensor>& model_inputs = models_[model].inputs;
  InstanceMemory& memory = instances_[model][instance->slot];
  const size_t tasks = tasks_of(variants(), model, instance->batch);
  char* between = memory.base + arena_bytes_[model];
  char* batch_inputs = between + between_bytes_[model];
  if (instance->segment == 0) {
    try {
      memory.outputs = output_pools_[model][instance->batch]->take();
    } catch (const std::bad_alloc&) {
      return false;
    }
    for (size_t i = 0; tasks > 1 && i < model_inputs.size(); ++i) {
      char* rows = batch_inputs + offset_of(model_inputs, i, tasks);
      for (const Task* task : instance->tasks) {
        const size_t nbytes = model_inputs[i].nbytes;
        std::memcpy(rows, static_cast<const LiveTask*>(task)->inputs[i], nbytes);
        rows += nbytes;
      }
    }
  }
  const auto address = [&](const Place& place) -> char* {
    if (place.kind == Place::Kind::kBetween) return between + place.offset;
    if (place.kind == Place::Kind::kInput && tasks == 1) {
      return static_cast<LiveTask*>(instance->tasks[0])->inputs[place.index];
    }
    if (place.kind == Place::Kind::kInput) {
      return batch_inputs + offset_of(model_inputs, place.index, tasks);
    }
    return memory.outputs.memory() + offset_of(models_[model].outputs, place.index, tasks);
  };
  thread_local std::vector<const void*> inputs;
  thread_local std::vector<void*> outputs;
  inputs.clear();
  outputs.clear();
  LanePath& lane = path(*instance);
  const SegmentRoute& route = lane.routes.segments[instance->segment];
  for (const Place& place : route.inputs) inputs.push_back(address(place));
  for (const Place& place : route.outputs) outputs.push_back(address(place));
  lane.segments[instance->segment].context->prepare(
      RunMemory{memory.base, inputs.data(), outputs.data()}, nullptr,
      [this, instance](ExecutionContext& context) { segment_finished(instance, context); });
  return true;
}

// With mutex_ held, before the last segment is reported: the tasks get their parts.
void LiveRuntime::bind_outputs(Instance* instance) {
  const std::vector<BoundaryTensor>& outputs = models_[instance->model].outputs;
  InstanceMemory& memory = instances_[instance->model][instance->slot];
  const size_t tasks = tasks_of(variants(), instance->model, instance->batch);
  for (size_t t = 0; t < instance->tasks.size(); ++t) {
    auto* task = static_cast<LiveTask*>(instance->tasks[t]);
    if (task == nullptr) continue;
    task->output_memory = memory.outputs;
    for (size_t i = 0; i < outputs.size(); ++i) {
      task->outputs.push_back(memory.outputs.memory() + offset_of(outputs, i, tasks) +
                              t * outputs[i].nbytes);
    }
  }
}

// On a worker.
void LiveRuntime::segment_finished(Instance* instance, const ExecutionContext& context) {
  thread_local std::vector<Instance*> starts;
  starts.clear();
  BlockReference outputs;  // dropped without the lock
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const Nanoseconds time = now();
    const bool failed = context.failed();
    const int segments = variants().variants[instance->variant].models[instance->model].segments;
    const bool last = instance->segment + 1 == segments;
    if (failed) {
      for (Task* task : instance->tasks) {
        if (task != nullptr) static_cast<LiveTask*>(task)->failure = context.failure();
      }
    } else if (last) {
      bind_outputs(instance);
    }
    if (failed || last) std::swap(outputs, instances_[instance->model][instance->slot].outputs);
    scheduler_.segment_finished(instance, failed, time);
    scheduler_.pump(time, &starts);
    collect_finished();
  }
  start(starts);
}

std::vector<StuckWorker> LiveRuntime::stuck_workers(double longer_than_s) {
  const std::vector<Activity> activity = pool_->activity();
  std::vector<StuckWorker> stuck;
  std::lock_guard<std::mutex> lock(mutex_);
  const Nanoseconds time = now();
  watched_.resize(activity.size());
  for (size_t worker = 0; worker < activity.size(); ++worker) {
    const Activity& active = activity[worker];
    Watched& watched = watched_[worker];
    if (active.job == nullptr || active.attempts != watched.attempts || watched.since_ns == 0) {
      watched = {active.attempts, time};
      continue;
    }
    const double since_s = 1e-9 * static_cast<double>(time - watched.since_ns);
    if (since_s < longer_than_s) continue;
    const auto found = model_of_job_.find(active.job);
    if (found == model_of_job_.end()) continue;  // somebody else's
    const auto* context = static_cast<const ExecutionContext*>(found->first);
    stuck.push_back({static_cast<int>(worker), variants().models[found->second],
                     context->current_op(active.stream), since_s});
  }
  return stuck;
}

std::vector<double> LiveRuntime::busy_s() {
  const std::vector<Activity> activity = pool_->activity();
  std::vector<double> busy;
  for (int stream = 0; stream < streams_; ++stream) {
    busy.push_back(1e-9 * static_cast<double>(activity[stream].busy_ns - busy_before_ns_[stream]));
  }
  return busy;
}

std::vector<void*> LiveRuntime::abandon() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<void*> clients;
  for (LiveTask& task : slots_) {
    if (task.state == TaskState::kRunning && task.client != nullptr) {
      clients.push_back(std::exchange(task.client, nullptr));
    }
  }
  return clients;
}

}  // namespace top
