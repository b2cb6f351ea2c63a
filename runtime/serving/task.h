// A task: one request for one inference of one model, from submission to its end.
#pragma once

#include <cstdint>
#include <limits>

namespace top {

// Points in time are nanoseconds of a monotonic clock; which one is the caller's business, so that
// the same code runs on a virtual one.
using Nanoseconds = int64_t;
constexpr Nanoseconds kNever = std::numeric_limits<Nanoseconds>::max();

// Larger is more urgent. Classes of one model are strictly ordered; across models see Launcher.
constexpr int kPriorities = 8;

enum class TaskState {
  kQueued,
  kRunning,    // launched: part of an instance
  kCompleted,  // and all that follow are final
  kRejected,   // the queue was full
  kExpired,    // its deadline cannot be met any more
  kCancelled,
  kFailed,  // a kernel raised an error
};

inline bool is_final(TaskState state) { return state >= TaskState::kCompleted; }

// Owned by whoever submits it; must live until it is final. Written by TaskScheduler only.
struct Task {
  int model = 0;
  int priority = 0;
  Nanoseconds submitted_ns = 0;
  Nanoseconds deadline_ns = kNever;
  Nanoseconds launched_ns = 0;
  Nanoseconds finished_ns = 0;
  double predicted_us = 0;  // from launch to delivery
  TaskState state = TaskState::kQueued;
  bool cancel_requested = false;  // while running: takes effect when its segment ends
  // Links of the queue's list.
  Task* previous = nullptr;
  Task* next = nullptr;
};

}  // namespace top
