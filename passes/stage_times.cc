#include "passes/stage_times.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace top {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr size_t kMaxKnown = size_t{1} << 18;

// A number that looks random, the same in every run: SplitMix64 of the op.
uint64_t random_number(int op) {
  uint64_t z = (static_cast<uint64_t>(op) + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// Entries for the stages that a search over so many ops returns to; a power of two.
size_t known_size(int num_ops) {
  size_t size = 1024;
  while (size < kMaxKnown && size < size_t{64} * num_ops) size *= 2;
  return size;
}

}  // namespace

StageTimes::StageTimes(const Problem& problem, std::vector<int> order)
    : problem_(problem),
      order_(std::move(order)),
      position_(order_.size()),
      sums_(order_.size() + 1),
      known_(known_size(problem.graph.num_ops)),
      timer_(problem),
      parent_(order_.size()),
      group_us_(order_.size()),
      group_at_(order_.size(), -1),
      bins_(problem.device.streams) {
  sum_up(0, static_cast<int>(order_.size()));
}

void StageTimes::reorder(int begin, const std::vector<int>& ops) {
  std::copy(ops.begin(), ops.end(), order_.begin() + begin);
  sum_up(begin, begin + static_cast<int>(ops.size()));
  begin_ = end_ = 0;
  num_groups_ = 0;
  longest_us_ = 0;
}

void StageTimes::sum_up(int begin, int end) {
  for (int at = begin; at < end; ++at) {
    const int op = order_[at];
    position_[op] = at;
    const OpForm& form = problem_.costs[op].single;
    Sums& next = sums_[at + 1] = sums_[at];
    next.single_us += call_us(problem_, op, false);
    next.bandwidth_us += form.time_us * form.bandwidth;
    next.compute_us += form.time_us * form.compute;
    next.key += random_number(op);
  }
}

double StageTimes::load_us(int begin, int end) const {
  const Sums& from = sums_[begin];
  const Sums& to = sums_[end];
  return std::max({(to.single_us - from.single_us) / problem_.device.streams,
                   to.bandwidth_us - from.bandwidth_us, to.compute_us - from.compute_us});
}

double StageTimes::concurrent_us(int begin, int end, double limit_us) {
  const double load = load_us(begin, end);
  if (load >= limit_us) return kInfinity;
  const uint64_t key = sums_[end].key - sums_[begin].key;
  Known& known = known_[key & (known_.size() - 1)];
  if (known.key == key && (known.exact || known.us >= limit_us)) {
    return known.us < limit_us ? known.us : kInfinity;
  }
  connect(begin, end);
  if (num_groups_ == 1) {
    known = {key, kInfinity, true};
  } else if (std::max(load, longest_us_) >= limit_us) {
    known = {key, std::max(load, longest_us_), false};
  } else {
    collect_groups(begin, end);
    known = {key, simulate_us(), true};
  }
  return known.us < limit_us ? known.us : kInfinity;
}

Stage StageTimes::stage(int begin, int end) {
  connect(begin, end);
  collect_groups(begin, end);
  return Stage{{groups_.begin(), groups_.begin() + num_groups_}};
}

// Makes [begin, end) the range of which the components are known.
void StageTimes::connect(int begin, int end) {
  if (begin > begin_ || end < end_) {
    begin_ = end_ = end;
    num_groups_ = 0;
    longest_us_ = 0;
  }
  while (begin_ > begin) {
    --begin_;
    add(begin_, problem_.graph.succs[order_[begin_]]);
  }
  while (end_ < end) {
    ++end_;
    add(end_ - 1, problem_.graph.preds[order_[end_ - 1]]);
  }
}

void StageTimes::add(int at, const std::vector<int>& neighbours) {
  parent_[at] = at;
  group_us_[at] = sums_[at + 1].single_us - sums_[at].single_us;
  ++num_groups_;
  for (int neighbour : neighbours) {
    const int position = position_[neighbour];
    if (position < begin_ || position >= end_) continue;
    const int other = root(position);
    const int own = root(at);
    if (other == own) continue;
    parent_[own] = other;
    group_us_[other] += group_us_[own];
    --num_groups_;
  }
  longest_us_ = std::max(longest_us_, group_us_[root(at)]);
}

int StageTimes::root(int at) {
  while (parent_[at] != at) at = parent_[at] = parent_[parent_[at]];
  return at;
}

// Groups in the order of their first ops, each in ascending order: as schedule_stages() packs them.
void StageTimes::collect_groups(int begin, int end) {
  sorted_.assign(order_.begin() + begin, order_.begin() + end);
  std::sort(sorted_.begin(), sorted_.end());
  int count = 0;
  for (int op : sorted_) {
    int& group = group_at_[root(position_[op])];
    if (group < 0) {
      group = count++;
      if (static_cast<int>(groups_.size()) < count) groups_.emplace_back();
      groups_[group].clear();
    }
    groups_[group].push_back(op);
  }
  for (int op : sorted_) group_at_[root(position_[op])] = -1;
}

// Of the groups collected last.
double StageTimes::simulate_us() {
  solo_us_.assign(num_groups_, 0.0);
  for (int group = 0; group < num_groups_; ++group) {
    for (int op : groups_[group]) solo_us_[group] += call_us(problem_, op, false);
  }
  const std::vector<int> bin_of = pack_groups(solo_us_, problem_.device.streams);
  for (std::vector<int>& bin : bins_) bin.clear();
  for (int group = 0; group < num_groups_; ++group) {
    std::vector<int>& bin = bins_[bin_of[group]];
    bin.insert(bin.end(), groups_[group].begin(), groups_[group].end());
  }
  return timer_.concurrent_us(bins_);
}

}  // namespace top
