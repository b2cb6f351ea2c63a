// The best cut of an order of ops into stages, by dynamic programming over positions, kept up while
// the order changes.
//
// A position's costs depend on how the stage in front of it ends: between two sequential ops there
// is no barrier. With the costs of everything in front of a position and of everything behind
// another, a change of the order between the two is judged by looking at what lies near.
#ifndef TOP_PASSES_STAGE_CUTS_H_
#define TOP_PASSES_STAGE_CUTS_H_

#include <vector>

#include "passes/stage_times.h"

namespace top {

// Not for use by two threads at once. The problem must outlive it.
class StageCuts {
 public:
  // The order must be topological. A concurrent stage gets at most `max_stage_ops` ops.
  StageCuts(const Problem& problem, std::vector<int> order, int max_stage_ops);

  const std::vector<int>& order() const { return times_.order(); }

  // Of the best cut, without the overhead of the run.
  double total_us();
  // The best cut.
  std::vector<Stage> stages();
  // Ops of the longest concurrent stage of the best cut.
  int longest_stage();

  // Reorders ops from position `begin` on, which must leave the order topological, and returns the
  // time of the best cut of the new order; infinity if it exceeds `limit_us`.
  double reorder(int begin, const std::vector<int>& ops, double limit_us);
  // Takes the last reorder() back.
  void undo();

 private:
  // By kind of the last stage in front of a position.
  struct Costs {
    double concurrent_us;
    double sequential_us;
    int begin;  // of the concurrent stage that ends here
  };

  // Consecutive stages of the best cut, backwards: calls visit(begin, end) for a concurrent stage,
  // and with end = begin + 1 for a sequential op.
  template <typename Visit>
  void trace(Visit visit);
  int num_ops() const { return static_cast<int>(faster_us_.size()); }
  int first_begin(int end) const { return std::max(0, end - max_stage_ops_); }
  int last_end(int begin) const { return std::min(num_ops(), begin + max_stage_ops_); }
  double barrier_at(int position) const { return position > 0 ? barrier_us_ : 0; }
  double start_us(int position) const;
  void extend_front(int position);
  void extend_back(int position);
  Costs front_at(int position);
  Costs back_at(int position);
  double across(int position, double limit_us);

  const int max_stage_ops_;
  const double barrier_us_;
  StageTimes times_;
  std::vector<double> faster_us_;  // per op: in its faster form
  std::vector<Costs> front_;       // of what is in front of a position
  std::vector<Costs> back_;        // of what is behind it, with the barrier if there is one
  int front_valid_ = 0;            // last position where front_ holds
  int back_valid_;                 // first position where back_ holds

  // The last reorder().
  int changed_ = 0;
  std::vector<int> old_ops_;
  std::vector<Costs> old_front_;
  int old_front_valid_ = 0;
  int old_back_valid_ = 0;
};

}  // namespace top

#endif  // TOP_PASSES_STAGE_CUTS_H_
