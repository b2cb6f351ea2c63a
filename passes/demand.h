// What no schedule can avoid for an op, in the form that is best for each: bounds and priorities
// are made of it.
#ifndef TOP_PASSES_DEMAND_H_
#define TOP_PASSES_DEMAND_H_

#include <vector>

#include "runtime/simulator.h"

namespace top {

struct Demand {
  double path_us = 0;       // longest path from the start of the op to the end of the graph
  double stream_us = 0;     // share of all streams
  double bandwidth_us = 0;  // of the whole device's bandwidth
  double compute_us = 0;

  // Of several ops together, but for the path.
  void add(const Demand& other);
  void subtract(const Demand& other);
};

// Per op.
std::vector<Demand> demands_of(const Problem& problem);

// Ops by the longest path, ties by number.
struct Urgency {
  explicit Urgency(const std::vector<Demand>& demands);

  std::vector<int> op_at;  // per rank; 0 has the longest path
  std::vector<int> rank;   // per op
};

// Whether the op may be a gang call.
bool is_moldable(const Problem& problem, int op);

}  // namespace top

#endif  // TOP_PASSES_DEMAND_H_
