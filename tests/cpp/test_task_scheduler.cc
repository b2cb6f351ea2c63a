// Queues, launcher and scheduler, with a clock and a device that are numbers in the test.
#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <map>
#include <random>
#include <stdexcept>
#include <vector>

#include "runtime/serving/task_scheduler.h"
#include "tests/cpp/check.h"

namespace {

using top::Decision;
using top::Instance;
using top::Lane;
using top::ModelVariant;
using top::Nanoseconds;
using top::Task;
using top::TaskQueue;
using top::TaskScheduler;
using top::TaskState;
using top::Variant;
using top::VariantSet;

constexpr double kUnlimited = std::numeric_limits<double>::infinity();

// Times are 100 us for a batch of one and 150 us for more, whatever the variant.
ModelVariant model_variant(int lanes, int segments, int batch_sizes) {
  ModelVariant model;
  model.segments = segments;
  const std::vector<std::vector<int>> plans(batch_sizes, std::vector<int>(segments, 0));
  model.lanes.assign(lanes, Lane{0, plans});
  for (int b = 0; b < batch_sizes; ++b) {
    model.latency_us.push_back(b == 0 ? 100 : 150);
    model.work_us.push_back(b == 0 ? 100 : 150);
  }
  return model;
}

// Variants "serial", "merged" and "free" for so many models, each with batch sizes 1 and 4.
VariantSet variant_set(int models) {
  VariantSet set;
  for (int m = 0; m < models; ++m) {
    set.models.push_back("m" + std::to_string(m));
    set.batch_sizes.push_back({1, 4});
  }
  const auto add = [&](const char* id, int in_flight, int lanes, int segments, int batch_sizes) {
    Variant variant{id, in_flight, false, 100, {}};
    variant.models.assign(models, model_variant(lanes, segments, batch_sizes));
    set.variants.push_back(variant);
  };
  add("serial", 1, 1, 1, 1);
  add("merged", 0, 2, 3, 1);
  add("free", 2, 2, 1, 2);
  return set;
}

Task make_task(int model, int priority = 0, Nanoseconds deadline_ns = top::kNever) {
  Task task;
  task.model = model;
  task.priority = priority;
  task.deadline_ns = deadline_ns;
  return task;
}

std::vector<Instance*> pump(TaskScheduler& scheduler, Nanoseconds now) {
  std::vector<Instance*> starts;
  scheduler.pump(now, &starts);
  return starts;
}

void set_variant(TaskScheduler& scheduler, int variant, Nanoseconds now = 0) {
  const std::vector<double> unlimited(scheduler.variants().models.size(), kUnlimited);
  scheduler.apply({variant, unlimited}, now);
}

void test_queue() {
  TaskQueue queue(5);
  Task low = make_task(0, 0), high = make_task(0, 3), later = make_task(0, 3);
  Task last = make_task(0, 0), middle = make_task(0, 1);
  for (Task* task : {&low, &high, &last, &later, &middle}) queue.push(task);
  CHECK(queue.full() && queue.size() == 5);
  CHECK(queue.front() == &high && queue.second() == &later);
  CHECK(queue.ahead_of(7) == 0 && queue.ahead_of(2) == 2 && queue.ahead_of(0) == 5);
  queue.remove(&low);  // from within
  for (Task* expected : {&high, &later, &middle, &last}) {
    CHECK(queue.front() == expected);
    queue.remove(expected);
  }
  CHECK(queue.front() == nullptr && queue.size() == 0);
}

void test_bad_variants() {
  VariantSet set = variant_set(2);
  set.variants[1].models.pop_back();
  CHECK_THROWS(TaskScheduler(set, 4), std::invalid_argument, "'merged' does not have every model");
  set = variant_set(2);
  set.variants[2].models[1].work_us[0] = 0;
  CHECK_THROWS(TaskScheduler(set, 4), std::invalid_argument, "'free', model 'm1' has times");
  set = variant_set(1);
  set.variants[1].models[0].lanes[1].plans[0].pop_back();
  CHECK_THROWS(TaskScheduler(set, 4), std::invalid_argument, "lacks a segment");
  TaskScheduler scheduler(variant_set(1), 4);
  CHECK_THROWS(scheduler.apply({3, {1.0}}, 0), std::invalid_argument, "no variant 3");
  CHECK_THROWS(scheduler.apply({0, {0.0}}, 0), std::invalid_argument, "must be positive");
  CHECK_THROWS(scheduler.apply({0, {}}, 0), std::invalid_argument, "for every model");
}

// A task that is alone gets variant 0 at once, whatever the current one.
void test_lone_task() {
  TaskScheduler scheduler(variant_set(1), 8);
  set_variant(scheduler, 1);
  Task lone = make_task(0), next = make_task(0), after = make_task(0);
  CHECK(scheduler.submit(&lone, 5) == TaskState::kQueued);
  std::vector<Instance*> starts = pump(scheduler, 5);
  CHECK(starts.size() == 1 && starts[0]->variant == 0 && starts[0]->tasks[0] == &lone);
  CHECK(lone.state == TaskState::kRunning && lone.launched_ns == 5);
  // The others do not wait for it, and go through the segments of the current variant.
  scheduler.submit(&next, 6);
  scheduler.submit(&after, 6);
  std::vector<Instance*> more = pump(scheduler, 6);
  CHECK(more.size() == 2 && more[0]->variant == 1 && more[0]->lane != more[1]->lane);
  scheduler.segment_finished(starts[0], false, 20);
  CHECK(lone.state == TaskState::kCompleted && lone.finished_ns == 20);
  for (int segment = 1; segment <= 3; ++segment) {
    scheduler.segment_finished(more[0], false, 30 * segment);
    starts = pump(scheduler, 30 * segment);
    CHECK(starts.size() == (segment < 3 ? 1u : 0u));
  }
  CHECK(next.state == TaskState::kCompleted && after.state == TaskState::kRunning);
  std::vector<Task*> finished;
  scheduler.take_finished(&finished);
  CHECK((finished == std::vector<Task*>{&lone, &next}));
}

// Batches are formed where they take less time per task, and only with as many as wait.
void test_batches() {
  TaskScheduler scheduler(variant_set(1), 16);
  set_variant(scheduler, 2);
  std::deque<Task> tasks(8, make_task(0));
  for (Task& task : tasks) scheduler.submit(&task, 0);
  std::vector<Instance*> starts = pump(scheduler, 0);
  CHECK(starts.size() == 2);  // the limit in flight
  CHECK(starts[0]->batch == 1 && starts[0]->tasks.size() == 4 && starts[0]->tasks[0] == &tasks[0]);
  CHECK(starts[1]->tasks[3] == &tasks[7]);
  // Three tasks take 3 x 100 us by themselves, 150 us together.
  for (Instance* instance : starts) scheduler.segment_finished(instance, false, 10);
  std::deque<Task> more(3, make_task(0));
  for (Task& task : more) scheduler.submit(&task, 20);
  starts = pump(scheduler, 20);
  CHECK(starts.size() == 1 && starts[0]->batch == 1 && starts[0]->tasks.size() == 3);
  // One of a batch is cancelled: the rest keep their places, it ends when the segment does.
  scheduler.cancel(&more[1], 21);
  CHECK(more[1].state == TaskState::kRunning);
  scheduler.segment_finished(starts[0], false, 30);
  CHECK(more[0].state == TaskState::kCompleted && more[2].state == TaskState::kCompleted);
}

void test_refusals() {
  TaskScheduler scheduler(variant_set(1), 2);
  Task a = make_task(0), b = make_task(0), c = make_task(0);
  CHECK(scheduler.submit(&a, 0) == TaskState::kQueued);
  CHECK(scheduler.submit(&b, 0) == TaskState::kQueued);
  CHECK(scheduler.submit(&c, 0) == TaskState::kRejected);
  std::vector<Instance*> starts = pump(scheduler, 0);  // one: variant 0
  CHECK(starts.size() == 1);
  // One runs and one waits, 100 us each: a third takes until 300 us.
  Task hopeless = make_task(0, 0, 299'000), possible = make_task(0, 0, 301'000);
  CHECK(scheduler.submit(&hopeless, 0) == TaskState::kExpired);
  CHECK(scheduler.submit(&possible, 0) == TaskState::kQueued);
  // The device is slower than that, and at 250 us its turn comes too late.
  scheduler.segment_finished(starts[0], false, 120'000);
  starts = pump(scheduler, 120'000);
  CHECK(starts.size() == 1 && starts[0]->tasks[0] == &b);
  scheduler.segment_finished(starts[0], false, 250'000);
  CHECK(pump(scheduler, 250'000).empty());
  CHECK(possible.state == TaskState::kExpired);
  const top::ModelStatistics& counts = scheduler.statistics(0);
  CHECK(counts.submitted == 5 && counts.completed == 2 && counts.rejected == 1);
  CHECK(counts.expired == 2 && scheduler.in_flight() == 0);
}

// What was observed counts until it is old.
void test_forecast() {
  constexpr Nanoseconds second = 1'000'000'000;
  top::Forecast forecast(2, 2);
  CHECK(forecast.pace(0, 5) == 1 && forecast.margin_us(0, 5) == 0);
  for (int i = 0; i < 200; ++i) {
    forecast.observe_pace(1, 3, 10);
    forecast.observe_error(0, i % 2 == 0 ? 20 : 60, 10);
    forecast.observe_error(1, -20, 10);
  }
  CHECK(std::abs(forecast.pace(1, 20 * second) - 3) < 0.01);
  CHECK(forecast.pace(1, 200 * second) < 1.01 && forecast.pace(0, 10) == 1);
  // 40 in the mean, and 20 more or less.
  CHECK(std::abs(forecast.margin_us(0, 2 * second) - 80) < 5);
  CHECK(forecast.margin_us(0, 40 * second) < 1 && forecast.margin_us(1, 10) == 0);
  forecast.observe_pace(1, 1e9, 10);
  CHECK(forecast.pace(1, 10) < 4);
}

// A task that is predicted to take 100 us takes these, and another waits meanwhile.
void run_slowly(TaskScheduler& scheduler, std::deque<Task>& tasks, double times, Nanoseconds* now) {
  for (int i = 0; i < 100; ++i) {
    tasks.push_back(make_task(0));
    scheduler.submit(&tasks.back(), *now);
    std::vector<Instance*> starts = pump(scheduler, *now);
    tasks.push_back(make_task(0));
    scheduler.submit(&tasks.back(), *now);
    tasks.push_back(make_task(0));
    scheduler.submit(&tasks.back(), *now);
    while (!starts.empty()) {
      *now += static_cast<Nanoseconds>(1e5 * times);
      scheduler.segment_finished(starts[0], false, *now);
      starts = pump(scheduler, *now);
    }
  }
}

// A device that was slow refuses tasks; those that find it idle tell when it is fast again.
void test_recovery() {
  TaskScheduler scheduler(variant_set(1), 8);
  std::deque<Task> tasks;
  Nanoseconds now = 0;
  run_slowly(scheduler, tasks, 5, &now);
  CHECK(scheduler.snapshot(now).pace[0] > 4);
  const auto behind_another = [&] {  // is a task accepted that is given 300 us, and needs 200?
    tasks.push_back(make_task(0));
    scheduler.submit(&tasks.back(), now);
    std::vector<Instance*> starts = pump(scheduler, now);
    Task next = make_task(0, 0, now + 300'000);
    const bool accepted = scheduler.submit(&next, now) == TaskState::kQueued;
    scheduler.cancel(&next, now);
    now += 100'000;
    scheduler.segment_finished(starts[0], false, now);
    return accepted;
  };
  CHECK(!behind_another());
  Task alone = make_task(0, 0, now + 150'000);
  CHECK(scheduler.submit(&alone, now) == TaskState::kQueued);
  std::vector<Instance*> starts = pump(scheduler, now);
  CHECK(starts.size() == 1 && alone.state == TaskState::kRunning);
  scheduler.segment_finished(starts[0], false, now + 100'000);
  for (int i = 0; i < 60; ++i) behind_another();
  CHECK(behind_another());
  CHECK(scheduler.snapshot(now).pace[0] < 1.5);
}

// Tasks that are delivered later than predicted: one that may be late is given up for another that
// will not be, and only for that.
void test_margin() {
  TaskScheduler scheduler(variant_set(1), 8);
  std::deque<Task> tasks;
  Nanoseconds now = 0;
  // Behind another one that takes 100 us, and before a third.
  const auto completes = [&](Nanoseconds given, Nanoseconds given_next) {
    const size_t first = tasks.size();
    tasks.push_back(make_task(0));
    tasks.push_back(make_task(0, 0, now + given));
    tasks.push_back(make_task(0, 0, given_next == top::kNever ? top::kNever : now + given_next));
    std::vector<Instance*> starts;
    for (size_t i = first; i < tasks.size(); ++i) {
      scheduler.submit(&tasks[i], now);
      if (i == first) starts = pump(scheduler, now);
    }
    for (; !starts.empty(); starts = pump(scheduler, now)) {
      now += 100'000;
      Task* ended = starts[0]->tasks[0];
      scheduler.segment_finished(starts[0], false, now);
      scheduler.delivered(*ended, now + 50'000);
    }
    return tasks[first + 1].state == TaskState::kCompleted;
  };
  CHECK(completes(240'000, 1'000'000));  // little is known yet
  for (int i = 0; i < 100; ++i) CHECK(completes(1'000'000, 1'000'000));
  CHECK(!completes(240'000, 1'000'000));
  CHECK(completes(270'000, 1'000'000));    // for sure
  CHECK(completes(240'000, 245'000));      // the third cannot be in time either
  CHECK(completes(240'000, top::kNever));  // it has time
}

// Earliest deadline first across models, priority before that, and nobody waits for ever.
void test_turns() {
  TaskScheduler scheduler(variant_set(2), 8);
  Task running = make_task(0);
  scheduler.submit(&running, 0);
  std::vector<Instance*> starts = pump(scheduler, 0);
  const Nanoseconds ms = 1'000'000;
  Task relaxed = make_task(0, 0, 50 * ms), urgent = make_task(1, 0, 20 * ms);
  Task important = make_task(0, 1), patient = make_task(1);
  for (Task* task : {&patient, &relaxed, &urgent, &important}) scheduler.submit(task, 0);
  // Within model 1 the first come is served first, although another is more urgent.
  std::vector<Task*> order;
  while (!starts.empty()) {
    scheduler.segment_finished(starts[0], false, 1000);
    starts = pump(scheduler, 1000);
    if (!starts.empty()) order.push_back(starts[0]->tasks[0]);
  }
  CHECK((order == std::vector<Task*>{&important, &relaxed, &patient, &urgent}));

  // An old task of no importance beats a stream of new ones of the highest class in the end.
  Task old = make_task(0, 0);
  std::deque<Task> stream;
  scheduler.submit(&old, 0);
  Nanoseconds now = 0;
  int before = 0;
  while (old.state == TaskState::kQueued && before < 100'000) {
    stream.push_back(make_task(1, top::kPriorities - 1));
    scheduler.submit(&stream.back(), now);
    for (Instance* instance : pump(scheduler, now)) {
      now += 100'000;
      scheduler.segment_finished(instance, false, now);
    }
    ++before;
  }
  CHECK(old.state == TaskState::kCompleted && before > 4);
}

// A model that floods its queue gets no more than the other's share while that has work.
void test_fair_shares() {
  TaskScheduler scheduler(variant_set(2), 4096);
  std::deque<Task> flood(4000, make_task(0, 0, 10'000'000'000)), few;
  for (Task& task : flood) scheduler.submit(&task, 0);
  std::map<int, int> launched;
  Nanoseconds now = 0;
  for (int i = 0; i < 400; ++i) {
    // Two of the other model at any time, with deadlines far behind those of the flood.
    while (static_cast<int>(few.size()) < launched[1] + 2) {
      few.push_back(make_task(1));
      scheduler.submit(&few.back(), now);
    }
    for (Instance* instance : pump(scheduler, now)) {
      ++launched[instance->model];
      now += 100'000;
      scheduler.segment_finished(instance, false, now);
    }
  }
  CHECK(std::abs(launched[0] - launched[1]) <= 10);
}

void test_dequeue_frequency() {
  TaskScheduler scheduler(variant_set(1), 64);
  scheduler.apply({1, {0.5}}, 0);  // half a task per period of 100 us
  std::deque<Task> tasks(40, make_task(0));
  for (Task& task : tasks) scheduler.submit(&task, 0);
  std::vector<Instance*> flying;
  int launched = 0;
  for (Nanoseconds now = 0; now < 2'000'000; now += 10'000) {
    for (Instance* instance : pump(scheduler, now)) {
      launched += instance->segment == 0 ? 1 : 0;
      flying.push_back(instance);
    }
    // Segments take 100 us; one instance is always in flight, so that the device is never idle.
    if (now % 100'000 == 0 && !flying.empty()) {
      scheduler.segment_finished(flying.front(), false, now);
      flying.erase(flying.begin());
    }
  }
  CHECK(launched >= 9 && launched <= 12);  // 2 ms are 20 periods
}

// Random tasks, deadlines, cancellations, failures and switches on a device of random speed: every
// task ends exactly once, and no rule about lanes and order is ever broken.
void test_random(unsigned seed) {
  std::mt19937 random(seed);
  const auto below = [&](int n) { return static_cast<int>(random() % n); };
  const int models = 1 + below(3);
  VariantSet set = variant_set(models);
  set.variants[1].barrier = below(2) == 0;
  TaskScheduler scheduler(set, 1 + below(20));
  std::deque<Task> tasks;
  std::map<const Task*, int> ends;
  std::vector<Instance*> flying;
  std::map<std::pair<int, int>, const Task*> last_started;  // by model and class
  int64_t refused = 0, accepted = 0;
  Nanoseconds now = 0;
  const auto collect = [&] {
    std::vector<Task*> finished;
    scheduler.take_finished(&finished);
    for (const Task* task : finished) {
      CHECK(top::is_final(task->state));
      ++ends[task];
    }
  };
  const auto start = [&] {
    for (Instance* instance : pump(scheduler, now)) {
      for (const Instance* other : flying) {
        CHECK(other != instance);
        CHECK(other->variant != instance->variant || other->model != instance->model ||
              other->segment != instance->segment || other->lane != instance->lane);
      }
      flying.push_back(instance);
      if (instance->segment > 0) continue;
      for (const Task* task : instance->tasks) {
        const Task*& last = last_started[{task->model, task->priority}];
        CHECK(last == nullptr || last->submitted_ns <= task->submitted_ns);
        last = task;
      }
    }
    collect();
  };
  for (int step = 0; step < 3000; ++step) {
    now += below(50'000);
    const int what = below(10);
    if (what < 5) {
      const Nanoseconds deadline = below(2) == 0 ? top::kNever : now + 100'000 + below(2'000'000);
      tasks.push_back(make_task(below(models), below(3), deadline));
      if (scheduler.submit(&tasks.back(), now) == TaskState::kQueued) {
        ++accepted;
      } else {
        ++refused;
      }
    } else if (what < 8 && !flying.empty()) {
      const int which = below(static_cast<int>(flying.size()));
      Instance* instance = flying[which];
      flying.erase(flying.begin() + which);
      scheduler.segment_finished(instance, below(20) == 0, now);
    } else if (what == 8 && !tasks.empty()) {
      Task& task = tasks[below(static_cast<int>(tasks.size()))];
      scheduler.cancel(&task, now);  // does nothing for those that have ended
    } else {
      const double frequency = below(2) == 0 ? kUnlimited : 0.1 + below(3);
      scheduler.apply({below(3), std::vector<double>(models, frequency)}, now);
    }
    start();
  }
  while (!flying.empty()) {
    now += 10'000;
    scheduler.segment_finished(flying.back(), false, now);
    flying.pop_back();
    start();
  }
  CHECK(scheduler.queued() == 0 && scheduler.in_flight() == 0);
  CHECK(static_cast<int64_t>(std::count_if(ends.begin(), ends.end(), [](const auto& end) {
          return end.second == 1;
        })) == accepted);
  uint64_t submitted = 0, ended = 0;
  for (int m = 0; m < models; ++m) {
    const top::ModelStatistics& s = scheduler.statistics(m);
    submitted += s.submitted;
    ended += s.completed + s.rejected + s.expired + s.cancelled + s.failed;
  }
  CHECK(submitted == tasks.size() && ended == submitted);
  CHECK(static_cast<uint64_t>(refused + accepted) == submitted);
}

void test_statistics() {
  top::Histogram histogram;
  CHECK(histogram.quantile_us(0.5) == 0);
  for (int i = 1; i <= 1000; ++i) histogram.add(i * 10'000);
  CHECK(std::abs(histogram.quantile_us(0.5) / 5000 - 1) < 0.04);
  CHECK(std::abs(histogram.quantile_us(0.99) / 9900 - 1) < 0.04);
  CHECK(histogram.quantile_us(1) <= histogram.max_us() && histogram.max_us() == 10'000);
  top::Arrivals regular, poisson;
  std::mt19937 random(1);
  std::exponential_distribution<double> gap(1e-6);  // a thousand per second
  double time_ns = 0;
  for (int i = 0; i < 5000; ++i) {
    regular.add(Nanoseconds{1'000'000} * i);
    poisson.add(static_cast<Nanoseconds>(time_ns += gap(random)));
  }
  CHECK(std::abs(regular.short_rate_per_s(5'000'000'000) / 1000 - 1) < 0.05);
  CHECK(std::abs(regular.long_rate_per_s(5'000'000'000) / 1000 - 1) < 0.05);
  CHECK(regular.variation() < 0.01);
  CHECK(poisson.variation() > 0.6 && poisson.variation() < 1.4);
  CHECK(regular.short_rate_per_s(8'000'000'000) < 1);
}

}  // namespace

int main() {
  test_queue();
  test_bad_variants();
  test_lone_task();
  test_batches();
  test_refusals();
  test_forecast();
  test_recovery();
  test_margin();
  test_turns();
  test_fair_shares();
  test_dequeue_frequency();
  test_statistics();
  for (unsigned seed = 0; seed < 200; ++seed) test_random(seed);
  return top::testing::result("task_scheduler");
}
