// A point of the search is an order of all ops by priority, with a form for each: of what is ready
// the op with the highest priority is issued, where it needs the fewest waits. One op moves at a
// time, so a schedule is the same as the last one up to the first choice that the move changes.
// That makes an evaluation cheaper in three ways:
//
//   * a move that changes no choice is not evaluated at all;
//   * the simulation starts at the last snapshot before the first choice that changes;
//   * it ends as soon as a lower bound of the makespan exceeds what would be accepted.
//
// Such schedules never keep a stream idle while an op is ready. Where one path is long, or what
// runs slows down each other, that may be better, but it makes the space much larger, and the
// search worse where idling does not pay. So early calls are tried only by a search that is stuck.
#include "passes/priority_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "passes/demand.h"
#include "passes/ranked_set.h"
#include "passes/rollout.h"

namespace top {

namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
// Snapshots per schedule: more are dearer to take, fewer start earlier than need be.
constexpr int kSnapshots = 8;

// A search is stuck if it has gained less than this share when so much of it is over.
constexpr double kStuckGain = 1e-3;
constexpr double kStuckAfter = 0.15;
// Of the moves of a search that was stuck, those that make an op early or not; of the former, those
// where it stands behind another op.
constexpr double kEarlyMoves = 0.8;
constexpr double kBehind = 0.5;

// A simulation before its choice number `step`.
struct Snapshot {
  explicit Snapshot(const Problem& problem) : rollout(problem) {}

  Rollout rollout;
  Demand left;  // sum over the ops that are not issued, but for the path
};

// One schedule: what was chosen when.
struct Trace {
  explicit Trace(int num_ops) : issued(num_ops), issue_step(num_ops), ready_step(num_ops) {}

  std::vector<int> issued;      // op per step
  std::vector<int> issue_step;  // per op
  std::vector<int> ready_step;  // per op: the first step at which it could have been chosen
};

class Search {
 public:
  Search(const Problem& problem, const SearchLimits& limits)
      : problem_(problem),
        limits_(limits),
        random_(limits.seed),
        demands_(demands_of(problem)),
        urgency_(demands_),
        stride_(std::max(16, (problem.graph.num_ops + kSnapshots - 1) / kSnapshots)),
        rank_(problem.graph.num_ops),
        gang_(problem.graph.num_ops),
        behind_(problem.graph.num_ops, kNotEarly),
        op_at_(problem.graph.num_ops),
        current_(problem.graph.num_ops),
        trial_(problem.graph.num_ops),
        ready_(problem.graph.num_ops),
        ready_paths_(problem.graph.num_ops),
        running_(problem) {
    const int num_ops = problem.graph.num_ops;
    for (int op = 0; op < num_ops; ++op) {
      if (is_moldable(problem, op)) moldable_.push_back(op);
    }
    for (int step = 0; step < num_ops; step += stride_) {
      snapshots_.emplace_back(problem);
      trial_snapshots_.emplace_back(problem);
    }
  }

  Schedule run(const Schedule& start) {
    Schedule best = start;
    double best_us = simulate(problem_, start).makespan_us;
    if (problem_.graph.num_ops > 1) search(start, &best_us, &best);
    assign_stages(problem_.graph, problem_.device.streams, &best);
    return best;
  }

 private:
  void search(const Schedule& start, double* best_us, Schedule* best) {
    begin_at(start);
    double current_us = evaluate(0, kNever);
    accept(0);
    keep(current_us, best_us, best);
    const double stuck_us = *best_us * (1 - kStuckGain);
    SearchProgress progress(limits_);
    while (progress.next()) {
      if (limits_.waits && !waits_ && progress.left() < 1 - kStuckAfter && *best_us > stuck_us) {
        allow_early();
      }
      const double mean_us = current_us / problem_.graph.num_ops;
      const double limit_us = current_us + progress.slack(random_) * mean_us;
      move();
      const int step = first_change();
      if (step == problem_.graph.num_ops) continue;  // the same schedule
      const double us = evaluate(step, limit_us);
      if (us <= limit_us) {
        current_us = us;
        accept(step);
        keep(us, best_us, best);
      } else {
        undo();
      }
    }
  }

  void begin_at(const Schedule& schedule) {
    for (size_t at = 0; at < schedule.size(); ++at) {
      const int op = schedule[at].op;
      rank_[op] = static_cast<int>(at);
      gang_[op] = is_gang(schedule[at], problem_.device.streams);
      op_at_[at] = op;
    }
    Snapshot& first = snapshots_[0];
    first.rollout.reset();
    first.left = Demand{};
    for (const Demand& demand : demands_) first.left.add(demand);
  }

  // From now on moves may make ops early. No op is, so the schedule stays the same; but what
  // snapshots know of early calls begins here.
  void allow_early() {
    waits_ = true;
    snapshots_[0].rollout.allow_early(&behind_);
    snapshots_[0].rollout.reset();
    evaluate(0, kNever);
    accept(0);
  }

  void move() {
    if (waits_ && std::uniform_real_distribution<>(0, 1)(random_) < kEarlyMoves) {
      kind_ = Move::kEarly;
      move_early();
    } else if (!moldable_.empty() && std::uniform_int_distribution<>(0, 3)(random_) == 0) {
      kind_ = Move::kForm;
      moved_ = moldable_[std::uniform_int_distribution<size_t>(0, moldable_.size() - 1)(random_)];
      gang_[moved_] ^= 1;
    } else {
      kind_ = Move::kRank;
      move_rank();
    }
  }

  // Makes an op early, behind one of those that were issued shortly before it, or not early.
  void move_early() {
    moved_ = std::uniform_int_distribution<>(0, problem_.graph.num_ops - 1)(random_);
    behind_before_ = behind_[moved_];
    if (behind_before_ != kNotEarly) {
      behind_[moved_] = kNotEarly;
      return;
    }
    behind_[moved_] = moved_;
    const int step = current_.issue_step[moved_];
    if (step > 0 && std::uniform_real_distribution<>(0, 1)(random_) < kBehind) {
      const int farthest = std::min(step, 2 * problem_.device.streams);
      const int back = std::uniform_int_distribution<>(1, farthest)(random_);
      behind_[moved_] = current_.issued[step - back];
    }
  }

  // Gives an op another rank, those in between move up.
  void move_rank() {
    const int num_ops = problem_.graph.num_ops;
    from_ = std::uniform_int_distribution<>(0, num_ops - 1)(random_);
    // Mostly near: distances between 1 and all, each magnitude equally likely.
    const double exponent = std::uniform_real_distribution<>(0, std::log(num_ops))(random_);
    const int distance = std::max(1, static_cast<int>(std::exp(exponent)));
    const bool later = std::uniform_int_distribution<>(0, 1)(random_) == 1;
    to_ = std::clamp(later ? from_ + distance : from_ - distance, 0, num_ops - 1);
    moved_ = op_at_[from_];
    rotate(from_, to_);
  }

  void undo() {
    switch (kind_) {
      case Move::kEarly:
        behind_[moved_] = behind_before_;
        break;
      case Move::kForm:
        gang_[moved_] ^= 1;
        break;
      case Move::kRank:
        rotate(to_, from_);
    }
  }

  void rotate(int from, int to) {
    const auto begin = op_at_.begin();
    if (from < to) {
      std::rotate(begin + from, begin + from + 1, begin + to + 1);
    } else {
      std::rotate(begin + to, begin + from, begin + from + 1);
    }
    for (int at = std::min(from, to); at <= std::max(from, to); ++at) rank_[op_at_[at]] = at;
  }

  // The first step at which the current schedule may not be what the priorities say any more; the
  // number of ops if there is none.
  int first_change() const {
    const int issued = current_.issue_step[moved_];
    if (kind_ == Move::kEarly) return last_input_step();
    if (kind_ == Move::kForm) return issued;
    if (from_ == to_) return problem_.graph.num_ops;
    // Less urgent than before: it was not chosen earlier, so it is not now.
    if (from_ < to_) return issued;
    for (int step = current_.ready_step[moved_]; step < issued; ++step) {
      if (rank_[current_.issued[step]] > rank_[moved_]) return step;
    }
    return problem_.graph.num_ops;
  }

  // The step that issues the last of the moved op's inputs. Then the op becomes ready if it is
  // early, which snapshots behind it hold, even if that does not change the choices.
  int last_input_step() const {
    int last = 0;
    for (int pred : problem_.graph.preds[moved_]) last = std::max(last, current_.issue_step[pred]);
    return last;
  }

  Candidate candidate(Rollout& rollout, int op) const {
    if (gang_[op]) return rollout.gang(op);
    return behind_[op] == kNotEarly ? rollout.place(op) : rollout.place_early(op);
  }

  // Time of the schedule, which is the current one before a step, or kNever as soon as it is known
  // to exceed the limit. Fills in trial_ and trial_snapshots_ from the snapshot before that step.
  double evaluate(int first_step, double limit_us) {
    const int first_snapshot = first_step / stride_;
    const int begin = first_snapshot * stride_;
    int step = begin;
    running_ = snapshots_[first_snapshot];
    Rollout& rollout = running_.rollout;
    Demand& left = running_.left;
    trial_ = current_;
    ready_.clear();
    ready_paths_.clear();
    size_t known = 0;  // ready ops that are in the sets
    for (; rollout.advance(); ++step) {
      if (step > begin && step % stride_ == 0) {
        trial_snapshots_[step / stride_] = running_;
      }
      for (; known < rollout.ready().size(); ++known) {
        const int op = rollout.ready()[known];
        ready_.insert(rank_[op]);
        ready_paths_.insert(urgency_.rank[op]);
        if (step > begin) trial_.ready_step[op] = step;
      }
      left.path_us = demands_[urgency_.op_at[ready_paths_.first()]].path_us;
      const double bound_us = std::max(std::max(left.path_us, left.stream_us),
                                       std::max(left.bandwidth_us, left.compute_us));
      if (rollout.now_us() + bound_us > limit_us * kRounding) return kNever;
      const int next = op_at_[ready_.first()];
      ready_.erase(rank_[next]);
      ready_paths_.erase(urgency_.rank[next]);
      --known;
      left.subtract(demands_[next]);
      trial_.issued[step] = next;
      trial_.issue_step[next] = step;
      rollout.issue(candidate(rollout, next));
    }
    return rollout.now_us();
  }

  // Makes the schedule that was evaluated last the current one.
  void accept(int first_step) {
    std::swap(current_, trial_);
    for (size_t at = first_step / stride_ + 1; at < snapshots_.size(); ++at) {
      std::swap(snapshots_[at], trial_snapshots_[at]);
    }
  }

  void keep(double us, double* best_us, Schedule* best) {
    if (us >= *best_us) return;
    *best_us = us;
    *best = running_.rollout.schedule();
  }

  // The bound is a sum in another order than the makespan.
  static constexpr double kRounding = 1 + 1e-9;

  const Problem& problem_;
  const SearchLimits& limits_;
  std::mt19937_64 random_;
  const std::vector<Demand> demands_;
  const Urgency urgency_;
  const int stride_;         // steps between snapshots
  std::vector<int> rank_;    // per op: 0 is issued first of what is ready
  std::vector<char> gang_;   // per op
  std::vector<int> behind_;  // per op, as Rollout::allow_early() takes it
  std::vector<int> op_at_;   // per rank
  std::vector<int> moldable_;
  Trace current_, trial_;
  RankedSet ready_;                                    // by rank
  RankedSet ready_paths_;                              // by rank among the longest paths
  std::vector<Snapshot> snapshots_, trial_snapshots_;  // every stride_ steps
  Snapshot running_;
  bool waits_ = false;  // whether moves may make ops early
  // The last move.
  enum class Move { kRank, kForm, kEarly };
  Move kind_ = Move::kRank;
  int moved_ = 0;
  int from_ = 0, to_ = 0;  // ranks
  int behind_before_ = kNotEarly;
};

}  // namespace

Schedule improve(const Problem& problem, const Schedule& start, const SearchLimits& limits) {
  return Search(problem, limits).run(start);
}

}  // namespace top
