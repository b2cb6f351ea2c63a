#include "runtime/simulator.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace top {

namespace {

// Demands that sum to 1 but for rounding (three thirds, say) do not saturate.
constexpr double kSaturation = 1.0 + 1e-9;

// The level L with sum min(d, L) = 1, for demands that sum to more than 1. Sorts them.
double fair_level(std::vector<double>* demands) {
  std::sort(demands->begin(), demands->end());
  double capacity = 1.0;
  size_t sharers = demands->size();
  for (double demand : *demands) {
    if (demand * sharers >= capacity) break;
    capacity -= demand;
    --sharers;
  }
  return capacity / static_cast<double>(sharers);
}

void check_form(const OpForm& form, const std::string& which, const std::string& op,
                bool may_be_missing) {
  const bool missing = form.time_us == std::numeric_limits<double>::infinity();
  if (missing && may_be_missing) return;
  if (!std::isfinite(form.time_us) || form.time_us < 0) {
    throw std::invalid_argument("The " + which + " time of " + op + " is " +
                                std::to_string(form.time_us) + " us; it must be finite and >= 0.");
  }
  for (double demand : {form.bandwidth, form.compute}) {
    if (!(demand >= 0 && demand <= 1)) {
      throw std::invalid_argument("A " + which + " demand of " + op + " is " +
                                  std::to_string(demand) + "; shares lie between 0 and 1.");
    }
  }
}

// One simulated run. A call passes through: waiting for its sources, overhead, kernel.
class Run {
 public:
  Run(const Problem& problem, const Schedule& schedule)
      : problem_(problem),
        schedule_(schedule),
        streams_(problem.device.streams),
        waits_(derive_waits(problem.graph, schedule, streams_, problem.names)),
        queues_(streams_),
        heads_(streams_, 0),
        running_(streams_, kIdle),
        in_kernel_(streams_, false),
        finished_(schedule.size(), false),
        device_(streams_) {
    result_.start_us.resize(schedule.size());
    result_.end_us.resize(schedule.size());
    for (int at = 0; at < static_cast<int>(schedule.size()); ++at) {
      const Placement& placement = schedule[at];
      const bool gang = is_gang(placement, streams_);
      for (int stream = 0; stream < streams_; ++stream) {
        if (gang || stream == placement.stream) queues_[stream].push_back(at);
      }
    }
  }

  Simulation run() {
    device_.reset(problem_.device.run_us);
    issue_ready();
    for (int slot = device_.finish_next(); slot >= 0; slot = device_.finish_next()) {
      if (!in_kernel_[slot]) {
        start_kernel(slot);
      } else {
        finish_kernel(slot);
        issue_ready();
      }
    }
    result_.makespan_us = device_.now_us();
    return std::move(result_);
  }

 private:
  static constexpr int kIdle = -1;

  bool at_head(int stream, int position) const {
    return heads_[stream] < queues_[stream].size() && queues_[stream][heads_[stream]] == position;
  }

  void issue_ready() {
    for (int stream = 0; stream < streams_; ++stream) {
      if (running_[stream] != kIdle || heads_[stream] == queues_[stream].size()) continue;
      const int position = queues_[stream][heads_[stream]];
      if (is_gang(schedule_[position], streams_)) {
        if (stream == 0) issue_gang(position);
      } else if (std::all_of(waits_[position].begin(), waits_[position].end(),
                             [this](int source) { return finished_[source]; })) {
        begin(stream, position, problem_.device.wait_us * waits_[position].size());
      }
    }
  }

  // A gang call runs in slot 0, once no stream has anything before it.
  void issue_gang(int position) {
    for (int stream = 0; stream < streams_; ++stream) {
      if (running_[stream] != kIdle || !at_head(stream, position)) return;
    }
    begin(0, position, problem_.device.gang_us);
  }

  void begin(int slot, int position, double overhead_us) {
    running_[slot] = position;
    overhead_us += problem_.device.dispatch_us;
    if (overhead_us > 0) {
      in_kernel_[slot] = false;
      device_.start(slot, OpForm{overhead_us, 0, 0});
    } else {
      start_kernel(slot);
    }
  }

  void start_kernel(int slot) {
    const Placement& placement = schedule_[running_[slot]];
    const OpCost& cost = problem_.costs[placement.op];
    in_kernel_[slot] = true;
    result_.start_us[placement.op] = device_.now_us();
    device_.start(slot, is_gang(placement, streams_) ? cost.gang : cost.single);
  }

  void finish_kernel(int slot) {
    const int position = running_[slot];
    running_[slot] = kIdle;
    finished_[position] = true;
    result_.end_us[schedule_[position].op] = device_.now_us();
    for (int stream = 0; stream < streams_; ++stream) {
      if (at_head(stream, position)) ++heads_[stream];
    }
  }

  const Problem& problem_;
  const Schedule& schedule_;
  const int streams_;
  const std::vector<std::vector<int>> waits_;
  std::vector<std::vector<int>> queues_;  // positions per stream
  std::vector<size_t> heads_;             // next in each queue
  std::vector<int> running_;              // position per slot, or kIdle
  std::vector<char> in_kernel_;           // per slot: kernel or overhead
  std::vector<char> finished_;            // per position
  SharedDevice device_;
  Simulation result_;
};

}  // namespace

void validate_problem(const Problem& problem) {
  const Device& device = problem.device;
  if (device.streams < 1) {
    throw std::invalid_argument("The device has " + std::to_string(device.streams) +
                                " streams; it needs at least 1.");
  }
  for (double overhead_us : {device.dispatch_us, device.wait_us, device.gang_us, device.run_us}) {
    if (!std::isfinite(overhead_us) || overhead_us < 0) {
      throw std::invalid_argument("An overhead of the device is " + std::to_string(overhead_us) +
                                  " us; it must be finite and >= 0.");
    }
  }
  const size_t num_ops = static_cast<size_t>(problem.graph.num_ops);
  if (problem.costs.size() != num_ops) {
    throw std::invalid_argument("The graph has " + std::to_string(num_ops) +
                                " ops, but there are " + std::to_string(problem.costs.size()) +
                                " costs.");
  }
  if (!problem.names.empty() && problem.names.size() != num_ops) {
    throw std::invalid_argument("The graph has " + std::to_string(num_ops) +
                                " ops, but there are " + std::to_string(problem.names.size()) +
                                " names.");
  }
  for (int op = 0; op < problem.graph.num_ops; ++op) {
    const std::string name = describe_op(op, problem.names);
    check_form(problem.costs[op].single, "single-threaded", name, false);
    check_form(problem.costs[op].gang, "multi-threaded", name, true);
  }
}

double call_us(const Problem& problem, int op, bool gang) {
  const Device& device = problem.device;
  return device.dispatch_us + (gang ? device.gang_us + problem.costs[op].gang.time_us
                                    : problem.costs[op].single.time_us);
}

bool prefers_gang(const Problem& problem, int op) {
  return problem.device.streams > 1 && call_us(problem, op, true) < call_us(problem, op, false);
}

void SharedDevice::reset(double now_us) {
  for (Slot& slot : slots_) slot.busy = false;
  now_us_ = now_us;
  stale_ = contended_ = false;
}

void SharedDevice::start(int slot, const OpForm& form) {
  slots_[slot] = Slot{form, form.time_us, 1.0, true};
  stale_ |= form.bandwidth > 0 || form.compute > 0;
}

int SharedDevice::finish_next(double until_us) {
  if (stale_) update_rates();
  int next = -1;
  double elapsed_us = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (!slots_[i].busy) continue;
    const double until_us = slots_[i].left_us / slots_[i].rate;
    if (until_us < elapsed_us) {
      elapsed_us = until_us;
      next = static_cast<int>(i);
    }
  }
  const bool stops = now_us_ + elapsed_us > until_us;
  if (stops) elapsed_us = std::max(0.0, until_us - now_us_);
  if (next < 0 && !stops) return -1;
  for (Slot& slot : slots_) {
    if (slot.busy) slot.left_us = std::max(0.0, slot.left_us - elapsed_us * slot.rate);
  }
  if (stops) {
    now_us_ = std::max(now_us_, until_us);
    return -1;
  }
  now_us_ += elapsed_us;
  slots_[next].busy = false;
  stale_ |= contended_;
  return next;
}

void SharedDevice::update_rates() {
  stale_ = contended_ = false;
  for (Slot& slot : slots_) slot.rate = 1.0;
  for (double OpForm::* resource : {&OpForm::bandwidth, &OpForm::compute}) {
    double total = 0;
    for (const Slot& slot : slots_) total += slot.busy ? slot.form.*resource : 0;
    if (total <= kSaturation) continue;
    contended_ = true;
    demands_.clear();
    for (const Slot& slot : slots_) {
      if (slot.busy) demands_.push_back(slot.form.*resource);
    }
    const double level = fair_level(&demands_);
    for (Slot& slot : slots_) {
      if (slot.busy && slot.form.*resource > level) {
        slot.rate = std::min(slot.rate, level / slot.form.*resource);
      }
    }
  }
}

void check_forms(const Problem& problem, const Schedule& schedule) {
  for (const Placement& placement : schedule) {
    if (is_gang(placement, problem.device.streams) &&
        std::isinf(problem.costs[placement.op].gang.time_us)) {
      throw std::invalid_argument("The schedule gives " + describe_op(placement.op, problem.names) +
                                  " " + std::to_string(placement.threads) +
                                  " threads, but it has no multi-threaded form.");
    }
  }
}

Simulation simulate(const Problem& problem, const Schedule& schedule) {
  Run run(problem, schedule);  // checks that the schedule fits the graph
  check_forms(problem, schedule);
  return run.run();
}

}  // namespace top
