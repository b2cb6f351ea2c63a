// How long a local search goes on, and how much worse it lets a schedule become on the way.
#ifndef TOP_PASSES_SEARCH_LIMITS_H_
#define TOP_PASSES_SEARCH_LIMITS_H_

#include <chrono>
#include <cmath>
#include <cstdint>
#include <random>

namespace top {

struct SearchLimits {
  double max_ms = 100;        // of wall time
  int64_t max_schedules = 0;  // 0: no limit. With a limit the result depends on the seed alone
                              // as long as time suffices.
  double temperature = 0;     // 0: only improvements (and sideways moves); else annealing, from
                              // this down to nothing
  uint64_t seed = 0;
  bool waits = false;  // whether a search that is stuck may try early calls, see passes/rollout.h
};

// Counts the tries of a search, the schedule that it starts from included.
class SearchProgress {
 public:
  explicit SearchProgress(const SearchLimits& limits) : limits_(limits) {}

  // Whether there may be one more.
  bool next() {
    ++tried_;
    if (limits_.max_schedules > 0 && tried_ >= limits_.max_schedules) return false;
    const double spent_ms =
        std::chrono::duration<double, std::milli>(Clock::now() - begin_).count();
    if (spent_ms >= limits_.max_ms) return false;
    left_ = limits_.max_schedules > 0 ? 1 - static_cast<double>(tried_) / limits_.max_schedules
                                      : 1 - spent_ms / limits_.max_ms;
    return true;
  }

  // Share of the tries, or of the time, that is left.
  double left() const { return left_; }

  // How much worse the next schedule may be, in units of the temperature: Metropolis' rule, the
  // random number drawn before the evaluation, which can then stop early.
  double slack(std::mt19937_64& random) const {
    if (limits_.temperature <= 0) return 0;
    const double uniform = std::uniform_real_distribution<>(1e-12, 1)(random);
    return -std::log(uniform) * limits_.temperature * left_;
  }

 private:
  using Clock = std::chrono::steady_clock;

  const SearchLimits& limits_;
  const Clock::time_point begin_ = Clock::now();
  int64_t tried_ = 0;
  double left_ = 1;
};

}  // namespace top

#endif  // TOP_PASSES_SEARCH_LIMITS_H_
