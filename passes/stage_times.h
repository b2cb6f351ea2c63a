// Times of ranges of an order of ops, each executed as one concurrent stage: what a search over
// orders asks for again and again.
#ifndef TOP_PASSES_STAGE_TIMES_H_
#define TOP_PASSES_STAGE_TIMES_H_

#include <cstdint>
#include <vector>

#include "passes/stages.h"

namespace top {

// Three bounds stand before the simulation of a stage: the load, from prefix sums; what is known of
// the same set of ops from before, even at another place of the order; and its longest group.
// Not for use by two threads at once. The problem must outlive it.
class StageTimes {
 public:
  // The order must be topological.
  StageTimes(const Problem& problem, std::vector<int> order);

  const std::vector<int>& order() const { return order_; }

  // Puts the ops of order()[begin .. begin + ops.size()) into another order, which must leave the
  // whole topological.
  void reorder(int begin, const std::vector<int>& ops);

  // Time of order()[begin .. end) with its connected components as groups. Infinity if they are one
  // group, which is no concurrent stage, or if the stage takes at least `limit_us`. Fast where
  // ranges grow from one question to the next.
  double concurrent_us(int begin, int end, double limit_us);

  // The concurrent stage order()[begin .. end).
  Stage stage(int begin, int end);

 private:
  // What all ops in front of a position add up to.
  struct Sums {
    double single_us = 0;
    double bandwidth_us = 0;  // solo times, weighted by demand
    double compute_us = 0;
    uint64_t key = 0;
  };

  // What is known of a set of ops.
  struct Known {
    uint64_t key = 0;  // sum of random numbers, one per op, so that equal keys mean equal sets
    double us = 0;
    bool exact = true;  // else a lower bound
  };

  void sum_up(int begin, int end);
  double load_us(int begin, int end) const;
  void connect(int begin, int end);
  void add(int at, const std::vector<int>& neighbours);
  int root(int at);
  void collect_groups(int begin, int end);
  double simulate_us();

  const Problem& problem_;
  std::vector<int> order_;
  std::vector<int> position_;  // per op
  std::vector<Sums> sums_;     // per position, and the end
  std::vector<Known> known_;   // by key; a new entry overwrites
  StageTimer timer_;

  // Connected components of the range [begin_, end_), as a forest over positions.
  int begin_ = 0;
  int end_ = 0;
  int num_groups_ = 0;
  double longest_us_ = 0;
  std::vector<int> parent_;
  std::vector<double> group_us_;  // of the component, at roots

  // Scratch of collect_groups and simulate_us.
  std::vector<int> sorted_;
  std::vector<int> group_at_;  // per position of a root
  std::vector<std::vector<int>> groups_;
  std::vector<double> solo_us_;
  std::vector<std::vector<int>> bins_;
};

}  // namespace top

#endif  // TOP_PASSES_STAGE_TIMES_H_
