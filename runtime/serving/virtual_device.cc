#include "runtime/serving/virtual_device.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

namespace top {
namespace {

void check_plans(const VariantSet& set, const std::vector<std::vector<SimulatedPlan>>& plans,
                 int streams) {
  for (const Variant& variant : set.variants) {
    for (size_t m = 0; m < set.models.size(); ++m) {
      for (const Lane& lane : variant.models[m].lanes) {
        for (const std::vector<int>& numbers : lane.plans) {
          for (int number : numbers) {
            if (m >= plans.size() || number < 0 || number >= static_cast<int>(plans[m].size()) ||
                lane.first_stream + plans[m][number].streams() > streams) {
              throw std::invalid_argument("Variant '" + variant.id + "', model '" + set.models[m] +
                                          "' has a plan that does not exist or fit.");
            }
          }
        }
      }
    }
  }
}

}  // namespace

OpDevice::OpDevice(const VariantSet& set, std::vector<std::vector<SimulatedPlan>> plans,
                   const Device& device)
    : set_(set), plans_(std::move(plans)), device_(device), streams_(device.streams) {
  check_plans(set_, plans_, device_.streams);
}

void OpDevice::start(int handle, const Instance& instance, bool wakes) {
  const Lane& lane = set_.variants[instance.variant].models[instance.model].lanes[instance.lane];
  const int number = lane.plans[instance.batch][instance.segment];
  streams_.start(handle, plans_[instance.model][number], lane.first_stream,
                 wakes ? device_.run_us : 0);
}

void SegmentDevice::start(int handle, const Instance& instance, bool wakes) {
  const ModelVariant& shape = set_.variants[instance.variant].models[instance.model];
  const double work_us = shape.work_us[instance.batch];
  const double time_us = std::max(shape.latency_us[instance.batch], work_us);
  running_.push_back(
      {handle, time_us / shape.segments + (wakes ? wake_us_ : 0), work_us / time_us});
  needed_ += running_.back().share;
}

int SegmentDevice::run_until(double until_us) {
  if (running_.empty()) {
    needed_ = 0;  // to the last bit
    if (std::isfinite(until_us)) now_us_ = std::max(now_us_, until_us);
    return -1;
  }
  const auto next =
      std::min_element(running_.begin(), running_.end(),
                       [](const Running& a, const Running& b) { return a.left_us < b.left_us; });
  const double end_us = now_us_ + next->left_us * std::max(1.0, needed_) / speed_;
  if (end_us > until_us) {
    advance(until_us - now_us_);
    now_us_ = until_us;
    return -1;
  }
  advance(end_us - now_us_);
  now_us_ = end_us;
  const int handle = next->handle;
  needed_ -= next->share;
  running_.erase(next);
  return handle;
}

void SegmentDevice::advance(double time_us) {
  const double done_us = time_us * speed_ / std::max(1.0, needed_);
  for (Running& running : running_) running.left_us = std::max(0.0, running.left_us - done_us);
  busy_us_ += time_us * std::min(1.0, needed_);
}

}  // namespace top
