// Builds a schedule while the simulated device executes it: at every moment when a stream is idle
// and an op is ready, somebody chooses what is issued next. So every choice is made in full
// knowledge of what runs. A rollout that never waits ends with the time that simulate() gives its
// schedule.
//
// Choices. A ready op in single-stream form goes to the idle stream where it needs the fewest
// waits; in gang form it goes to all streams, and nothing else is issued until they have gathered.
// One may also wait: let time pass until the next op finishes.
//
// Early calls. A schedule holds no pauses: a stream goes on as soon as it can. What it can hold is
// a call that is issued before its inputs are computed, as soon as these are under way. It keeps an
// idle stream idle until they are; or it stands behind the call of another op that still runs, and
// waits for that although other streams may be idle.
#ifndef TOP_PASSES_ROLLOUT_H_
#define TOP_PASSES_ROLLOUT_H_

#include <vector>

#include "runtime/simulator.h"

namespace top {

// What can be issued now. `waits` is what derive_waits will give the call.
struct Candidate {
  int op;      // -1: wait
  int stream;  // the idle stream with the fewest waits; 0 for a gang call
  bool gang;
  int waits;
};

// What `behind` says about ops that are not issued early; else it is the op whose call the early
// one stands behind, or the op itself, which keeps an idle stream.
constexpr int kNotEarly = -1;

// Not for use by two threads at once; copies are independent. The problem must outlive it.
class Rollout {
 public:
  explicit Rollout(const Problem& problem);

  // Back to the beginning, without allocation.
  void reset();
  // Which ops are issued early, see kNotEarly; nullptr: none. Follow it by reset(), and do not
  // change what it says of an op whose inputs are under way.
  void allow_early(const std::vector<int>* behind) { behind_ = behind; }
  // Lets time pass until there is a choice. False when everything has finished.
  bool advance();
  // The idle stream where the op needs the fewest waits, of equals the one that is idle longest.
  // There must be an idle stream.
  Candidate place(int op);
  // The same for an early call: where it is to stand, if that op still runs and nothing else stands
  // behind it.
  Candidate place_early(int op);
  Candidate gang(int op) const { return {op, 0, true, 0}; }
  // Carries out a choice; advance() is next.
  void issue(const Candidate& candidate);

  // Ops that are not issued and whose inputs are computed, or under way if they are early. Those
  // that became ready since the last issue() stand at the end, otherwise they are in no particular
  // order.
  const std::vector<int>& ready() const { return ready_; }
  double now_us() const { return device_.now_us(); }
  int num_idle() const { return num_idle_; }
  bool anything_runs() const { return num_running_ > 0; }
  // Sum of the demands of the kernels that run.
  double bandwidth() const { return bandwidth_; }
  double compute() const { return compute_; }
  // Predecessors of the op that are not finished.
  int missing(int op) const { return missing_[op]; }
  // What was issued so far; stages and groups are 0.
  const Schedule& schedule() const { return schedule_; }

 private:
  static constexpr int kIdle = -1;
  static constexpr int kKept = -2;    // idle, for an early call
  static constexpr int kNobody = -1;  // stands there
  static constexpr int kIssued = -1;

  bool is_early(int op) const { return behind_ && (*behind_)[op] != kNotEarly; }
  void add_ready(int op);
  void add_early(int pred);
  void stand(int stream, const Candidate& candidate);
  void begin_early(int op);
  void begin(int slot, int position, double overhead_us);
  void start_kernel(int slot);
  void finish_kernel(int slot);
  void issue_gang();
  bool step();
  int count_waits(int op, int stream);
  int merge_clocks(int op, int stream);
  int* finished(int op) { return &finished_[static_cast<size_t>(op) * streams_]; }
  int* known(int stream) { return &known_[static_cast<size_t>(stream) * streams_]; }

  const Problem* problem_;
  int streams_;
  SharedDevice device_;
  Schedule schedule_;
  std::vector<int> ready_;
  std::vector<int> ready_at_;  // per ready op: its index in ready_
  const std::vector<int>* behind_ = nullptr;
  std::vector<int> missing_;           // per op
  std::vector<int> unissued_;          // per op: predecessors to issue, or kIssued; if behind_
  std::vector<int> position_;          // per op, where it is issued
  std::vector<int> stream_of_;         // per issued op
  std::vector<int> number_;            // per issued op: its number among the calls of its stream
  std::vector<int> running_;           // position per slot, or kIdle, or kKept
  std::vector<int> standing_;          // per stream: an early call that has not begun, or kNobody
  std::vector<int> standing_waits_;    // per stream: of that call
  std::vector<char> in_kernel_;        // per slot: kernel or overhead
  std::vector<double> idle_since_us_;  // per stream
  std::vector<int> finished_;  // [op][stream]: calls that the end of the op implies, as a clock
  std::vector<int> known_;     // [stream][stream]
  std::vector<int> issued_;    // calls per stream
  std::vector<int> sources_, clock_;  // scratch of merge_clocks()
  int num_idle_ = 0;
  int num_running_ = 0;
  int num_standing_ = 0;
  int gang_op_ = -1;      // waits for all streams
  bool waiting_ = false;  // the choice was to let time pass
  double bandwidth_ = 0;
  double compute_ = 0;
};

}  // namespace top

#endif  // TOP_PASSES_ROLLOUT_H_
