#include "runtime/serving/variant.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace top {
namespace {

void check(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument(message);
}

bool positive(const std::vector<double>& times_us) {
  return std::all_of(times_us.begin(), times_us.end(),
                     [](double time_us) { return std::isfinite(time_us) && time_us > 0; });
}

}  // namespace

void validate_variants(const VariantSet& set) {
  check(!set.models.empty(), "There is no model.");
  check(!set.variants.empty(), "There is no variant.");
  check(set.batch_sizes.size() == set.models.size(), "Not every model has batch sizes.");
  for (size_t m = 0; m < set.models.size(); ++m) {
    const std::vector<int>& sizes = set.batch_sizes[m];
    check(!sizes.empty() && sizes.front() > 0 &&
              std::adjacent_find(sizes.begin(), sizes.end(), std::greater_equal<>()) == sizes.end(),
          "Model '" + set.models[m] + "' has no ascending batch sizes.");
  }
  for (const Variant& variant : set.variants) {
    const std::string place = "Variant '" + variant.id + "'";
    check(variant.models.size() == set.models.size(), place + " does not have every model.");
    check(variant.in_flight >= 0, place + " has a negative limit of instances in flight.");
    check(std::isfinite(variant.period_us) && variant.period_us > 0,
          place + " has no positive period.");
    for (size_t m = 0; m < set.models.size(); ++m) {
      const ModelVariant& model = variant.models[m];
      const std::string where = place + ", model '" + set.models[m] + "'";
      check(model.segments >= 1 && !model.lanes.empty(), where + " has no lanes or no segments.");
      check(!model.latency_us.empty() && model.latency_us.size() == model.work_us.size() &&
                model.latency_us.size() <= set.batch_sizes[m].size(),
            where + " needs a latency and work for its batch sizes.");
      check(positive(model.latency_us) && positive(model.work_us),
            where + " has times that are not positive.");
      for (const Lane& lane : model.lanes) {
        check(lane.first_stream >= 0 && lane.plans.size() == model.latency_us.size(),
              where + " has a lane that lacks a batch size.");
        for (const std::vector<int>& plans : lane.plans) {
          check(static_cast<int>(plans.size()) == model.segments,
                where + " has a lane that lacks a segment.");
        }
      }
    }
  }
}

}  // namespace top
