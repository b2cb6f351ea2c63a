#include "runtime/schedule.h"

#include <algorithm>
#include <stdexcept>

namespace top {

namespace {

constexpr int kNotIssued = -1;

// Position of every op in the schedule; throws unless the schedule is a permutation of the ops.
std::vector<int> issue_positions(const Graph& graph, const Schedule& schedule,
                                 const std::vector<std::string>& names) {
  std::vector<int> position(graph.num_ops, kNotIssued);
  for (int at = 0; at < static_cast<int>(schedule.size()); ++at) {
    const int op = schedule[at].op;
    if (op < 0 || op >= graph.num_ops) {
      throw std::invalid_argument("The schedule places " + describe_op(op) +
                                  ", but the graph has " + std::to_string(graph.num_ops) + " ops.");
    }
    if (position[op] != kNotIssued) {
      throw std::invalid_argument("The schedule places " + describe_op(op, names) + " twice.");
    }
    position[op] = at;
  }
  for (int op = 0; op < graph.num_ops; ++op) {
    if (position[op] == kNotIssued) {
      throw std::invalid_argument("The schedule does not place " + describe_op(op, names) + ".");
    }
  }
  return position;
}

// Throws unless the stream exists and the threads are those of a form.
void check_place(const Placement& placement, int streams, const std::vector<std::string>& names) {
  if (placement.stream < 0 || placement.stream >= streams) {
    throw std::invalid_argument("The schedule places " + describe_op(placement.op, names) +
                                " on stream " + std::to_string(placement.stream) +
                                ", but there are " + std::to_string(streams) + " streams.");
  }
  if (placement.threads != 1 && placement.threads != streams) {
    throw std::invalid_argument("The schedule gives " + describe_op(placement.op, names) + " " +
                                std::to_string(placement.threads) + " threads; use 1 or " +
                                std::to_string(streams) + ", the number of streams.");
  }
}

// Vector clocks in one block of memory. A clock says how many calls of each stream are finished.
class Clocks {
 public:
  Clocks(size_t count, int streams) : streams_(streams), ticks_(count * streams, 0) {}
  int* operator[](size_t index) { return ticks_.data() + index * streams_; }

  void copy(const int* from, int* to) const { std::copy_n(from, streams_, to); }
  void merge(const int* from, int* into) const {
    for (int stream = 0; stream < streams_; ++stream) {
      into[stream] = std::max(into[stream], from[stream]);
    }
  }

 private:
  int streams_;
  std::vector<int> ticks_;
};

}  // namespace

Graph make_graph(int num_ops, const std::vector<std::pair<int, int>>& edges) {
  if (num_ops < 0) throw std::invalid_argument("A graph cannot have a negative number of ops.");
  Graph graph{num_ops, std::vector<std::vector<int>>(num_ops),
              std::vector<std::vector<int>>(num_ops)};
  for (const auto& [producer, consumer] : edges) {
    const std::string edge =
        "Edge (" + std::to_string(producer) + ", " + std::to_string(consumer) + ")";
    if (std::min(producer, consumer) < 0 || std::max(producer, consumer) >= num_ops) {
      throw std::invalid_argument(edge + " leaves the graph, which has " + std::to_string(num_ops) +
                                  " ops.");
    }
    if (producer >= consumer) {
      throw std::invalid_argument(edge +
                                  " does not ascend: number the ops in a topological order.");
    }
    graph.preds[consumer].push_back(producer);
    graph.succs[producer].push_back(consumer);
  }
  for (auto* lists : {&graph.preds, &graph.succs}) {
    for (std::vector<int>& list : *lists) {
      std::sort(list.begin(), list.end());
      list.erase(std::unique(list.begin(), list.end()), list.end());
    }
  }
  return graph;
}

std::string describe_op(int op, const std::vector<std::string>& names) {
  std::string text = "op " + std::to_string(op);
  if (op >= 0 && op < static_cast<int>(names.size()) && !names[op].empty()) {
    text += " (" + names[op] + ")";
  }
  return text;
}

void validate_schedule(const Graph& graph, const Schedule& schedule, int streams,
                       const std::vector<std::string>& names) {
  const std::vector<int> position = issue_positions(graph, schedule, names);
  std::vector<int> stream_of_group(graph.num_ops, kNotIssued);  // of the current stage
  int stage_begin = 0;
  for (int at = 0; at < graph.num_ops; ++at) {
    const Placement& placement = schedule[at];
    check_place(placement, streams, names);
    const std::string op = describe_op(placement.op, names);
    if (placement.group < 0 || placement.group >= graph.num_ops) {
      throw std::invalid_argument("The schedule puts " + op + " into group " +
                                  std::to_string(placement.group) +
                                  "; number the groups of a stage from 0.");
    }
    if (at > 0 && placement.stage < schedule[at - 1].stage) {
      throw std::invalid_argument("The schedule issues " + op + " of stage " +
                                  std::to_string(placement.stage) + " after an op of stage " +
                                  std::to_string(schedule[at - 1].stage) + ".");
    }
    if (at > 0 && placement.stage != schedule[at - 1].stage) {
      for (int i = stage_begin; i < at; ++i) stream_of_group[schedule[i].group] = kNotIssued;
      stage_begin = at;
    }
    int& group_stream = stream_of_group[placement.group];
    if (group_stream != kNotIssued && group_stream != placement.stream) {
      throw std::invalid_argument(
          "The schedule places " + op + " on stream " + std::to_string(placement.stream) +
          ", but its group is on stream " + std::to_string(group_stream) + ".");
    }
    group_stream = placement.stream;
    for (int pred : graph.preds[placement.op]) {
      if (position[pred] > at) {
        throw std::invalid_argument("The schedule issues " + op + " before " +
                                    describe_op(pred, names) + ", whose result it needs.");
      }
      const Placement& source = schedule[position[pred]];
      if (source.stage == placement.stage && source.group != placement.group) {
        throw std::invalid_argument("The schedule puts " + op + " and " + describe_op(pred, names) +
                                    ", whose result it needs, into different groups of stage " +
                                    std::to_string(placement.stage) + ".");
      }
    }
  }
}

std::vector<std::vector<int>> derive_waits(const Graph& graph, const Schedule& schedule,
                                           int streams, const std::vector<std::string>& names) {
  const std::vector<int> position = issue_positions(graph, schedule, names);
  std::vector<std::vector<int>> waits(schedule.size());
  Clocks known(streams, streams);             // what a stream knows before its next call
  Clocks finished(schedule.size(), streams);  // what the end of a call implies
  std::vector<int> issued(streams, 0);        // calls per stream so far
  std::vector<int> candidates;
  for (int at = 0; at < static_cast<int>(schedule.size()); ++at) {
    const Placement& placement = schedule[at];
    check_place(placement, streams, names);
    candidates.clear();
    for (int pred : graph.preds[placement.op]) {
      if (position[pred] >= at) {
        throw std::invalid_argument("The schedule issues " + describe_op(placement.op, names) +
                                    " before " + describe_op(pred, names) +
                                    ", whose result it needs.");
      }
      candidates.push_back(position[pred]);
    }
    if (is_gang(placement, streams)) {
      // All streams have arrived: everything issued so far, and this call, is known to all.
      for (int& count : issued) ++count;
      for (int stream = 0; stream < streams; ++stream) known.copy(issued.data(), known[stream]);
      known.copy(issued.data(), finished[at]);
      continue;
    }
    // Latest first: a wait for a late call may imply the earlier ones, never the reverse.
    std::sort(candidates.rbegin(), candidates.rend());
    int* clock = known[placement.stream];
    for (int source : candidates) {
      const int source_stream = schedule[source].stream;
      if (clock[source_stream] >= finished[source][source_stream]) continue;
      waits[at].push_back(source);
      known.merge(finished[source], clock);
    }
    clock[placement.stream] = ++issued[placement.stream];
    known.copy(clock, finished[at]);
  }
  return waits;
}

void assign_stages(const Graph& graph, int streams, Schedule* schedule) {
  std::vector<int> stage_of(graph.num_ops, kNotIssued);
  std::vector<int> stream_of(graph.num_ops, 0);
  std::vector<char> solo;  // per stage: everything is on stream 0
  for (size_t at = 0; at < schedule->size(); ++at) {
    Placement& placement = (*schedule)[at];
    const bool gang = is_gang(placement, streams);
    if (gang) placement.stream = 0;
    const int current = static_cast<int>(solo.size()) - 1;
    bool starts_stage = at == 0 || gang != is_gang((*schedule)[at - 1], streams);
    for (int pred : graph.preds[placement.op]) {
      starts_stage |= stage_of[pred] == current && stream_of[pred] != placement.stream;
    }
    if (starts_stage) solo.push_back(true);
    if (placement.stream != 0) solo.back() = false;
    placement.stage = stage_of[placement.op] = static_cast<int>(solo.size()) - 1;
    stream_of[placement.op] = placement.stream;
  }

  // Neighbouring stages that only continue stream 0 are one stage; number what is left.
  std::vector<int> group_of_stream(streams, kNotIssued);
  int stage = 0;
  int groups = 0;
  int previous = 0;
  for (Placement& placement : *schedule) {
    const int current = placement.stage;
    if (current != previous && !(solo[current] && solo[previous])) {
      ++stage;
      groups = 0;
      std::fill(group_of_stream.begin(), group_of_stream.end(), kNotIssued);
    }
    previous = current;
    int& group = group_of_stream[placement.stream];
    if (group == kNotIssued) group = groups++;
    placement.stage = stage;
    placement.group = group;
  }
}

}  // namespace top
