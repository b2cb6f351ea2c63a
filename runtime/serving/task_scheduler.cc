#include "runtime/serving/task_scheduler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace top {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// A model may be ahead of its fair share by this many of the longest instances.
constexpr double kFairnessSlack = 4;
constexpr double kDeadlineWeight = 0.05;

VariantSet validated(VariantSet set) {
  validate_variants(set);
  return set;
}

double longest_us(const VariantSet& set) {
  double longest_us = 0;
  for (const ModelVariant& model : set.variants.front().models) {
    longest_us = std::max(longest_us, model.latency_us.back());
  }
  return longest_us;
}

int places(const Variant& variant, int model) {
  const ModelVariant& shape = variant.models[model];
  const int lanes = static_cast<int>(shape.lanes.size()) * shape.segments;
  return variant.in_flight > 0 ? std::min(variant.in_flight, lanes) : lanes;
}

double microseconds(Nanoseconds duration) { return 1e-3 * static_cast<double>(duration); }

}  // namespace

TaskScheduler::TaskScheduler(VariantSet set, size_t queue_size)
    : set_(validated(std::move(set))),
      launcher_(static_cast<int>(set_.models.size()), kFairnessSlack * longest_us(set_)),
      fronts_(set_.models.size()),
      forecast_(static_cast<int>(set_.models.size()), static_cast<int>(set_.variants.size())) {
  for (size_t m = 0; m < set_.models.size(); ++m) {
    Model& model = models_.emplace_back(queue_size);
    int most = 0;
    for (const Variant& variant : set_.variants) {
      most = std::max(most, places(variant, static_cast<int>(m)));
    }
    for (int slot = 0; slot < most; ++slot) {
      model.instances.push_back(std::make_unique<Instance>());
      model.instances.back()->slot = slot;
      model.instances.back()->model = static_cast<int>(m);
      model.instances.back()->tasks.reserve(set_.batch_sizes[m].back());
    }
    // Low slots are used first, so that the memory of a light load stays warm.
    for (int slot = most; slot-- > 0;) model.free.push_back(model.instances[slot].get());
  }
  for (const Variant& variant : set_.variants) {
    auto& free = free_lanes_.emplace_back();
    for (const ModelVariant& model : variant.models) {
      std::vector<int> lanes(model.lanes.size());
      std::iota(lanes.begin(), lanes.end(), 0);
      free.emplace_back(model.segments, lanes);
    }
  }
}

TaskState TaskScheduler::submit(Task* task, Nanoseconds now) {
  Model& model = models_[task->model];
  task->submitted_ns = now;
  task->launched_ns = 0;
  task->state = TaskState::kQueued;
  task->cancel_requested = false;
  if (model.queue.full()) return task->state = reject(task->model, now);
  ++model.statistics.submitted;
  model.statistics.arrivals.add(now);
  if (task->deadline_ns != kNever) {
    const double given_us = microseconds(task->deadline_ns - now);
    const double weight = model.mean_deadline_us == 0 ? 1 : kDeadlineWeight;
    model.mean_deadline_us += weight * (given_us - model.mean_deadline_us);
  }
  if (task->deadline_ns != kNever && now + 1e3 * expected_us(*task, now) > task->deadline_ns) {
    ++model.statistics.expired;
    return task->state = TaskState::kExpired;
  }
  if (model.queue.size() == 0) launcher_.became_active(task->model);
  model.queue.push(task);
  ++queued_;
  return task->state;
}

TaskState TaskScheduler::reject(int model, Nanoseconds now) {
  ModelStatistics& statistics = models_[model].statistics;
  ++statistics.submitted;
  ++statistics.rejected;
  statistics.arrivals.add(now);
  return TaskState::kRejected;
}

// If nothing else is to be done there is nothing to be lost, and speed to be learned.
double TaskScheduler::expected_us(const Task& task, Nanoseconds now) const {
  const double alone_us = set_.variants[0].models[task.model].latency_us[0];
  if (queued_ == 0 && in_flight_ == 0) return alone_us;
  return forecast_.pace(current_, now) * (wait_us(task) + alone_us);
}

// Under a fair share, others delay a task by no more than what they have queued, and by no more
// than what its own model gets in the meantime.
double TaskScheduler::wait_us(const Task& task) const {
  const double own_us = work_per_task_us(task.model);
  const double ahead_us =
      own_us * static_cast<double>(models_[task.model].queue.ahead_of(task.priority) +
                                   models_[task.model].tasks_in_flight);
  double total_us = ahead_us;
  for (size_t other = 0; other < models_.size(); ++other) {
    if (static_cast<int>(other) == task.model) continue;
    const Model& model = models_[other];
    const auto tasks = static_cast<double>(model.queue.size() + model.tasks_in_flight);
    total_us += std::min(tasks * work_per_task_us(static_cast<int>(other)), ahead_us + own_us);
  }
  return total_us;
}

// Of an instance that is launched now: alone, or beside what is in flight, as then the device
// finishes all of that while it executes the instance (Little's law).
double TaskScheduler::predicted_us(int model, int variant, int batch, Nanoseconds now) const {
  const ModelVariant& shape = set_.variants[variant].models[model];
  if (alone()) return shape.latency_us[batch];
  double beside_us = shape.work_us[batch];
  for (size_t other = 0; other < models_.size(); ++other) {
    const double work_us = work_per_task_us(static_cast<int>(other));
    beside_us += models_[other].tasks_in_flight * work_us;
  }
  return forecast_.pace(variant, now) * std::max(shape.latency_us[batch], beside_us);
}

// Device time per task at the current variant's best batch size.
double TaskScheduler::work_per_task_us(int model) const {
  const ModelVariant& shape = set_.variants[current_].models[model];
  double least_us = kInfinity;
  for (size_t b = 0; b < shape.work_us.size(); ++b) {
    least_us = std::min(least_us, shape.work_us[b] / set_.batch_sizes[model][b]);
  }
  return least_us;
}

void TaskScheduler::cancel(Task* task, Nanoseconds now) {
  if (task->state == TaskState::kQueued) {
    models_[task->model].queue.remove(task);
    --queued_;
    finish(task, TaskState::kCancelled, now);
  } else if (task->state == TaskState::kRunning) {
    task->cancel_requested = true;
  }
}

void TaskScheduler::cancel_queued(Nanoseconds now) {
  for (Model& model : models_) {
    while (Task* task = model.queue.front()) cancel(task, now);
  }
}

const ModelVariant& TaskScheduler::shape(const Instance& instance) const {
  return set_.variants[instance.variant].models[instance.model];
}

void TaskScheduler::segment_finished(Instance* instance, bool failed, Nanoseconds now) {
  log_.add({instance->number, instance->variant, instance->model, instance->segment, instance->lane,
            static_cast<int>(instance->tasks.size()), instance->entered_ns, now});
  free_lanes_[instance->variant][instance->model][instance->segment].push_back(instance->lane);
  instance->lane = -1;
  --executing_;
  if (failed) {
    finish_instance(instance, TaskState::kFailed, now);
    return;
  }
  if (++instance->segment == shape(*instance).segments) {
    observe_pace(*instance, now);
    finish_instance(instance, TaskState::kCompleted, now);
    return;
  }
  drop_cancelled(instance, now);
  if (instance->tasks.empty()) {
    finish_instance(instance, TaskState::kCancelled, now);
    return;
  }
  const auto place =
      std::upper_bound(waiting_.begin(), waiting_.end(), instance,
                       [](const Instance* a, const Instance* b) { return a->number < b->number; });
  waiting_.insert(place, instance);
}

// The others of a batch keep their places in it.
void TaskScheduler::drop_cancelled(Instance* instance, Nanoseconds now) {
  bool any_left = false;
  for (Task*& task : instance->tasks) {
    if (task != nullptr && task->cancel_requested) {
      finish(task, TaskState::kCancelled, now);
      --models_[instance->model].tasks_in_flight;
      task = nullptr;
    }
    any_left |= task != nullptr;
  }
  if (!any_left) instance->tasks.clear();
}

void TaskScheduler::finish_instance(Instance* instance, TaskState state, Nanoseconds now) {
  Model& model = models_[instance->model];
  for (Task* task : instance->tasks) {
    if (task == nullptr) continue;
    finish(task, state, now);
    --model.tasks_in_flight;
  }
  instance->tasks.clear();
  model.free.push_back(instance);
  --model.in_flight;
  --in_flight_;
}

void TaskScheduler::finish(Task* task, TaskState state, Nanoseconds now) {
  ModelStatistics& statistics = models_[task->model].statistics;
  task->state = state;
  task->finished_ns = now;
  if (state == TaskState::kCompleted) {
    ++statistics.completed;
    if (now > task->deadline_ns) ++statistics.late;
    statistics.queue.add(task->launched_ns - task->submitted_ns);
    statistics.compute.add(now - task->launched_ns);
    statistics.end_to_end.add(now - task->submitted_ns);
  } else if (state == TaskState::kExpired) {
    ++statistics.expired;
  } else if (state == TaskState::kCancelled) {
    ++statistics.cancelled;
  } else {
    ++statistics.failed;
  }
  finished_.push_back(task);
}

// While there is always something to launch, the device is as fast as tasks are finished. A task
// that was alone tells less, as it begins with waking the device; but if it was fast, so is that.
void TaskScheduler::observe_pace(const Instance& instance, Nanoseconds now) {
  if (instance.variant != current_) return;
  if (queued_ == 0) {
    backlog_since_ns_ = kNever;
    const Task* task = instance.tasks[0];
    if (task == nullptr || in_flight_ > 1 || instance.number + 1 != launches_) return;
    const double alone_us = microseconds(now - task->launched_ns);
    const double ratio = alone_us / shape(instance).latency_us[instance.batch];
    if (ratio < forecast_.pace(current_, now)) forecast_.observe_pace(current_, ratio, now);
    return;
  }
  if (backlog_since_ns_ != kNever) {
    const double elapsed_us = microseconds(now - backlog_since_ns_);
    const auto tasks = static_cast<double>(instance.tasks.size());
    const double predicted_us = tasks * work_per_task_us(instance.model);
    forecast_.observe_pace(current_, elapsed_us / predicted_us, now);
  }
  backlog_since_ns_ = now;
}

void TaskScheduler::pump(Nanoseconds now, std::vector<Instance*>* starts) {
  if (set_.variants[current_].barrier && executing_ > 0) return;
  for (size_t i = 0; i < waiting_.size();) {
    if (enter(waiting_[i], now, starts)) {
      waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      ++i;
    }
  }
  expire_fronts(now);
  while (queued_ > 0 && launch(now, starts)) expire_fronts(now);
}

// Takes the lane that has been free for the longest time: lanes have their ops on different
// streams, so using them in turn loads the streams evenly.
bool TaskScheduler::enter(Instance* instance, Nanoseconds now, std::vector<Instance*>* starts) {
  std::vector<int>& free = free_lanes_[instance->variant][instance->model][instance->segment];
  if (free.empty()) return false;
  instance->lane = free.front();
  free.erase(free.begin());
  instance->entered_ns = now;
  ++executing_;
  starts->push_back(instance);
  return true;
}

bool TaskScheduler::has_place(int model) const {
  const Variant& variant = set_.variants[current_];
  if (variant.in_flight > 0 && in_flight_ >= variant.in_flight) return false;
  if (models_[model].in_flight >= places(variant, model)) return false;
  return !free_lanes_[current_][model][0].empty();
}

void TaskScheduler::expire_fronts(Nanoseconds now) {
  for (size_t m = 0; m < models_.size(); ++m) {
    TaskQueue& queue = models_[m].queue;
    while (Task* task = queue.front()) {
      if (!gives_up(*task, queue.second(), now)) break;
      queue.remove(task);
      --queued_;
      finish(task, TaskState::kExpired, now);
    }
  }
}

// A task that will hardly be in time is tried, but not where the next one would be for sure.
bool TaskScheduler::gives_up(const Task& task, const Task* next, Nanoseconds now) const {
  if (task.deadline_ns == kNever) return false;
  const int variant = next_variant();
  const double likely_us =
      predicted_us(task.model, variant, choose_batch(task.model, variant), now);
  if (now + 1e3 * likely_us > task.deadline_ns) return true;
  const double surely_us = likely_us + forecast_.margin_us(task.model, now);
  if (now + 1e3 * surely_us <= task.deadline_ns || alone()) return false;
  return next != nullptr && next->deadline_ns != kNever &&
         now + 1e3 * surely_us <= next->deadline_ns;
}

// A task that is alone gets the plan of least latency.
bool TaskScheduler::alone() const { return in_flight_ == 0 && queued_ == 1; }
int TaskScheduler::next_variant() const { return alone() ? 0 : current_; }

bool TaskScheduler::launch(Nanoseconds now, std::vector<Instance*>* starts) {
  const bool idle = in_flight_ == 0;
  for (size_t m = 0; m < models_.size(); ++m) {
    const int model = static_cast<int>(m);
    // An idle device does not wait for tokens.
    const bool may = (idle || launcher_.may_launch(model, now)) && has_place(model);
    fronts_[m] = may ? models_[m].queue.front() : nullptr;
  }
  const int chosen = launcher_.choose(fronts_);
  if (chosen < 0) return false;

  Model& model = models_[chosen];
  Instance* instance = model.free.back();
  model.free.pop_back();
  instance->variant = next_variant();
  instance->batch = choose_batch(chosen, instance->variant);
  instance->segment = 0;
  instance->number = launches_++;
  const double time_us = predicted_us(chosen, instance->variant, instance->batch, now);
  const int size = set_.batch_sizes[chosen][instance->batch];
  while (static_cast<int>(instance->tasks.size()) < size) {
    Task* task = model.queue.front();
    if (task == nullptr) break;
    model.queue.remove(task);
    --queued_;
    task->state = TaskState::kRunning;
    task->launched_ns = now;
    task->predicted_us = time_us;
    instance->tasks.push_back(task);
  }
  const int tasks = static_cast<int>(instance->tasks.size());
  model.tasks_in_flight += tasks;
  ++model.in_flight;
  ++in_flight_;
  ++model.statistics.launches;
  launcher_.launched(chosen, tasks, shape(*instance).work_us[instance->batch], now);
  enter(instance, now, starts);
  return true;
}

// The batch size with the least time per task that waits, of equals the smaller.
int TaskScheduler::choose_batch(int model, int variant) const {
  const ModelVariant& shape = set_.variants[variant].models[model];
  const auto waiting = static_cast<double>(models_[model].queue.size());
  int best = 0;
  double best_us = kInfinity;
  for (size_t b = 0; b < shape.work_us.size(); ++b) {
    const double size = set_.batch_sizes[model][b];
    const double per_task_us = shape.work_us[b] / std::min(size, waiting);
    if (per_task_us < best_us) {
      best_us = per_task_us;
      best = static_cast<int>(b);
    }
  }
  return best;
}

void TaskScheduler::take_finished(std::vector<Task*>* tasks) {
  tasks->insert(tasks->end(), finished_.begin(), finished_.end());
  finished_.clear();
}

void TaskScheduler::delivered(const Task& task, Nanoseconds now) {
  if (task.state != TaskState::kCompleted) return;
  forecast_.observe_error(task.model, microseconds(now - task.launched_ns) - task.predicted_us,
                          now);
}

void TaskScheduler::apply(const Decision& decision, Nanoseconds now) {
  if (decision.variant < 0 || decision.variant >= static_cast<int>(set_.variants.size())) {
    throw std::invalid_argument("There is no variant " + std::to_string(decision.variant) + ".");
  }
  if (decision.frequency.size() != models_.size()) {
    throw std::invalid_argument("A decision needs a dequeue frequency for every model.");
  }
  for (double frequency : decision.frequency) {
    if (!(frequency > 0)) {
      throw std::invalid_argument("Dequeue frequencies must be positive.");
    }
  }
  if (decision.variant != current_) {
    current_ = decision.variant;
    switched_ns_ = now;
    backlog_since_ns_ = kNever;
  }
  for (size_t m = 0; m < models_.size(); ++m) {
    launcher_.set_frequency(static_cast<int>(m), decision.frequency[m],
                            set_.variants[current_].period_us, now);
  }
}

Snapshot TaskScheduler::snapshot(Nanoseconds now) const {
  Snapshot snapshot;
  snapshot.now_ns = now;
  snapshot.variant = current_;
  snapshot.since_switch_us = microseconds(now - switched_ns_);
  for (size_t v = 0; v < set_.variants.size(); ++v) {
    snapshot.pace.push_back(forecast_.pace(static_cast<int>(v), now));
  }
  for (size_t m = 0; m < models_.size(); ++m) {
    const Model& model = models_[m];
    ModelSnapshot& view = snapshot.models.emplace_back();
    view.queued = model.queue.size();
    view.in_flight = model.tasks_in_flight;
    const Task* front = model.queue.front();
    if (front != nullptr) view.oldest_us = microseconds(now - front->submitted_ns);
    view.slack_us = front == nullptr || front->deadline_ns == kNever
                        ? kInfinity
                        : microseconds(front->deadline_ns - now);
    const Arrivals& arrivals = model.statistics.arrivals;
    view.short_rate_per_s = arrivals.short_rate_per_s(now);
    view.long_rate_per_s = arrivals.long_rate_per_s(now);
    view.variation = arrivals.variation();
    view.frequency = launcher_.frequency(static_cast<int>(m));
    view.mean_deadline_us = model.mean_deadline_us == 0 ? kInfinity : model.mean_deadline_us;
    const size_t lanes = set_.variants[current_].models[m].lanes.size();
    for (const std::vector<int>& free : free_lanes_[current_][m]) {
      view.occupancy.push_back(static_cast<int>(lanes - free.size()));
    }
  }
  return snapshot;
}

}  // namespace top
