#include "passes/rollout.h"

#include <algorithm>

namespace top {

Rollout::Rollout(const Problem& problem)
    : problem_(&problem),
      streams_(problem.device.streams),
      device_(problem.device.streams),
      ready_at_(problem.graph.num_ops),
      missing_(problem.graph.num_ops),
      unissued_(problem.graph.num_ops),
      position_(problem.graph.num_ops),
      stream_of_(problem.graph.num_ops),
      number_(problem.graph.num_ops),
      running_(streams_),
      standing_(streams_),
      standing_waits_(streams_),
      in_kernel_(streams_),
      idle_since_us_(streams_),
      finished_(static_cast<size_t>(problem.graph.num_ops) * streams_),
      known_(static_cast<size_t>(streams_) * streams_),
      issued_(streams_),
      clock_(streams_) {
  schedule_.reserve(problem.graph.num_ops);
  reset();
}

void Rollout::reset() {
  const Graph& graph = problem_->graph;
  device_.reset(problem_->device.run_us);
  schedule_.clear();
  ready_.clear();
  for (int op = 0; op < graph.num_ops; ++op) {
    missing_[op] = unissued_[op] = static_cast<int>(graph.preds[op].size());
    if (missing_[op] == 0) add_ready(op);
  }
  std::fill(running_.begin(), running_.end(), kIdle);
  std::fill(standing_.begin(), standing_.end(), kNobody);
  std::fill(idle_since_us_.begin(), idle_since_us_.end(), 0.0);
  std::fill(known_.begin(), known_.end(), 0);
  std::fill(issued_.begin(), issued_.end(), 0);
  num_idle_ = streams_;
  num_running_ = num_standing_ = 0;
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
    const int waits = count_waits(op, stream);
    if (best < 0 || waits < fewest ||
        (waits == fewest && idle_since_us_[stream] < idle_since_us_[best])) {
      best = stream;
      fewest = waits;
    }
  }
  return {op, best, false, fewest};
}

Candidate Rollout::place_early(int op) {
  const int other = (*behind_)[op];
  if (other != op && unissued_[other] == kIssued) {
    const int stream = stream_of_[other];
    if (running_[stream] == position_[other] && standing_[stream] == kNobody) {
      return {op, stream, false, count_waits(op, stream)};
    }
  }
  return place(op);
}

// As derive_waits counts them. Only where several results are not known yet one may imply another.
int Rollout::count_waits(int op, int stream) {
  const int* now = known(stream);
  int unknown = 0;
  for (int pred : problem_->graph.preds[op]) unknown += now[stream_of_[pred]] < number_[pred];
  return unknown <= 1 ? unknown : merge_clocks(op, stream);
}

// Leaves in clock_ what the stream knows once the op runs there; returns how many waits that takes.
int Rollout::merge_clocks(int op, int stream) {
  sources_.clear();
  const int* now = known(stream);
  std::copy(now, now + streams_, clock_.begin());
  for (int pred : problem_->graph.preds[op]) {
    if (clock_[stream_of_[pred]] < number_[pred]) sources_.push_back(position_[pred]);
  }
  if (sources_.size() > 1) std::sort(sources_.rbegin(), sources_.rend());
  int waits = 0;
  for (int source : sources_) {
    const int pred = schedule_[source].op;
    if (clock_[stream_of_[pred]] >= number_[pred]) continue;
    ++waits;
    const int* end = finished(pred);
    for (int s = 0; s < streams_; ++s) clock_[s] = std::max(clock_[s], end[s]);
  }
  return waits;
}

void Rollout::issue(const Candidate& candidate) {
  if (candidate.op < 0) {
    waiting_ = true;
    return;
  }
  ready_at_[ready_.back()] = ready_at_[candidate.op];
  ready_[ready_at_[candidate.op]] = ready_.back();
  ready_.pop_back();
  if (candidate.gang) {
    gang_op_ = candidate.op;
    return;
  }
  const int op = candidate.op;
  const int stream = candidate.stream;
  merge_clocks(op, stream);
  clock_[stream] = ++issued_[stream];
  std::copy(clock_.begin(), clock_.end(), known(stream));
  std::copy(clock_.begin(), clock_.end(), finished(op));
  position_[op] = static_cast<int>(schedule_.size());
  stream_of_[op] = stream;
  number_[op] = issued_[stream];
  schedule_.push_back({op, 0, 0, stream, 1});
  add_early(op);
  if (running_[stream] != kIdle || missing_[op] > 0) return stand(stream, candidate);
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
  stream_of_[op] = 0;
  number_[op] = issued_[0];
  schedule_.push_back({op, 0, 0, 0, streams_});
  add_early(op);
  begin(0, position_[op], problem_->device.gang_us);
  num_idle_ = 0;
}

void Rollout::add_ready(int op) {
  ready_at_[op] = static_cast<int>(ready_.size());
  ready_.push_back(op);
}

// Early ops become ready when the last of their inputs is issued.
void Rollout::add_early(int pred) {
  if (!behind_) return;
  unissued_[pred] = kIssued;
  for (int succ : problem_->graph.succs[pred]) {
    if (--unissued_[succ] == 0 && is_early(succ)) add_ready(succ);
  }
}

void Rollout::stand(int stream, const Candidate& candidate) {
  standing_[stream] = candidate.op;
  standing_waits_[stream] = candidate.waits;
  ++num_standing_;
  if (running_[stream] == kIdle) {
    running_[stream] = kKept;
    --num_idle_;
  }
}

// Begins an early call whose inputs are computed now, if it is issued and its stream is free.
void Rollout::begin_early(int op) {
  if (num_standing_ == 0) return;
  for (int stream = 0; stream < streams_; ++stream) {
    if (standing_[stream] != op || running_[stream] != kKept) continue;
    standing_[stream] = kNobody;
    --num_standing_;
    ++num_idle_;
    begin(stream, position_[op], problem_->device.wait_us * standing_waits_[stream]);
  }
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
    if (const int next = standing_[slot]; next != kNobody) {
      running_[slot] = kKept;
      --num_idle_;
      if (missing_[next] == 0) begin_early(next);
    }
  }
  for (int succ : problem_->graph.succs[placement.op]) {
    if (--missing_[succ] > 0) continue;
    if (is_early(succ)) {
      begin_early(succ);
    } else {
      add_ready(succ);
    }
  }
}

}  // namespace top
