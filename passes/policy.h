// The decoder of GPG: a small network scores what can be issued, and one of it is drawn. Encoding
// the graph, which is the expensive part, is done once per graph elsewhere (Python, a graph neural
// network); what it says about an op arrives here as a vector.
//
//     score(candidate) = skip . f + out . relu(embedding[op] + dynamic^T f)
//
// with f the features below. Rows of `embedding` hold the hidden layer's input from the op with its
// bias; the last row stands for waiting. Where very many ops are ready only the most urgent of them
// are looked at, so that the time per choice does not grow with the width of the graph.
#ifndef TOP_PASSES_POLICY_H_
#define TOP_PASSES_POLICY_H_

#include <array>
#include <cstdint>
#include <vector>

#include "passes/demand.h"
#include "passes/ranked_set.h"
#include "passes/rollout.h"

namespace top {

// What a candidate looks like in the state it is looked at.
enum Feature {
  kUrgency,      // path to the end of the graph, relative to the longest of the ready ops
  kPathBound,    // that path relative to the work that is left per stream
  kWaits,        // cost of waits relative to the op's time
  kBandwidth,    // by how much the bandwidth would be oversubscribed
  kCompute,      // the same for compute
  kIdle,         // share of the streams that is idle
  kReady,        // ready ops per stream
  kUnlocks,      // successors that only wait for this op, per stream
  kTime,         // log of the op's time relative to the mean
  kGang,         // 1 for the form on all streams
  kGangDrain,    // share of the streams that must gather first, for a gang call
  kGangSpeedup,  // time of the single form over streams x that of the gang form
  kWait,         // 1 for letting time pass
  kNumFeatures,
};
using Features = std::array<float, kNumFeatures>;

// Weights of the decoder; `hidden` wide.
struct Policy {
  int hidden = 0;
  std::vector<float> embedding;  // [num_ops + 1][hidden]
  std::vector<float> dynamic;    // [kNumFeatures][hidden]
  std::vector<float> out;        // [hidden]
  std::vector<float> skip;       // [kNumFeatures]
};

// The choices of one rollout, for training: candidates of all steps one after the other.
struct Trajectory {
  std::vector<int> op;          // per candidate; num_ops for waiting
  std::vector<float> features;  // per candidate, kNumFeatures each
  std::vector<int> begin;       // per step: its first candidate
  std::vector<int> chosen;      // per step: index into `op`
  double makespan_us = 0;
  Schedule schedule;
};

// Makes schedules of one problem by a policy. Not for use by two threads at once.
class Decoder {
 public:
  // Throws std::invalid_argument unless the sizes of the weights fit the problem.
  Decoder(const Problem& problem, const Policy& policy);

  // One schedule; stages are not numbered. With temperature 0 the best candidate is taken, else
  // one is drawn by softmax of score / temperature. The result stays valid until the next call.
  const Schedule& decode(double temperature, uint64_t seed, Trajectory* record = nullptr);
  // Follows an order instead: of what is ready the op that comes first, in the form given.
  const Schedule& follow(const Schedule& order, Trajectory* record);
  // Time of the last schedule as simulate() gives it. An op that was issued after waiting although
  // it had been ready before starts earlier than in the rollout: a schedule does not hold pauses.
  double makespan_us() const;

 private:
  void look(int include = -1);
  bool advance();
  void add_forms(int op);
  void add(const Candidate& candidate);
  float score(const Candidate& candidate, const Features& features) const;
  void note(size_t choice, Trajectory* record) const;
  void begin(Trajectory* record);
  void issue(size_t choice);

  const Problem& problem_;
  const Policy& policy_;
  Rollout rollout_;
  const std::vector<Demand> demands_;
  const Urgency urgency_;
  double mean_us_ = 1;
  double total_us_ = 0;
  double left_us_ = 0;  // work that is not issued
  bool waited_ = false;
  // The present choice.
  RankedSet ready_;         // ready ops, by urgency
  size_t known_ready_ = 0;  // ops that are in it
  std::vector<Candidate> candidates_;
  std::vector<Features> features_;
  double longest_us_ = 0;  // of the ready ops
};

}  // namespace top

#endif  // TOP_PASSES_POLICY_H_
