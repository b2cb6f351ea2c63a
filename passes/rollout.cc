#include "passes/rollout.h"

#include <algorithm>

namespace top {

Rollout::Rollout(const Problem& problem)
    : problem_(&problem),
      streams_(problem.device.streams),
      device_(problem.device.streams),
      missing_(problem.graph.num_ops),
      position_(problem.graph.num_ops),
      running_(streams_),
      in_kernel_(streams_),
      idle_since_us_(streams_),
      finished_(static_cast<size_t>(problem.graph.num_ops) * streams_),
      known_(static_cast<size_t>(streams_) * streams_),
      issued_(streams_),
      clock_(streams_),
      best_clock_(streams_) {
  schedule_.reserve(problem.graph.num_ops);
  reset();
}

void Rollout::reset() {
  const Graph& graph = problem_->graph;
  device_.reset(problem_->device.run_us);
  schedule_.clear();
  ready_.clear();
  for (int op = 0; op < graph.num_ops; ++op) {
    missing_[op] = static_cast<int>(graph.preds[op].size());
    if (missing_[op] == 0) ready_.push_back(op);
  }
  std::fill(running_.begin(), running_.end(), kIdle);
  std::fill(idle_since_us_.begin(), idle_since_us_.end(), 0.0);
  std::fill(known_.begin(), known_.end(), 0);
  std::fill(issued_.begin(), issued_.end(), 0);
  num_idle_ = streams_;
  num_running_ = 0;
  gang_op_ = -1;
  waiting_ = false;
  bandwidth_ = compute_ = 0;
}

bool Rollout::advance() {
  if (gang_op_ >= 0) {
    while (num_running_ > 0) step();
    issue_gang();
  }
  if (waiting_ && num_running_ > 0) {
    while (step()) {  // until a kernel finishes
    }
  }
  waiting_ = false;
  while (ready_.empty() || num_idle_ == 0) {
    if (num_running_ == 0) return false;
    step();
  }
  return true;
}

// Lets one event happen: true if it was the start of a kernel, false if something finished.
bool Rollout::step() {
  const int slot = device_.finish_next();
  if (!in_kernel_[slot]) {
    start_kernel(slot);
    return true;
  }
  finish_kernel(slot);
  return false;
}

Candidate Rollout::place(int op) {
  int best = -1;
  int fewest = 0;
  for (int stream = 0; stream < streams_; ++stream) {
    if (running_[stream] != kIdle) continue;
    const int waits = waits_on(op, stream, &clock_);
    if (best < 0 || waits < fewest ||
        (waits == fewest && idle_since_us_[stream] < idle_since_us_[best])) {
      best = stream;
      fewest = waits;
    }
  }
  return {op, best, false, fewest};
}

// As derive_waits counts them; leaves in *clock what the stream knows afterwards.
int Rollout::waits_on(int op, int stream, std::vector<int>* clock) {
  sources_.clear();
  const int* now = known(stream);
  std::copy(now, now + streams_, clock->begin());
  for (int pred : problem_->graph.preds[op]) {
    const int source_stream = schedule_[position_[pred]].stream;
    if ((*clock)[source_stream] < finished(pred)[source_stream])
      sources_.push_back(position_[pred]);
  }
  if (sources_.empty()) return 0;
  std::sort(sources_.rbegin(), sources_.rend());
  int waits = 0;
  for (int source : sources_) {
    const Placement& placement = schedule_[source];
    const int* end = finished(placement.op);
    if ((*clock)[placement.stream] >= end[placement.stream]) continue;
    ++waits;
    for (int s = 0; s < streams_; ++s) (*clock)[s] = std::max((*clock)[s], end[s]);
  }
  return waits;
}

void Rollout::issue(const Candidate& candidate) {
  if (candidate.op < 0) {
    waiting_ = true;
    return;
  }
  ready_.erase(std::find(ready_.begin(), ready_.end(), candidate.op));
  if (candidate.gang) {
    gang_op_ = candidate.op;
    return;
  }
  const int op = candidate.op;
  const int stream = candidate.stream;
  waits_on(op, stream, &best_clock_);
  best_clock_[stream] = ++issued_[stream];
  std::copy(best_clock_.begin(), best_clock_.end(), known(stream));
  std::copy(best_clock_.begin(), best_clock_.end(), finished(op));
  position_[op] = static_cast<int>(schedule_.size());
  schedule_.push_back({op, 0, 0, stream, 1});
  begin(stream, position_[op], problem_->device.wait_us * candidate.waits);
}

void Rollout::issue_gang() {
  const int op = gang_op_;
  gang_op_ = -1;
  for (int& count : issued_) ++count;
  for (int stream = 0; stream < streams_; ++stream) {
    std::copy(issued_.begin(), issued_.end(), known(stream));
  }
  std::copy(issued_.begin(), issued_.end(), finished(op));
  position_[op] = static_cast<int>(schedule_.size());
  schedule_.push_back({op, 0, 0, 0, streams_});
  begin(0, position_[op], problem_->device.gang_us);
  num_idle_ = 0;
}

void Rollout::begin(int slot, int position, double overhead_us) {
  running_[slot] = position;
  ++num_running_;
  --num_idle_;
  overhead_us += problem_->device.dispatch_us;
  if (overhead_us > 0) {
    in_kernel_[slot] = false;
    device_.start(slot, OpForm{overhead_us, 0, 0});
  } else {
    start_kernel(slot);
  }
}

void Rollout::start_kernel(int slot) {
  const Placement& placement = schedule_[running_[slot]];
  const OpCost& cost = problem_->costs[placement.op];
  const OpForm& form = is_gang(placement, streams_) ? cost.gang : cost.single;
  in_kernel_[slot] = true;
  bandwidth_ += form.bandwidth;
  compute_ += form.compute;
  device_.start(slot, form);
}

void Rollout::finish_kernel(int slot) {
  const Placement& placement = schedule_[running_[slot]];
  const OpCost& cost = problem_->costs[placement.op];
  const bool gang = is_gang(placement, streams_);
  const OpForm& form = gang ? cost.gang : cost.single;
  running_[slot] = kIdle;
  --num_running_;
  num_idle_ = gang ? streams_ : num_idle_ + 1;
  if (num_running_ == 0) {
    bandwidth_ = compute_ = 0;  // no rounding errors pile up
  } else {
    bandwidth_ -= form.bandwidth;
    compute_ -= form.compute;
  }
  if (gang) {
    std::fill(idle_since_us_.begin(), idle_since_us_.end(), device_.now_us());
  } else {
    idle_since_us_[slot] = device_.now_us();
  }
  for (int succ : problem_->graph.succs[placement.op]) {
    if (--missing_[succ] == 0) ready_.push_back(succ);
  }
}

}  // namespace top
