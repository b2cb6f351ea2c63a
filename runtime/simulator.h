// Predicts how long a schedule takes under the executor's real synchronisation. This one number is
// what every partitioner minimises.
//
// Contention. An op form has a solo time and two demands: the share of the device's memory
// bandwidth and of its compute that it uses while it runs alone. Each resource is shared like a
// processor, by max-min fairness: where the demands d_1..d_n of the running ops sum to more than 1,
// there is a level L with sum_i min(d_i, L) = 1, and op i gets min(d_i, L) of the resource. Its
// speed, relative to running alone, is
//
//     rate_i = min over resources of min(1, L / d_i)        (L = infinity when not saturated)
//
// So a saturated resource is used exactly in full, an op that asks for less than its fair share is
// not slowed at all, and the more an op is bound to the resource the more it is slowed. Rates
// change only when an op starts or ends; between such events progress is linear, so the result is
// exact.
//
// Overheads. A run costs run_us before anything starts. A call costs dispatch_us on its stream, and
// wait_us more for every wait that is really needed (see derive_waits), counted from when all of
// its sources have finished; a gang call costs gang_us for the rendezvous. Overheads demand no
// resource.
#ifndef TOP_RUNTIME_SIMULATOR_H_
#define TOP_RUNTIME_SIMULATOR_H_

#include <limits>
#include <string>
#include <vector>

#include "runtime/schedule.h"

namespace top {

// One way to execute an op.
struct OpForm {
  double time_us;    // alone on the device; infinity where the form does not exist
  double bandwidth;  // share of the device's memory bandwidth, 0..1
  double compute;    // share of the device's compute, 0..1
};

struct OpCost {
  OpForm single;  // on one stream
  OpForm gang;    // on all streams
};

struct Device {
  int streams;
  double dispatch_us;
  double wait_us;
  double gang_us;
  double run_us;
};

// What is to be scheduled, on what. `names` is empty or has a name per op.
struct Problem {
  Graph graph;
  std::vector<OpCost> costs;
  Device device;
  std::vector<std::string> names;
};

// Throws std::invalid_argument, naming the op, unless there is one cost per op, single forms are
// finite, no time is negative, and demands lie in 0..1; the device must have at least one stream.
void validate_problem(const Problem& problem);

// Throws std::invalid_argument for a gang call of an op that has no such form. The ops must exist.
void check_forms(const Problem& problem, const Schedule& schedule);

// Whether the op is faster on all streams than on one, counting the rendezvous.
bool prefers_gang(const Problem& problem, int op);

// Time of a call that runs by itself, with dispatch and rendezvous.
double call_us(const Problem& problem, int op, bool gang);

// Work running at the same time, at most one piece per slot, sharing the device by the law above.
class SharedDevice {
 public:
  explicit SharedDevice(int slots) : slots_(slots) {}

  // Back to time `now_us` with nothing running.
  void reset(double now_us);
  // The slot must be idle.
  void start(int slot, const OpForm& form);
  // Lets time pass until a piece of work finishes, and returns its slot; or until that moment, or
  // for none at all if nothing runs and there is no such moment, and returns -1.
  int finish_next(double until_us = std::numeric_limits<double>::infinity());
  double now_us() const { return now_us_; }

 private:
  struct Slot {
    OpForm form{};
    double left_us = 0;  // of solo time
    double rate = 1;
    bool busy = false;
  };

  void update_rates();

  std::vector<Slot> slots_;
  std::vector<double> demands_;  // scratch of update_rates
  double now_us_ = 0;
  bool stale_ = false;
  bool contended_ = false;
};

struct Simulation {
  double makespan_us = 0;
  std::vector<double> start_us;  // per op: when its kernel starts, after waits and dispatch
  std::vector<double> end_us;
};

// Times a schedule; only its order, streams and threads matter. Throws std::invalid_argument for a
// schedule that is not a topological order of all ops, or gangs an op that is not moldable.
Simulation simulate(const Problem& problem, const Schedule& schedule);

}  // namespace top

#endif  // TOP_RUNTIME_SIMULATOR_H_
