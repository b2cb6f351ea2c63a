// Python face of the asynchronous runtime.
#include <nanobind/stl/array.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "runtime/bindings.h"
#include "runtime/serving/live_runtime.h"
#include "runtime/serving/probe.h"
#include "runtime/serving/virtual_runtime.h"

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

nb::list segments_to_list(const std::vector<SegmentRun>& runs) {
  nb::list list;
  for (const SegmentRun& run : runs) {
    list.append(nb::make_tuple(run.instance, run.variant, run.model, run.segment, run.lane,
                               run.tasks, 1e-3 * static_cast<double>(run.begin_ns),
                               1e-3 * static_cast<double>(run.end_ns)));
  }
  return list;
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

std::chrono::nanoseconds seconds(double seconds) {
  return std::chrono::nanoseconds(static_cast<int64_t>(1e9 * std::min(seconds, 1e8)));
}

// Name, dtype and shape of an input or output of one task.
using TensorTuple = std::tuple<std::string, std::string, std::vector<int64_t>>;

// The runtime with what it needs to stay alive. Called with the interpreter's lock, which is
// released wherever something is copied or waited for.
class BoundRuntime {
 public:
  BoundRuntime(const SetFields& variants, const nb::list& executors,
               const std::vector<std::vector<TensorTuple>>& inputs,
               const std::vector<std::vector<TensorTuple>>& outputs, int streams, size_t queue_size)
      : executors_(executors) {
    std::vector<ServedModel> models;
    for (size_t m = 0; m < inputs.size(); ++m) {
      ServedModel& model = models.emplace_back();
      for (nb::handle executor : nb::cast<nb::list>(executors[m])) {
        model.plans.push_back(nb::cast<const BoundExecutor&>(executor).executor());
      }
      for (const auto& [name, dtype, shape] : inputs[m]) {
        model.inputs.push_back({name, tensor_nbytes(name, parse_dtype(dtype), shape, {})});
      }
      std::vector<Output>& of_model = outputs_.emplace_back();
      for (const auto& [name, dtype, shape] : outputs[m]) {
        const DLDataType type = parse_dtype(dtype);
        model.outputs.push_back({name, tensor_nbytes(name, type, shape, {})});
        of_model.push_back({{type.code, type.bits, type.lanes}, {shape.begin(), shape.end()}});
      }
    }
    const Unlocked unlocked;
    runtime_ = std::make_unique<LiveRuntime>(to_variants(variants), std::move(models), streams,
                                             queue_size);
    std::lock_guard<std::mutex> lock(fork_guard());
    generation_ = fork_generation();
  }

  // What is in flight uses the runtime and the executors: if it does not end, neither do they. Also
  // called when the interpreter ends, hence not by way of the client gate.
  ~BoundRuntime() {
    if (!forked()) {
      runtime_->close(true);
      if (runtime_->in_flight() == 0) return;
    }
    runtime_.release();
    executors_.release();
  }
  BoundRuntime(const BoundRuntime&) = delete;
  BoundRuntime& operator=(const BoundRuntime&) = delete;

  // State, slot and generation. The client's reference is kept if the task is queued.
  std::tuple<int, uint32_t, uint32_t> submit(int model, const std::vector<InputArray>& inputs,
                                             int priority, double deadline_us, nb::object client) {
    if (priority < 0 || priority >= kPriorities || !(deadline_us > 0)) {
      throw std::invalid_argument("The task has no valid priority or deadline.");
    }
    const std::vector<const void*> pointers = check_inputs(model, inputs);
    Ticket ticket{0, 0};
    TaskState state;
    {
      const Unlocked unlocked;
      const Nanoseconds deadline_ns =
          std::isinf(deadline_us)
              ? kNever
              : LiveRuntime::now() + static_cast<Nanoseconds>(1e3 * std::min(deadline_us, 1e15));
      state = runtime_->submit(model, pointers, priority, deadline_ns, client.ptr(), &ticket);
    }
    if (state == TaskState::kQueued) client.release();
    return {static_cast<int>(state), ticket.slot, ticket.generation};
  }

  bool cancel(uint32_t slot, uint32_t generation) {
    const Unlocked unlocked;
    return runtime_->cancel({slot, generation});
  }

  // Client, state, failure, outputs, and nanoseconds of submission, launch and end of tasks. Those
  // of the last call have been delivered when the next one is made: not before that is the runtime
  // idle.
  nb::list wait_finished(double timeout_s) {
    delivered();
    {
      const Unlocked unlocked;
      runtime_->wait_finished(&undelivered_, seconds(timeout_s));
    }
    nb::list results;
    for (LiveTask* task : undelivered_) {
      nb::list outputs;
      for (size_t i = 0; i < task->outputs.size(); ++i) {
        const Output& output = outputs_[task->model][i];
        auto* kept = new BlockReference(task->output_memory);
        nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<BlockReference*>(p); });
        outputs.append(OutputArray(const_cast<char*>(task->outputs[i]), output.shape.size(),
                                   output.shape.data(), owner, nullptr, output.dtype));
      }
      nb::object client = nb::steal(static_cast<PyObject*>(task->client));
      results.append(nb::make_tuple(std::move(client), static_cast<int>(task->state), task->failure,
                                    std::move(outputs), task->submitted_ns, task->launched_ns,
                                    task->finished_ns));
    }
    return results;
  }

  // Of the thread that delivers: says so before the next call, where it cannot come to that.
  void delivered() {
    if (undelivered_.empty()) return;
    const Unlocked unlocked;
    runtime_->recycle(undelivered_);
    undelivered_.clear();
  }

  bool wait_idle(double timeout_s) {
    const Unlocked unlocked;
    return runtime_->wait_idle(seconds(timeout_s));
  }

  void close(bool cancel_queued) {
    const Unlocked unlocked;
    runtime_->close(cancel_queued);
  }

  void apply(int variant, const std::vector<double>& frequency) {
    const Unlocked unlocked;
    runtime_->apply({variant, frequency});
  }

  nb::dict snapshot() {
    Snapshot snapshot;
    {
      const Unlocked unlocked;
      snapshot = runtime_->snapshot();
    }
    return snapshot_to_dict(snapshot);
  }

  void keep_segments(size_t count) {
    const Unlocked unlocked;
    runtime_->keep_segments(count);
  }

  nb::list segments() {
    std::vector<SegmentRun> runs;
    {
      const Unlocked unlocked;
      runs = runtime_->segments();
    }
    return segments_to_list(runs);
  }

  nb::list statistics() {
    nb::list list;
    for (const ModelStatistics& statistics : runtime_->statistics()) {
      list.append(statistics_to_dict(statistics));
    }
    return list;
  }

  // Worker, model, op and seconds.
  nb::list stuck_workers(double longer_than_s) {
    nb::list list;
    for (const StuckWorker& stuck : runtime_->stuck_workers(longer_than_s)) {
      list.append(nb::make_tuple(stuck.worker, stuck.model, stuck.op, stuck.since_s));
    }
    return list;
  }

  // See probe.h. Nothing else may wait for finished tasks.
  double measure_capacity(const std::vector<std::vector<InputArray>>& inputs, int outstanding,
                          double seconds) {
    if (inputs.size() != outputs_.size() || outstanding < 1 || !(seconds > 0)) {
      throw std::invalid_argument("A measurement needs inputs for every model, tasks and time.");
    }
    std::vector<std::vector<const void*>> pointers;
    for (size_t m = 0; m < inputs.size(); ++m) {
      pointers.push_back(check_inputs(static_cast<int>(m), inputs[m]));
    }
    const Unlocked unlocked;
    return top::measure_capacity(*runtime_, pointers, outstanding, seconds);
  }

  std::vector<double> time_lone_tasks(int model, const std::vector<InputArray>& inputs, int warmup,
                                      int repeats) {
    const std::vector<const void*> pointers = check_inputs(model, inputs);
    const Unlocked unlocked;
    return top::time_lone_tasks(*runtime_, model, pointers, warmup, repeats);
  }

  nb::list abandon() {
    nb::list clients;
    for (void* client : runtime_->abandon()) {
      clients.append(nb::steal(static_cast<PyObject*>(client)));
    }
    return clients;
  }

  bool forked() const {
    std::lock_guard<std::mutex> lock(fork_guard());
    return generation_ != fork_generation();
  }
  std::vector<double> busy_s() { return runtime_->busy_s(); }
  size_t in_flight() { return runtime_->in_flight(); }
  size_t memory_bytes() const { return runtime_->memory_bytes(); }

 private:
  struct Output {
    nb::dlpack::dtype dtype;
    std::vector<size_t> shape;
  };

  std::vector<const void*> check_inputs(int model, const std::vector<InputArray>& inputs) const {
    if (model < 0 || model >= static_cast<int>(outputs_.size())) {
      throw std::invalid_argument("There is no model " + std::to_string(model) + ".");
    }
    const std::vector<BoundaryTensor>& expected = runtime_->model(model).inputs;
    if (inputs.size() != expected.size()) {
      throw std::invalid_argument("The model has another number of inputs.");
    }
    std::vector<const void*> pointers;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (!is_contiguous(inputs[i]) || inputs[i].nbytes() != expected[i].nbytes) {
        throw std::invalid_argument("Input '" + expected[i].name + "' must be contiguous with " +
                                    std::to_string(expected[i].nbytes) + " bytes.");
      }
      pointers.push_back(inputs[i].data());
    }
    return pointers;
  }

  nb::object executors_;
  std::vector<std::vector<Output>> outputs_;  // per model
  std::unique_ptr<LiveRuntime> runtime_;
  std::vector<LiveTask*> undelivered_;  // of the thread that delivers
  uint64_t generation_ = 0;
};

}  // namespace

void bind_serving(nb::module_& m) {
  using ReleaseGil = nb::call_guard<nb::gil_scoped_release>;

  nb::class_<BoundRuntime>(m, "LiveRuntime")
      .def(nb::init<const SetFields&, const nb::list&, const std::vector<std::vector<TensorTuple>>&,
                    const std::vector<std::vector<TensorTuple>>&, int, size_t>(),
           nb::arg("variants"), nb::arg("executors"), nb::arg("inputs"), nb::arg("outputs"),
           nb::arg("streams"), nb::arg("queue_size"))
      .def("submit", &BoundRuntime::submit, nb::arg("model"), nb::arg("inputs"),
           nb::arg("priority"), nb::arg("deadline_us"), nb::arg("client"))
      .def("cancel", &BoundRuntime::cancel, nb::arg("slot"), nb::arg("generation"))
      .def("wait_finished", &BoundRuntime::wait_finished, nb::arg("timeout_s"))
      .def("delivered", &BoundRuntime::delivered)
      .def("wait_idle", &BoundRuntime::wait_idle, nb::arg("timeout_s"))
      .def("close", &BoundRuntime::close, nb::arg("cancel_queued"))
      .def("apply", &BoundRuntime::apply, nb::arg("variant"), nb::arg("frequency"))
      .def("snapshot", &BoundRuntime::snapshot)
      .def("statistics", &BoundRuntime::statistics)
      .def("keep_segments", &BoundRuntime::keep_segments, nb::arg("count"))
      .def("segments", &BoundRuntime::segments)
      .def("stuck_workers", &BoundRuntime::stuck_workers, nb::arg("longer_than_s"))
      .def("measure_capacity", &BoundRuntime::measure_capacity, nb::arg("inputs"),
           nb::arg("outstanding"), nb::arg("seconds"))
      .def("time_lone_tasks", &BoundRuntime::time_lone_tasks, nb::arg("model"), nb::arg("inputs"),
           nb::arg("warmup"), nb::arg("repeats"))
      .def("abandon", &BoundRuntime::abandon)
      .def_prop_ro("forked", &BoundRuntime::forked)
      .def("busy_s", &BoundRuntime::busy_s)
      .def_prop_ro("in_flight", &BoundRuntime::in_flight)
      .def_prop_ro("memory_bytes", &BoundRuntime::memory_bytes);

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
          "__init__",
          [](VirtualRuntime* self, const SetFields& variants, double wake_us, size_t queue_size) {
            new (self) VirtualRuntime(to_variants(variants), wake_us, queue_size);
          },
          nb::arg("variants"), nb::arg("wake_us"), nb::arg("queue_size"))
      .def("set_speed", &VirtualRuntime::set_speed, nb::arg("speed"))
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
      .def("run_until", &VirtualRuntime::run_until, nb::arg("time_us"),
           nb::arg("until_ended") = false, ReleaseGil())
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
      .def("keep_segments", &VirtualRuntime::keep_segments, nb::arg("count"))
      .def("segments", [](VirtualRuntime& self) { return segments_to_list(self.segments()); })
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
