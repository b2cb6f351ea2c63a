#include "runtime/serving/virtual_runtime.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace top {
namespace {

constexpr double kForever = std::numeric_limits<double>::infinity();

}  // namespace

VirtualRuntime::VirtualRuntime(VariantSet set, size_t queue_size)
    : scheduler_(std::move(set), queue_size) {
  for (size_t m = 0; m < scheduler_.variants().models.size(); ++m) {
    first_handle_.push_back(static_cast<int>(by_handle_.size()));
    by_handle_.resize(by_handle_.size() + scheduler_.slots(static_cast<int>(m)));
  }
}

VirtualRuntime::VirtualRuntime(VariantSet set, std::vector<std::vector<SimulatedPlan>> plans,
                               const Device& device, size_t queue_size)
    : VirtualRuntime(std::move(set), queue_size) {
  device_ = std::make_unique<OpDevice>(scheduler_.variants(), std::move(plans), device);
}

VirtualRuntime::VirtualRuntime(VariantSet set, double wake_us, size_t queue_size)
    : VirtualRuntime(std::move(set), queue_size) {
  auto device = std::make_unique<SegmentDevice>(scheduler_.variants(), wake_us);
  of_segments_ = device.get();
  device_ = std::move(device);
}

void VirtualRuntime::set_speed(double speed) {
  if (of_segments_ == nullptr) throw std::logic_error("Ops have the speed that their costs say.");
  if (!(speed > 0)) throw std::invalid_argument("A device must have a positive speed.");
  of_segments_->set_speed(speed);
}

void VirtualRuntime::add_arrivals(const std::vector<Arrival>& arrivals) {
  for (const Arrival& arrival : arrivals) {
    const double last_us = arrivals_.empty() ? now_us() : arrivals_.back().time_us;
    if (!(arrival.time_us >= last_us)) {
      throw std::invalid_argument("Arrivals must ascend and lie in the future.");
    }
    if (arrival.model < 0 || arrival.model >= static_cast<int>(first_handle_.size()) ||
        arrival.priority < 0 || arrival.priority >= kPriorities || !(arrival.deadline_us > 0)) {
      throw std::invalid_argument("An arrival has no valid model, priority or deadline.");
    }
    arrivals_.push_back(arrival);
  }
}

void VirtualRuntime::run_until(double time_us, bool until_ended) {
  while (!until_ended || records_.empty()) {
    const double next_us = arrivals_.empty() ? kForever : arrivals_.front().time_us;
    const int finished = device_->run_until(std::min(time_us, next_us));
    if (finished >= 0) {
      scheduler_.segment_finished(by_handle_[finished], false, now());
      pump(true);
    } else if (next_us <= time_us && next_us < kForever) {
      arrive(arrivals_.front());
      arrivals_.pop_front();
    } else {
      return;
    }
  }
}

double VirtualRuntime::drain() {
  run_until(kForever);
  return now_us();
}

void VirtualRuntime::arrive(const Arrival& arrival) {
  VirtualTask& task = tasks_.emplace_back();
  task.id = first_id_ + static_cast<int64_t>(tasks_.size()) - 1;
  task.model = arrival.model;
  task.priority = arrival.priority;
  task.deadline_us = now_us() + arrival.deadline_us;
  task.deadline_ns =
      std::isinf(arrival.deadline_us) ? kNever : static_cast<Nanoseconds>(1e3 * task.deadline_us);
  if (scheduler_.submit(&task, now()) != TaskState::kQueued) {
    records_.push_back({task.id, task.model, task.state, now_us(), 0, now_us(), task.deadline_us});
  }
  pump();
}

void VirtualRuntime::cancel(int64_t id) {
  const int64_t index = id - first_id_;
  if (index < 0 || index >= static_cast<int64_t>(tasks_.size())) return;  // ended long ago
  scheduler_.cancel(&tasks_[static_cast<size_t>(index)], now());
  pump();
}

void VirtualRuntime::pump(bool device_is_awake) {
  starts_.clear();
  scheduler_.pump(now(), &starts_);
  // Waking the streams of an idle device takes a while.
  const bool sleeps =
      !device_is_awake && scheduler_.in_flight() == static_cast<int>(starts_.size());
  for (Instance* instance : starts_) {
    by_handle_[handle(*instance)] = instance;
    device_->start(handle(*instance), *instance, sleeps);
    ++segments_started_;
  }
  finished_.clear();
  scheduler_.take_finished(&finished_);
  for (Task* ended : finished_) {
    scheduler_.delivered(*ended, now());
    const auto& task = static_cast<const VirtualTask&>(*ended);
    records_.push_back({task.id, task.model, task.state, 1e-3 * task.submitted_ns,
                        1e-3 * task.launched_ns, 1e-3 * task.finished_ns, task.deadline_us});
  }
  while (!tasks_.empty() && is_final(tasks_.front().state)) {
    tasks_.pop_front();
    ++first_id_;
  }
}

int VirtualRuntime::handle(const Instance& instance) const {
  return first_handle_[instance.model] + instance.slot;
}

std::vector<TaskRecord> VirtualRuntime::take_records() { return std::exchange(records_, {}); }

}  // namespace top
