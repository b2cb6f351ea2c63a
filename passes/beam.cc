// A state is a rollout that never waits. All states of a step have issued the same number of ops,
// so they are comparable by a lower bound on the time of what they can become: time now plus the
// longest path that is left, or plus the work that is left per stream, or per resource. Of states
// that agree in what was issued, in the time and in what is in flight, one is kept.
#include "passes/beam.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "passes/demand.h"
#include "passes/rollout.h"

namespace top {

namespace {

using Clock = std::chrono::steady_clock;

// What bounds need to know of every op.
struct Outlook {
  explicit Outlook(const Problem& problem);

  const std::vector<Demand> demands;
  const Urgency urgency;
  std::vector<double> tail_us;      // path from the end of the op
  std::vector<uint64_t> signature;  // random, per op and form: [2 * op + gang]
  Demand total;
};

Outlook::Outlook(const Problem& problem)
    : demands(demands_of(problem)),
      urgency(demands),
      tail_us(problem.graph.num_ops, 0.0),
      signature(2 * static_cast<size_t>(problem.graph.num_ops)) {
  for (int op = 0; op < problem.graph.num_ops; ++op) {
    for (int succ : problem.graph.succs[op]) {
      tail_us[op] = std::max(tail_us[op], demands[succ].path_us);
    }
    total.add(demands[op]);
  }
  std::mt19937_64 random(0);
  for (uint64_t& bits : signature) bits = random();
}

// A call that may still run.
struct Flight {
  int op;
  bool gang;
  double end_us;  // no sooner; contention is not counted

  bool operator==(const Flight& other) const {
    return op == other.op && gang == other.gang && end_us == other.end_us;
  }
};

struct State {
  explicit State(const Problem& problem, const Demand& total)
      : rollout(problem), issued(problem.graph.num_ops), left(total) {}

  Rollout rollout;
  std::vector<char> issued;     // per op
  std::vector<Flight> flights;  // ascending by op
  size_t first_left = 0;        // the most urgent op that is not issued, by rank
  Demand left;                  // of what is not issued
  uint64_t signature = 0;       // of what is issued
  double bound_us = 0;
  double bounds_us = 0;  // sum of all bounds, which tells apart states of equal bound
};

bool same_future(const State& a, const State& b) {
  return a.signature == b.signature && a.rollout.now_us() == b.rollout.now_us() &&
         a.flights == b.flights;
}

bool better(const State& a, const State& b) {
  return a.bound_us != b.bound_us ? a.bound_us < b.bound_us : a.bounds_us < b.bounds_us;
}

class Beam {
 public:
  Beam(const Problem& problem, int candidates)
      : problem_(problem), outlook_(problem), start_(problem, outlook_.total) {
    const size_t ops = static_cast<size_t>(problem.graph.num_ops);
    most_urgent_ = std::min(static_cast<size_t>(candidates), ops);
  }

  // False, and *best as it was, if the time was up before the end.
  bool run(size_t width, Clock::time_point deadline, Schedule* best, double* best_us) {
    states_.resize(1, start_);
    states_[0] = start_;
    states_[0].rollout.advance();
    for (int step = 0; step < problem_.graph.num_ops; ++step) {
      if (Clock::now() > deadline) return false;
      num_children_ = 0;
      for (State& state : states_) expand(state);
      select(width);
    }
    for (const State& state : states_) {
      if (state.rollout.now_us() >= *best_us) continue;
      *best_us = state.rollout.now_us();
      *best = state.rollout.schedule();
    }
    return true;
  }

 private:
  void expand(State& state) {
    urgent_ = state.rollout.ready();
    const auto before = [this](int a, int b) {
      return outlook_.urgency.rank[a] < outlook_.urgency.rank[b];
    };
    const size_t count = std::min(most_urgent_, urgent_.size());
    std::partial_sort(urgent_.begin(), urgent_.begin() + count, urgent_.end(), before);
    for (size_t at = 0; at < count; ++at) {
      const int op = urgent_[at];
      add_child(state, state.rollout.place(op));
      if (is_moldable(problem_, op)) add_child(state, state.rollout.gang(op));
    }
  }

  // Assigns to a state that is there already, if there is one, which does not allocate.
  void add_child(const State& parent, const Candidate& candidate) {
    if (num_children_ == children_.size()) children_.push_back(start_);
    State& child = children_[num_children_++];
    child = parent;
    issue(child, candidate);
    child.rollout.advance();
    bound(child);
  }

  void issue(State& state, const Candidate& candidate) {
    const int op = candidate.op;
    double start_us = state.rollout.now_us() + problem_.device.wait_us * candidate.waits;
    if (candidate.gang) {
      for (const Flight& flight : state.flights) start_us = std::max(start_us, flight.end_us);
    }
    const Flight flight{op, candidate.gang, start_us + call_us(problem_, op, candidate.gang)};
    const auto place =
        std::lower_bound(state.flights.begin(), state.flights.end(), op,
                         [](const Flight& other, int index) { return other.op < index; });
    state.flights.insert(place, flight);
    state.issued[op] = true;
    state.signature ^= outlook_.signature[2 * static_cast<size_t>(op) + candidate.gang];
    state.left.subtract(outlook_.demands[op]);
    const std::vector<int>& by_rank = outlook_.urgency.op_at;
    while (state.first_left < by_rank.size() && state.issued[by_rank[state.first_left]]) {
      ++state.first_left;
    }
    state.rollout.issue(candidate);
  }

  void bound(State& state) {
    const double now_us = state.rollout.now_us();
    const auto over = [now_us](const Flight& flight) { return flight.end_us <= now_us; };
    state.flights.erase(std::remove_if(state.flights.begin(), state.flights.end(), over),
                        state.flights.end());
    double path_us = 0;
    const std::vector<int>& by_rank = outlook_.urgency.op_at;
    if (state.first_left < by_rank.size()) {
      path_us = outlook_.demands[by_rank[state.first_left]].path_us;
    }
    Demand left = state.left;
    for (const Flight& flight : state.flights) {
      const double flight_us = flight.end_us - now_us;
      const OpCost& cost = problem_.costs[flight.op];
      const OpForm& form = flight.gang ? cost.gang : cost.single;
      const double kernel_us = std::min(flight_us, form.time_us);
      path_us = std::max(path_us, flight_us + outlook_.tail_us[flight.op]);
      left.stream_us += flight.gang ? flight_us : flight_us / problem_.device.streams;
      left.bandwidth_us += kernel_us * form.bandwidth;
      left.compute_us += kernel_us * form.compute;
    }
    state.bound_us =
        now_us + std::max({path_us, left.stream_us, left.bandwidth_us, left.compute_us});
    state.bounds_us = 4 * now_us + path_us + left.stream_us + left.bandwidth_us + left.compute_us;
  }

  // Of the children the best become the states.
  void select(size_t width) {
    order_.resize(num_children_);
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(),
                     [this](size_t a, size_t b) { return better(children_[a], children_[b]); });
    size_t kept = 0;
    for (size_t at = 0; at < order_.size() && kept < width; ++at) {
      State& child = children_[order_[at]];
      bool seen = false;
      // Equal futures have equal bounds, so only the neighbours can have the same.
      for (size_t other = kept; other > 0 && !seen; --other) {
        if (states_[other - 1].bound_us != child.bound_us) break;
        seen = same_future(states_[other - 1], child);
      }
      if (seen) continue;
      if (kept == states_.size()) states_.push_back(start_);
      std::swap(states_[kept++], child);
    }
    states_.resize(kept, start_);
  }

  const Problem& problem_;
  const Outlook outlook_;
  const State start_;
  size_t most_urgent_ = 0;
  std::vector<State> states_;
  std::vector<State> children_;  // the first num_children_ count
  size_t num_children_ = 0;
  std::vector<int> urgent_;    // scratch of expand()
  std::vector<size_t> order_;  // scratch of select()
};

void check_limit(const char* name, double value) {
  if (value <= 0) {
    throw std::invalid_argument("The " + std::string(name) + " of a beam search is " +
                                std::to_string(value) + "; it must be positive.");
  }
}

}  // namespace

Schedule partition_beam(const Problem& problem, const BeamLimits& limits) {
  check_limit("width", limits.width);
  check_limit("number of candidates", limits.candidates);
  check_limit("time", limits.max_ms);
  constexpr Clock::time_point kNever = Clock::time_point::max();
  const double max_us = std::min(limits.max_ms, 1e9) * 1e3;
  const Clock::time_point deadline =
      Clock::now() + std::chrono::microseconds(static_cast<int64_t>(max_us));
  Beam beam(problem, limits.candidates);
  Schedule best;
  double best_us = std::numeric_limits<double>::infinity();
  beam.run(1, kNever, &best, &best_us);
  for (size_t width = 2; width <= static_cast<size_t>(limits.width); width *= 2) {
    if (!beam.run(width, deadline, &best, &best_us)) break;
  }
  assign_stages(problem.graph, problem.device.streams, &best);
  return best;
}

}  // namespace top
