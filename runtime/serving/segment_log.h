// What was executed when: the latest segments, if anybody wants to see them.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/serving/task.h"

namespace top {

// One instance in one segment.
struct SegmentRun {
  uint64_t instance = 0;  // in order of launches
  int variant = 0, model = 0, segment = 0, lane = 0;
  int tasks = 0;  // of its batch
  Nanoseconds begin_ns = 0, end_ns = 0;
};

// A ring that keeps nothing unless it is told to.
class SegmentLog {
 public:
  // Forgets what there is, and keeps the latest `count` from now on.
  void keep(size_t count) {
    count_ = count;
    next_ = 0;
    runs_.clear();
    runs_.reserve(count);
  }
  void add(const SegmentRun& run) {
    if (count_ == 0) return;
    if (runs_.size() < count_) {
      runs_.push_back(run);
    } else {
      runs_[next_] = run;
    }
    next_ = (next_ + 1) % count_;
  }
  // In the order in which they ended.
  std::vector<SegmentRun> runs() const {
    std::vector<SegmentRun> ordered;
    const size_t oldest = runs_.size() < count_ ? 0 : next_;
    for (size_t i = 0; i < runs_.size(); ++i) ordered.push_back(runs_[(oldest + i) % runs_.size()]);
    return ordered;
  }

 private:
  size_t count_ = 0;
  size_t next_ = 0;
  std::vector<SegmentRun> runs_;
};

}  // namespace top
