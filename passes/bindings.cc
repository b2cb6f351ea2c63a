// Python face of the schedule, the simulator and the partitioners. Everything here releases the GIL
// while it computes. Errors are std::invalid_argument, that is ValueError in Python.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <tuple>
#include <utility>

#include "passes/beam.h"
#include "passes/partition.h"
#include "passes/policy.h"
#include "passes/priority_search.h"
#include "passes/staged_search.h"
#include "passes/stages.h"
#include "runtime/schedule.h"
#include "runtime/simulator.h"

namespace nb = nanobind;

namespace top {

namespace {

using Edges = std::vector<std::pair<int, int>>;
// op, stage, group, stream, threads: the fields of Placement in Python's Placement's order.
using PlacementFields = std::tuple<int, int, int, int, int>;
// single_us, gang_us, single_bandwidth, gang_bandwidth, single_compute, gang_compute
using CostFields = std::array<double, 6>;
// dispatch_us, wait_us, gang_us, run_us
using OverheadFields = std::array<double, 4>;

Schedule to_schedule(const std::vector<PlacementFields>& placements) {
  Schedule schedule;
  schedule.reserve(placements.size());
  for (const auto& [op, stage, group, stream, threads] : placements) {
    schedule.push_back({op, stage, group, stream, threads});
  }
  return schedule;
}

std::vector<PlacementFields> from_schedule(const Schedule& schedule) {
  std::vector<PlacementFields> placements;
  placements.reserve(schedule.size());
  for (const Placement& p : schedule) {
    placements.emplace_back(p.op, p.stage, p.group, p.stream, p.threads);
  }
  return placements;
}

Problem make_problem(int num_ops, const Edges& edges, const std::vector<CostFields>& costs,
                     int streams, const OverheadFields& overheads,
                     const std::vector<std::string>& names) {
  Problem problem{make_graph(num_ops, edges),
                  {},
                  Device{streams, overheads[0], overheads[1], overheads[2], overheads[3]},
                  names};
  for (const CostFields& c : costs) {
    problem.costs.push_back({OpForm{c[0], c[2], c[4]}, OpForm{c[1], c[3], c[5]}});
  }
  validate_problem(problem);
  return problem;
}

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename Array>
std::vector<float> to_vector(const Array& array) {
  return std::vector<float>(array.data(), array.data() + array.size());
}

Policy make_policy(const Matrix& embedding, const Matrix& dynamic, const Vector& out,
                   const Vector& skip) {
  return Policy{static_cast<int>(out.size()), to_vector(embedding), to_vector(dynamic),
                to_vector(out), to_vector(skip)};
}

// A NumPy array that owns the numbers.
template <typename T>
nb::object to_numpy(std::vector<T>&& values) {
  auto* kept = new std::vector<T>(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T>(kept->data(), {kept->size()}, owner));
}

nb::tuple from_trajectory(Trajectory&& trajectory) {
  return nb::make_tuple(trajectory.makespan_us, to_numpy(std::move(trajectory.op)),
                        to_numpy(std::move(trajectory.features)),
                        to_numpy(std::move(trajectory.begin)),
                        to_numpy(std::move(trajectory.chosen)));
}

// Schedules drawn from a policy, the first by the best score, and the best of them.
std::pair<double, Schedule> decode_best(const Problem& problem, const Policy& policy, int samples,
                                        double temperature, uint64_t seed) {
  Decoder decoder(problem, policy);
  Schedule best = decoder.decode(0, 0);
  double best_us = decoder.makespan_us();
  for (int sample = 1; sample < samples; ++sample) {
    const Schedule& schedule = decoder.decode(temperature, seed + sample);
    const double makespan_us = decoder.makespan_us();
    if (makespan_us < best_us) {
      best_us = makespan_us;
      best = schedule;
    }
  }
  assign_stages(problem.graph, problem.device.streams, &best);
  return {best_us, std::move(best)};
}

// Checks everything that the simulator and the plan rely on.
Schedule to_valid_schedule(const Problem& problem, const std::vector<PlacementFields>& placements) {
  Schedule schedule = to_schedule(placements);
  validate_schedule(problem.graph, schedule, problem.device.streams, problem.names);
  check_forms(problem, schedule);
  return schedule;
}

}  // namespace

void bind_partition(nb::module_& m) {
  using ReleaseGil = nb::call_guard<nb::gil_scoped_release>;

  m.def(
      "derive_waits",
      [](int num_ops, const Edges& edges, const std::vector<PlacementFields>& placements,
         int streams) {
        return derive_waits(make_graph(num_ops, edges), to_schedule(placements), streams);
      },
      nb::arg("num_ops"), nb::arg("edges"), nb::arg("placements"), nb::arg("streams"), ReleaseGil(),
      "Positions in the schedule for which each call must wait, latest first.");

  nb::class_<Problem>(m, "Problem", "A graph with its costs and device, checked once.")
      .def(
          "__init__",
          [](Problem* self, int num_ops, const Edges& edges, const std::vector<CostFields>& costs,
             int streams, const OverheadFields& overheads, const std::vector<std::string>& names) {
            new (self) Problem(make_problem(num_ops, edges, costs, streams, overheads, names));
          },
          nb::arg("num_ops"), nb::arg("edges"), nb::arg("costs"), nb::arg("streams"),
          nb::arg("overheads"), nb::arg("names"))
      .def(
          "validate_schedule",
          [](const Problem& problem, const std::vector<PlacementFields>& placements) {
            to_valid_schedule(problem, placements);
          },
          nb::arg("placements"), ReleaseGil())
      .def(
          "assign_stages",
          [](const Problem& problem, const std::vector<PlacementFields>& placements) {
            Schedule schedule = to_schedule(placements);
            assign_stages(problem.graph, problem.device.streams, &schedule);
            return from_schedule(schedule);
          },
          nb::arg("placements"), ReleaseGil())
      .def(
          "simulate",
          [](const Problem& problem, const std::vector<PlacementFields>& placements) {
            Simulation result = simulate(problem, to_schedule(placements));
            return std::make_tuple(result.makespan_us, std::move(result.start_us),
                                   std::move(result.end_us));
          },
          nb::arg("placements"), ReleaseGil(), "Makespan, and start and end per op.")
      .def(
          "staged_objective",
          [](const Problem& problem, const std::vector<PlacementFields>& placements) {
            return staged_objective(problem, to_valid_schedule(problem, placements));
          },
          nb::arg("placements"), ReleaseGil())
      .def(
          "sequential",
          [](const Problem& problem) { return from_schedule(partition_sequential(problem)); },
          ReleaseGil())
      .def(
          "greedy", [](const Problem& problem) { return from_schedule(partition_greedy(problem)); },
          ReleaseGil())
      .def(
          "list_schedule",
          [](const Problem& problem) { return from_schedule(partition_list(problem)); },
          ReleaseGil())
      .def(
          "ios",
          [](const Problem& problem, int max_group_ops, int max_groups, int64_t max_stages) {
            return from_schedule(
                partition_ios(problem, IosLimits{max_group_ops, max_groups, max_stages}));
          },
          nb::arg("max_group_ops"), nb::arg("max_groups"), nb::arg("max_stages"), ReleaseGil(),
          "Limits of 0 mean none.")
      .def(
          "beam",
          [](const Problem& problem, int width, int candidates, double max_ms) {
            return from_schedule(partition_beam(problem, BeamLimits{width, candidates, max_ms}));
          },
          nb::arg("width"), nb::arg("candidates"), nb::arg("max_ms") = 1e9, ReleaseGil(),
          "Beam search: a baseline for comparisons.")
      .def(
          "improve",
          [](const Problem& problem, const std::vector<PlacementFields>& placements, double max_ms,
             int64_t max_schedules, double temperature, uint64_t seed, bool waits) {
            const SearchLimits limits{max_ms, max_schedules, temperature, seed, waits};
            return from_schedule(improve(problem, to_valid_schedule(problem, placements), limits));
          },
          nb::arg("placements"), nb::arg("max_ms"), nb::arg("max_schedules"),
          nb::arg("temperature"), nb::arg("seed"), nb::arg("waits") = false, ReleaseGil(),
          "Local search over priorities; no limit of schedules if it is 0.")
      .def(
          "decode",
          [](const Problem& problem, const Matrix& embedding, const Matrix& dynamic,
             const Vector& out, const Vector& skip, int samples, double temperature,
             uint64_t seed) {
            const Policy policy = make_policy(embedding, dynamic, out, skip);
            std::pair<double, Schedule> best;
            {
              nb::gil_scoped_release release;
              best = decode_best(problem, policy, samples, temperature, seed);
            }
            return std::make_tuple(best.first, from_schedule(best.second));
          },
          nb::arg("embedding"), nb::arg("dynamic"), nb::arg("out"), nb::arg("skip"),
          nb::arg("samples"), nb::arg("temperature"), nb::arg("seed"),
          "Predicted time and placements of the best of some schedules drawn from a policy.")
      .def(
          "sample",
          [](const Problem& problem, const Matrix& embedding, const Matrix& dynamic,
             const Vector& out, const Vector& skip, double temperature, uint64_t seed) {
            const Policy policy = make_policy(embedding, dynamic, out, skip);
            Trajectory trajectory;
            Decoder(problem, policy).decode(temperature, seed, &trajectory);
            return from_trajectory(std::move(trajectory));
          },
          nb::arg("embedding"), nb::arg("dynamic"), nb::arg("out"), nb::arg("skip"),
          nb::arg("temperature"), nb::arg("seed"),
          "Makespan, and op, features, begin and chosen of every choice.")
      .def(
          "follow",
          [](const Problem& problem, const std::vector<PlacementFields>& placements) {
            Policy policy;
            policy.skip.assign(kNumFeatures, 0.0f);
            Trajectory trajectory;
            Decoder(problem, policy).follow(to_valid_schedule(problem, placements), &trajectory);
            return from_trajectory(std::move(trajectory));
          },
          nb::arg("placements"), "As sample, for the choices that make a schedule's order.")
      .def(
          "cut_stages",
          [](const Problem& problem, const std::vector<int>& order) {
            return from_schedule(cut_stages(problem, order));
          },
          nb::arg("order"), ReleaseGil())
      .def(
          "improve_stages",
          [](const Problem& problem, const std::vector<std::vector<int>>& orders, double max_ms,
             int64_t max_schedules, double temperature, uint64_t seed) {
            return from_schedule(improve_stages(
                problem, orders, SearchLimits{max_ms, max_schedules, temperature, seed}));
          },
          nb::arg("orders"), nb::arg("max_ms"), nb::arg("max_schedules"), nb::arg("temperature"),
          nb::arg("seed"), ReleaseGil(),
          "Local search over orders; no limit of orders tried if max_schedules is 0.");
}

}  // namespace top
