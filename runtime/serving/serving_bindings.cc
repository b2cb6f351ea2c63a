// Python face of the asynchronous runtime.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "runtime/serving/virtual_runtime.h"

namespace nb = nanobind;

namespace top {
namespace {

// The dataclasses of top_tvm/runtime/variant_table.py as tuples.
using LaneFields = std::tuple<int, std::vector<std::vector<int>>>;
using ModelFields =
    std::tuple<int, std::vector<LaneFields>, std::vector<double>, std::vector<double>>;
using VariantFields = std::tuple<std::string, int, bool, double, std::vector<ModelFields>>;
using SetFields =
    std::tuple<std::vector<std::string>, std::vector<std::vector<int>>, std::vector<VariantFields>>;
// stream, threads, waits
using CallFields = std::tuple<int, int, std::vector<int>>;
// streams, calls, costs as in PartitionProblem, and when the calls are due
using PlanFields = std::tuple<int, std::vector<CallFields>, std::vector<std::array<double, 6>>,
                              std::vector<double>>;

VariantSet to_variants(const SetFields& fields) {
  VariantSet set{std::get<0>(fields), std::get<1>(fields), {}};
  for (const auto& [id, in_flight, barrier, period_us, models] : std::get<2>(fields)) {
    Variant variant{id, in_flight, barrier, period_us, {}};
    for (const auto& [segments, lanes, latency_us, work_us] : models) {
      ModelVariant model{segments, {}, latency_us, work_us};
      for (const auto& [first_stream, plans] : lanes) model.lanes.push_back({first_stream, plans});
      variant.models.push_back(std::move(model));
    }
    set.variants.push_back(std::move(variant));
  }
  return set;
}

SimulatedPlan to_plan(const PlanFields& fields, const Device& device) {
  const auto& [streams, calls, costs, due_us] = fields;
  PlanData plan{};
  plan.streams = streams;
  for (const auto& [stream, threads, waits] : calls) {
    if (stream < 0 || stream >= streams || (threads != 1 && threads != streams)) {
      throw std::invalid_argument("A call is on a stream or has threads that its plan lacks.");
    }
    for (int wait : waits) {
      if (wait < 0 || wait >= static_cast<int>(plan.calls.size())) {
        throw std::invalid_argument("A call waits for one that is not before it.");
      }
    }
    CallData call{};
    call.op = std::to_string(plan.calls.size());
    call.stream = stream;
    call.threads = threads;
    call.waits = waits;
    plan.calls.push_back(std::move(call));
  }
  std::vector<OpCost> op_costs;
  for (const std::array<double, 6>& c : costs) {
    op_costs.push_back({OpForm{c[0], c[2], c[4]}, OpForm{c[1], c[3], c[5]}});
  }
  return SimulatedPlan(plan, op_costs, due_us, device);
}

nb::dict snapshot_to_dict(const Snapshot& snapshot) {
  nb::list models;
  for (const ModelSnapshot& model : snapshot.models) {
    nb::dict fields;
    fields["queued"] = model.queued;
    fields["in_flight"] = model.in_flight;
    fields["oldest_us"] = model.oldest_us;
    fields["slack_us"] = model.slack_us;
    fields["short_rate_per_s"] = model.short_rate_per_s;
    fields["long_rate_per_s"] = model.long_rate_per_s;
    fields["variation"] = model.variation;
    fields["frequency"] = model.frequency;
    fields["occupancy"] = model.occupancy;
    fields["mean_deadline_us"] = model.mean_deadline_us;
    models.append(fields);
  }
  nb::dict fields;
  fields["now_us"] = 1e-3 * static_cast<double>(snapshot.now_ns);
  fields["variant"] = snapshot.variant;
  fields["since_switch_us"] = snapshot.since_switch_us;
  fields["pace"] = snapshot.pace;
  fields["models"] = models;
  return fields;
}

nb::dict histogram_to_dict(const Histogram& histogram) {
  nb::dict fields;
  fields["count"] = histogram.count();
  fields["mean_us"] = histogram.mean_us();
  fields["p50_us"] = histogram.quantile_us(0.5);
  fields["p95_us"] = histogram.quantile_us(0.95);
  fields["p99_us"] = histogram.quantile_us(0.99);
  fields["max_us"] = histogram.max_us();
  return fields;
}

nb::dict statistics_to_dict(const ModelStatistics& statistics) {
  nb::dict fields;
  fields["submitted"] = statistics.submitted;
  fields["completed"] = statistics.completed;
  fields["rejected"] = statistics.rejected;
  fields["expired"] = statistics.expired;
  fields["cancelled"] = statistics.cancelled;
  fields["failed"] = statistics.failed;
  fields["late"] = statistics.late;
  fields["launches"] = statistics.launches;
  fields["queue"] = histogram_to_dict(statistics.queue);
  fields["compute"] = histogram_to_dict(statistics.compute);
  fields["end_to_end"] = histogram_to_dict(statistics.end_to_end);
  return fields;
}

}  // namespace

void bind_serving(nb::module_& m) {
  using ReleaseGil = nb::call_guard<nb::gil_scoped_release>;

  nb::class_<VirtualRuntime>(m, "VirtualRuntime")
      .def(
          "__init__",
          [](VirtualRuntime* self, const SetFields& variants,
             const std::vector<std::vector<PlanFields>>& plans, int streams,
             const std::array<double, 4>& overheads, size_t queue_size) {
            const Device device{streams, overheads[0], overheads[1], overheads[2], overheads[3]};
            std::vector<std::vector<SimulatedPlan>> simulated;
            for (const std::vector<PlanFields>& of_model : plans) {
              std::vector<SimulatedPlan>& converted = simulated.emplace_back();
              for (const PlanFields& plan : of_model) converted.push_back(to_plan(plan, device));
            }
            new (self)
                VirtualRuntime(to_variants(variants), std::move(simulated), device, queue_size);
          },
          nb::arg("variants"), nb::arg("plans"), nb::arg("streams"), nb::arg("overheads"),
          nb::arg("queue_size"))
      .def(
          "add_arrivals",
          [](VirtualRuntime& self,
             const std::vector<std::tuple<double, int, int, double>>& fields) {
            std::vector<Arrival> arrivals;
            for (const auto& [time_us, model, priority, deadline_us] : fields) {
              arrivals.push_back({time_us, model, priority, deadline_us});
            }
            self.add_arrivals(arrivals);
          },
          nb::arg("arrivals"), "Time, model, priority, and deadline after that, in microseconds.")
      .def("run_until", &VirtualRuntime::run_until, nb::arg("time_us"), ReleaseGil())
      .def("drain", &VirtualRuntime::drain, ReleaseGil())
      .def("cancel", &VirtualRuntime::cancel, nb::arg("id"))
      .def(
          "apply",
          [](VirtualRuntime& self, int variant, const std::vector<double>& frequency) {
            self.apply({variant, frequency});
          },
          nb::arg("variant"), nb::arg("frequency"))
      .def("snapshot", [](const VirtualRuntime& self) { return snapshot_to_dict(self.snapshot()); })
      .def(
          "statistics",
          [](const VirtualRuntime& self, int model) {
            return statistics_to_dict(self.scheduler().statistics(model));
          },
          nb::arg("model"))
      .def("busy_us", &VirtualRuntime::busy_us, nb::arg("stream"))
      .def_prop_ro("now_us", &VirtualRuntime::now_us)
      .def_prop_ro("segments_started", &VirtualRuntime::segments_started)
      .def(
          "take_records",
          [](VirtualRuntime& self) {
            nb::list records;
            for (const TaskRecord& r : self.take_records()) {
              records.append(nb::make_tuple(r.id, r.model, static_cast<int>(r.end), r.submitted_us,
                                            r.launched_us, r.finished_us, r.deadline_us));
            }
            return records;
          },
          "Id, model, end, and times of submission, launch, end and deadline, in microseconds.");
}

}  // namespace top
