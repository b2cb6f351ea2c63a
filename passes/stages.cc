#include "passes/stages.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

namespace top {

namespace {

// Stream of each packed bin: the bin of the longest group first takes the free stream that computed
// most of its inputs. `stream_of` holds the stream of every op issued so far, -1 for those of gang
// calls.
std::vector<int> place_bins(const Problem& problem, const std::vector<std::vector<int>>& bins,
                            const std::vector<int>& stream_of) {
  const int streams = problem.device.streams;
  std::vector<int> stream_of_bin(streams, -1);
  std::vector<char> taken(streams, false);
  std::vector<int> inputs(streams);
  for (int bin = 0; bin < streams; ++bin) {
    std::fill(inputs.begin(), inputs.end(), 0);
    for (int op : bins[bin]) {
      for (int pred : problem.graph.preds[op]) {
        if (stream_of[pred] >= 0) ++inputs[stream_of[pred]];
      }
    }
    int best = -1;
    for (int stream = 0; stream < streams; ++stream) {
      if (!taken[stream] && (best < 0 || inputs[stream] > inputs[best])) best = stream;
    }
    taken[best] = true;
    stream_of_bin[bin] = best;
  }
  return stream_of_bin;
}

}  // namespace

std::vector<int> pack_groups(const std::vector<double>& group_us, int streams) {
  std::vector<int> order(group_us.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return group_us[a] > group_us[b]; });
  std::vector<double> load(streams, 0.0);
  std::vector<int> stream_of(group_us.size());
  for (int group : order) {
    const auto least = std::min_element(load.begin(), load.end());
    stream_of[group] = static_cast<int>(least - load.begin());
    *least += group_us[group];
  }
  return stream_of;
}

double barrier_us(const Device& device) { return (device.streams - 1) * device.wait_us; }

StageTimer::StageTimer(const Problem& problem)
    : problem_(problem),
      device_(problem.device.streams),
      next_(problem.device.streams),
      in_kernel_(problem.device.streams) {}

double StageTimer::concurrent_us(const std::vector<std::vector<int>>& streams) {
  const OpForm dispatch{problem_.device.dispatch_us, 0, 0};
  device_.reset(0);
  for (size_t stream = 0; stream < streams.size(); ++stream) {
    next_[stream] = 0;
    in_kernel_[stream] = false;
    if (!streams[stream].empty()) device_.start(static_cast<int>(stream), dispatch);
  }
  for (int slot = device_.finish_next(); slot >= 0; slot = device_.finish_next()) {
    if (in_kernel_[slot]) {
      in_kernel_[slot] = false;
      if (++next_[slot] < streams[slot].size()) device_.start(slot, dispatch);
    } else {
      in_kernel_[slot] = true;
      device_.start(slot, problem_.costs[streams[slot][next_[slot]]].single);
    }
  }
  return device_.now_us();
}

double staged_objective(const Problem& problem, const Schedule& schedule) {
  const int streams = problem.device.streams;
  StageTimer timer(problem);
  double total_us = problem.device.run_us;
  int previous_stream = -1;  // of the previous stage if it has one group, else -1
  for (size_t begin = 0; begin < schedule.size();) {
    size_t end = begin;
    bool one_group = true;
    int gang_op = -1;
    double solo_us = 0;
    std::vector<std::vector<int>> ops(streams);
    for (; end < schedule.size() && schedule[end].stage == schedule[begin].stage; ++end) {
      const Placement& placement = schedule[end];
      one_group &= placement.group == schedule[begin].group;
      if (is_gang(placement, streams)) gang_op = placement.op;
      solo_us += call_us(problem, placement.op, gang_op == placement.op);
      ops[placement.stream].push_back(placement.op);
    }
    if (gang_op >= 0 && !one_group) {
      throw std::invalid_argument("Stage " + std::to_string(schedule[begin].stage) +
                                  " has several groups, but " +
                                  describe_op(gang_op, problem.names) + " occupies every stream.");
    }
    const int stream = one_group ? schedule[begin].stream : -1;
    if (begin > 0 && (stream < 0 || stream != previous_stream)) {
      total_us += barrier_us(problem.device);
    }
    total_us += one_group ? solo_us : timer.concurrent_us(ops);
    previous_stream = stream;
    begin = end;
  }
  return total_us;
}

Schedule schedule_stages(const Problem& problem, const std::vector<Stage>& stages) {
  const int streams = problem.device.streams;
  Schedule schedule;
  schedule.reserve(problem.graph.num_ops);
  std::vector<int> stream_of(problem.graph.num_ops, -1);
  int number = -1;
  bool after_sequential = false;
  for (const Stage& stage : stages) {
    const bool sequential = stage.groups.size() == 1;
    if (!(sequential && after_sequential)) ++number;
    after_sequential = sequential;
    if (sequential) {
      for (int op : stage.groups[0]) {
        const bool gang = prefers_gang(problem, op);
        schedule.push_back({op, number, 0, 0, gang ? streams : 1});
        if (!gang) stream_of[op] = 0;
      }
      continue;
    }
    std::vector<double> group_us;
    for (const std::vector<int>& group : stage.groups) {
      group_us.push_back(0);
      for (int op : group) group_us.back() += call_us(problem, op, false);
    }
    const std::vector<int> bin_of_group = pack_groups(group_us, streams);
    std::vector<std::vector<int>> bins(streams);
    for (size_t group = 0; group < stage.groups.size(); ++group) {
      std::vector<int>& bin = bins[bin_of_group[group]];
      bin.insert(bin.end(), stage.groups[group].begin(), stage.groups[group].end());
    }
    const std::vector<int> stream_of_bin = place_bins(problem, bins, stream_of);
    for (size_t group = 0; group < stage.groups.size(); ++group) {
      const int stream = stream_of_bin[bin_of_group[group]];
      for (int op : stage.groups[group]) {
        schedule.push_back({op, number, static_cast<int>(group), stream, 1});
        stream_of[op] = stream;
      }
    }
  }
  return schedule;
}

}  // namespace top
