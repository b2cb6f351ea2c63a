// The runtime on a virtual device: exact times.
#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include "runtime/serving/virtual_runtime.h"
#include "tests/cpp/check.h"

namespace {

using top::CallData;
using top::Device;
using top::OpCost;
using top::OpForm;
using top::PlanData;
using top::SimulatedPlan;
using top::SimulatedStreams;
using top::TaskRecord;
using top::TaskState;
using top::VariantSet;
using top::VirtualRuntime;

constexpr double kNone = std::numeric_limits<double>::infinity();
constexpr Device kDevice{2, 1, 2, 3, 5};  // streams; dispatch, wait, gang and run overheads

struct Op {
  int stream;
  int threads;
  double time_us;
  std::vector<int> waits;
  double bandwidth = 0;
};

SimulatedPlan make_plan(int streams, const std::vector<Op>& ops, const Device& device = kDevice) {
  PlanData plan{};
  plan.streams = streams;
  std::vector<OpCost> costs;
  std::vector<double> due_us;
  for (const Op& op : ops) {
    CallData call{};
    call.op = "op";
    call.stream = op.stream;
    call.threads = op.threads;
    call.waits = op.waits;
    plan.calls.push_back(call);
    const OpForm form{op.time_us, op.bandwidth, 0};
    costs.push_back({form, op.threads > 1 ? form : OpForm{kNone, 0, 0}});
    due_us.push_back(0);
  }
  return SimulatedPlan(plan, costs, due_us, device);
}

bool near(double a, double b) { return std::abs(a - b) < 1e-6; }

void test_one_plan() {
  // 1 + 10, then on the other stream 1 + 2 + 20, meanwhile 1 + 4 here; all together 1 + 3 + 7.
  const SimulatedPlan plan =
      make_plan(2, {{0, 1, 10, {}}, {1, 1, 20, {0}}, {0, 1, 4, {}}, {1, 2, 7, {}}});
  SimulatedStreams streams(2);
  streams.start(7, plan, 0, 0);
  CHECK(streams.run_until(33) == -1 && near(streams.now_us(), 33));
  CHECK(streams.run_until(kNone) == 7);
  CHECK(near(streams.now_us(), 11 + 23 + 11));
  CHECK(streams.run_until(100) == -1 && near(streams.now_us(), 100));
  CHECK(near(streams.busy_us(0), 11 + 5 + 11 + 18) && near(streams.busy_us(1), 23 + 11));
}

// While a plan waits for another stream, a younger one gets the stream; then the older goes on.
void test_interleaving() {
  const SimulatedPlan older = make_plan(2, {{0, 1, 9, {}}, {1, 1, 4, {0}}});
  const SimulatedPlan younger = make_plan(1, {{0, 1, 2, {}}, {0, 1, 6, {}}, {0, 1, 1, {}}});
  SimulatedStreams streams(2);
  streams.start(0, older, 0, 0);
  streams.start(1, younger, 1, 0);
  // Stream 1: younger's ops until 3 and 10, then older's, for which 10 is the time, until 17.
  CHECK(streams.run_until(kNone) == 0 && near(streams.now_us(), 17));
  CHECK(streams.run_until(kNone) == 1 && near(streams.now_us(), 19));
}

// Two ops that use three quarters of the bandwidth each take 1.5 times as long side by side.
void test_contention() {
  const SimulatedPlan plan = make_plan(1, {{0, 1, 10, {}, 0.75}});
  SimulatedStreams streams(2);
  streams.start(0, plan, 0, 0);
  streams.start(1, plan, 1, 0);
  CHECK(streams.run_until(kNone) >= 0 && near(streams.now_us(), 1 + 15));
}

// Gang calls of several plans, started in one order and ready in another, never block each other.
void test_gangs() {
  const SimulatedPlan late = make_plan(2, {{0, 1, 50, {}}, {0, 2, 5, {}}});
  const SimulatedPlan early = make_plan(2, {{1, 2, 5, {}}, {0, 1, 1, {}}});
  SimulatedStreams streams(2);
  streams.start(0, late, 0, 0);
  streams.start(1, early, 0, 0);
  // The first gang call is that of the plan that was started first, although the other is ready.
  CHECK(streams.run_until(kNone) == 0 && near(streams.now_us(), 51 + 9));
  CHECK(streams.run_until(kNone) == 1 && near(streams.now_us(), 60 + 9 + 2));
}

VariantSet two_lanes() {
  VariantSet set{{"m"}, {{1}}, {}};
  top::ModelVariant lone{1, {top::Lane{0, {{0}}}}, {100}, {100}};
  top::ModelVariant free{1, {top::Lane{0, {{1}}}, top::Lane{1, {{1}}}}, {100}, {50}};
  set.variants.push_back({"serial", 1, false, 100, {lone}});
  set.variants.push_back({"free", 2, false, 100, {free}});
  return set;
}

void test_tasks() {
  std::vector<std::vector<SimulatedPlan>> plans(1);
  plans[0].push_back(make_plan(2, {{0, 2, 40, {}}}));
  plans[0].push_back(make_plan(1, {{0, 1, 70, {}}}));
  VirtualRuntime runtime(two_lanes(), plans, kDevice, 2);
  runtime.apply({1, {kNone}});
  // The first is alone: 5 to wake the device, 1 + 3 + 40. Then two side by side, 1 + 70 each; the
  // last two of six do not fit the queue.
  runtime.add_arrivals({{10, 0, 0, kNone},
                        {10, 0, 0, kNone},
                        {12, 0, 0, kNone},
                        {13, 0, 0, kNone},
                        {14, 0, 0, kNone},
                        {15, 0, 0, kNone}});
  runtime.run_until(11);
  CHECK(near(runtime.now_us(), 11) && runtime.scheduler().in_flight() == 2);
  runtime.drain();
  std::vector<TaskRecord> records = runtime.take_records();
  CHECK(records.size() == 6);
  int completed = 0, rejected = 0;
  for (const TaskRecord& record : records) {
    completed += record.end == TaskState::kCompleted ? 1 : 0;
    rejected += record.end == TaskState::kRejected ? 1 : 0;
    if (record.id == 0) CHECK(near(record.finished_us, 10 + 5 + 44));
  }
  CHECK(completed == 4 && rejected == 2);
  CHECK_THROWS(runtime.add_arrivals({{1, 0, 0, kNone}}), std::invalid_argument, "ascend");
  CHECK_THROWS(runtime.add_arrivals({{1e9, 1, 0, kNone}}), std::invalid_argument, "no valid");
  CHECK_THROWS(VirtualRuntime(two_lanes(), {{plans[0][0]}}, kDevice, 2), std::invalid_argument,
               "'free', model 'm' has a plan");
}

// Random plans on random streams all come to an end, whatever gangs and waits they have.
void test_random(unsigned seed) {
  std::mt19937 random(seed);
  const auto below = [&](int n) { return static_cast<int>(random() % n); };
  const int streams = 1 + below(5);
  const Device device{streams, 0.1, 0.5, 1, 2};
  std::vector<SimulatedPlan> plans;
  for (int i = 0; i < 6; ++i) {
    const int width = 1 + below(streams);
    std::vector<Op> ops;
    for (int op = 0; op < 1 + below(12); ++op) {
      Op next{below(width), width > 1 && below(4) == 0 ? width : 1, 1.0 + below(20), {}};
      for (int other = 0; other < op; ++other) {
        if (next.threads == 1 && below(5) == 0) next.waits.push_back(other);
      }
      next.bandwidth = 0.1 * below(10);
      ops.push_back(next);
    }
    plans.push_back(make_plan(width, ops, device));
  }
  SimulatedStreams simulated(streams);
  int started = 0, finished = 0;
  for (; started < 100; ++started) {
    const SimulatedPlan& plan = plans[below(6)];
    simulated.start(started, plan, below(streams - plan.streams() + 1), below(3));
    for (const double until_us = simulated.now_us() + below(30);;) {
      if (simulated.run_until(until_us) < 0) break;
      ++finished;
    }
  }
  while (simulated.run_until(kNone) >= 0) ++finished;
  CHECK(finished == started);
}

}  // namespace

// Instances take what was measured of their variants, and share the device.
void test_segments() {
  VirtualRuntime runtime(two_lanes(), 5, 8);  // microseconds to wake up
  runtime.apply({1, {kNone}});
  runtime.add_arrivals({{10, 0, 0, kNone}});
  CHECK(near(runtime.drain(), 10 + 5 + 100));
  // The first is alone again, and needs the whole device; the others half of it each.
  runtime.add_arrivals(
      {{200, 0, 0, kNone}, {200, 0, 0, kNone}, {200, 0, 0, kNone}, {200, 0, 0, kNone}});
  runtime.drain();
  runtime.set_speed(0.5);
  runtime.add_arrivals({{1000, 0, 0, kNone}});
  CHECK(near(runtime.drain(), 1000 + 2 * 105));
  const double ends[] = {115, 350, 357.5, 452.5, 457.5, 1210};
  const std::vector<TaskRecord> records = runtime.take_records();
  CHECK(records.size() == 6);
  for (size_t i = 0; i < records.size(); ++i) {
    CHECK(records[i].end == TaskState::kCompleted);
    CHECK(std::abs(records[i].finished_us - ends[i]) < 2e-3);  // clocks count nanoseconds
  }
  CHECK(near(runtime.busy_us(0), 105 + 252.5 + 5 / 2.0 + 210));
  CHECK_THROWS(runtime.set_speed(0), std::invalid_argument, "positive speed");
}

int main() {
  test_one_plan();
  test_interleaving();
  test_contention();
  test_gangs();
  test_tasks();
  test_segments();
  for (unsigned seed = 0; seed < 300; ++seed) test_random(seed);
  return top::testing::result("virtual_runtime");
}
