#include "passes/policy.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <stdexcept>
#include <string>

namespace top {

namespace {

void check_size(const char* name, size_t size, size_t expected) {
  if (size != expected) {
    throw std::invalid_argument(std::string("The policy's ") + name + " has " +
                                std::to_string(size) + " numbers, expected " +
                                std::to_string(expected) + ".");
  }
}

// Ready ops that are scored.
constexpr int kMostOps = 16;

float clipped(double value, double most) { return static_cast<float>(std::min(value, most)); }

double positive(double us) { return std::max(us, 1e-3); }

}  // namespace

Decoder::Decoder(const Problem& problem, const Policy& policy)
    : problem_(problem),
      policy_(policy),
      rollout_(problem),
      demands_(demands_of(problem)),
      urgency_(demands_),
      ready_(problem.graph.num_ops) {
  const size_t hidden = static_cast<size_t>(policy.hidden);
  const size_t num_ops = static_cast<size_t>(problem.graph.num_ops);
  check_size("embedding", policy.embedding.size(), (num_ops + 1) * hidden);
  check_size("dynamic", policy.dynamic.size(), kNumFeatures * hidden);
  check_size("out", policy.out.size(), hidden);
  check_size("skip", policy.skip.size(), kNumFeatures);
  for (int op = problem.graph.num_ops - 1; op >= 0; --op) {
    total_us_ += problem.costs[op].single.time_us;
  }
  if (problem.graph.num_ops > 0) mean_us_ = positive(total_us_ / problem.graph.num_ops);
}

const Schedule& Decoder::decode(double temperature, uint64_t seed, Trajectory* record) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> uniform(1e-9f, 1.0f);
  begin(record);
  while (advance()) {
    look();
    size_t best = 0;
    float best_score = 0;
    for (size_t i = 0; i < candidates_.size(); ++i) {
      float value = score(candidates_[i], features_[i]);
      // The maximum of scores with Gumbel noise is a draw from their softmax.
      if (temperature > 0) {
        value = value / static_cast<float>(temperature) - std::log(-std::log(uniform(random)));
      }
      if (i == 0 || value > best_score) {
        best = i;
        best_score = value;
      }
    }
    note(best, record);
    issue(best);
  }
  if (record) record->makespan_us = makespan_us();
  return rollout_.schedule();
}

const Schedule& Decoder::follow(const Schedule& order, Trajectory* record) {
  std::vector<int> place(order.size());  // where an op comes in the order
  std::vector<char> gang(order.size());
  for (size_t at = 0; at < order.size(); ++at) {
    place[order[at].op] = static_cast<int>(at);
    gang[order[at].op] = is_gang(order[at], problem_.device.streams);
  }
  begin(record);
  while (advance()) {
    const auto& ready = rollout_.ready();
    const int next = *std::min_element(ready.begin(), ready.end(),
                                       [&](int a, int b) { return place[a] < place[b]; });
    look(next);
    const auto wanted =
        std::find_if(candidates_.begin(), candidates_.end(), [&](const Candidate& candidate) {
          return candidate.op == next && candidate.gang == static_cast<bool>(gang[next]);
        });
    const size_t choice = static_cast<size_t>(wanted - candidates_.begin());
    note(choice, record);
    issue(choice);
  }
  if (record) record->makespan_us = makespan_us();
  return rollout_.schedule();
}

// Lets time pass until there is a choice.
bool Decoder::advance() {
  if (!rollout_.advance()) return false;
  const auto& ready = rollout_.ready();
  for (; known_ready_ < ready.size(); ++known_ready_) {
    ready_.insert(urgency_.rank[ready[known_ready_]]);
  }
  return true;
}

double Decoder::makespan_us() const {
  return waited_ ? simulate(problem_, rollout_.schedule()).makespan_us : rollout_.now_us();
}

void Decoder::begin(Trajectory* record) {
  rollout_.reset();
  ready_.clear();
  known_ready_ = 0;
  left_us_ = total_us_;
  waited_ = false;
  if (!record) return;
  record->op.clear();
  record->features.clear();
  record->begin.clear();
  record->chosen.clear();
}

// Lists the candidates with their features: the most urgent ops, and one more if it is not of them.
void Decoder::look(int include) {
  candidates_.clear();
  features_.clear();
  int rank = ready_.first();
  longest_us_ = std::max(1e-3, demands_[urgency_.op_at[rank]].path_us);
  for (int count = 0; count < kMostOps && rank != RankedSet::kNone; ++count) {
    add_forms(urgency_.op_at[rank]);
    rank = ready_.next(rank + 1);
  }
  if (include >= 0 && rank != RankedSet::kNone && urgency_.rank[include] >= rank) {
    add_forms(include);
  }
  if (rollout_.anything_runs()) add({-1, 0, false, 0});
}

void Decoder::add_forms(int op) {
  add(rollout_.place(op));
  if (is_moldable(problem_, op)) add(rollout_.gang(op));
}

void Decoder::add(const Candidate& candidate) {
  const int streams = problem_.device.streams;
  Features f{};
  f[kIdle] = static_cast<float>(rollout_.num_idle()) / streams;
  f[kReady] = clipped(static_cast<double>(rollout_.ready().size()) / streams, 4);
  if (candidate.op < 0) {
    f[kWait] = 1;
  } else {
    const OpCost& cost = problem_.costs[candidate.op];
    const OpForm& form = candidate.gang ? cost.gang : cost.single;
    int unlocks = 0;
    for (int succ : problem_.graph.succs[candidate.op]) unlocks += rollout_.missing(succ) == 1;
    f[kUrgency] = static_cast<float>(demands_[candidate.op].path_us / longest_us_);
    f[kPathBound] = clipped(demands_[candidate.op].path_us * streams / positive(left_us_), 4);
    f[kWaits] = clipped(candidate.waits * problem_.device.wait_us / positive(form.time_us), 2);
    f[kBandwidth] = static_cast<float>(std::max(0.0, rollout_.bandwidth() + form.bandwidth - 1));
    f[kCompute] = static_cast<float>(std::max(0.0, rollout_.compute() + form.compute - 1));
    f[kUnlocks] = clipped(static_cast<double>(unlocks) / streams, 2);
    f[kTime] = static_cast<float>(std::log(positive(form.time_us) / mean_us_));
    if (candidate.gang) {
      f[kGang] = 1;
      f[kGangDrain] = 1 - f[kIdle];
      f[kGangSpeedup] = clipped(cost.single.time_us / (streams * positive(form.time_us)), 2);
    }
  }
  candidates_.push_back(candidate);
  features_.push_back(f);
}

float Decoder::score(const Candidate& candidate, const Features& features) const {
  const int hidden = policy_.hidden;
  const size_t row = candidate.op < 0 ? static_cast<size_t>(problem_.graph.num_ops)
                                      : static_cast<size_t>(candidate.op);
  const float* embedding = &policy_.embedding[row * hidden];
  float total = 0;
  for (int f = 0; f < kNumFeatures; ++f) total += policy_.skip[f] * features[f];
  constexpr int kBlock = 16;
  for (int first = 0; first < hidden; first += kBlock) {
    float sums[kBlock];
    const int width = std::min(kBlock, hidden - first);
    for (int h = 0; h < width; ++h) sums[h] = embedding[first + h];
    for (int f = 0; f < kNumFeatures; ++f) {
      const float value = features[f];
      const float* weights = &policy_.dynamic[static_cast<size_t>(f) * hidden + first];
      for (int h = 0; h < width; ++h) sums[h] += value * weights[h];
    }
    for (int h = 0; h < width; ++h) total += policy_.out[first + h] * std::max(sums[h], 0.0f);
  }
  return total;
}

void Decoder::note(size_t choice, Trajectory* record) const {
  if (!record) return;
  record->begin.push_back(static_cast<int>(record->op.size()));
  record->chosen.push_back(static_cast<int>(record->op.size() + choice));
  for (size_t i = 0; i < candidates_.size(); ++i) {
    const int op = candidates_[i].op;
    record->op.push_back(op < 0 ? problem_.graph.num_ops : op);
    record->features.insert(record->features.end(), features_[i].begin(), features_[i].end());
  }
}

void Decoder::issue(size_t choice) {
  const Candidate candidate = candidates_[choice];
  waited_ |= candidate.op < 0;
  if (candidate.op >= 0) {
    left_us_ -= problem_.costs[candidate.op].single.time_us;
    ready_.erase(urgency_.rank[candidate.op]);
    --known_ready_;
  }
  rollout_.issue(candidate);
}

}  // namespace top
