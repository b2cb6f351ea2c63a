// The waiting tasks of one model: a bounded queue with priority classes.
#pragma once

#include <array>
#include <cstddef>

#include "runtime/serving/task.h"

namespace top {

// First come, first served within a class; a class comes after all more urgent ones. Everything but
// `ahead_of` takes constant time, and nothing allocates. Not thread-safe.
class TaskQueue {
 public:
  explicit TaskQueue(size_t capacity) : capacity_(capacity) {}

  bool full() const { return size_ == capacity_; }
  size_t size() const { return size_; }
  // Tasks that would be dequeued before a new one of this priority.
  size_t ahead_of(int priority) const;

  // The queue must not be full.
  void push(Task* task);
  // The task to be dequeued next; null if there is none.
  Task* front() const;
  // The one after it.
  Task* second() const;
  // The task must be in this queue.
  void remove(Task* task);

 private:
  struct List {
    Task* first = nullptr;
    Task* last = nullptr;
    size_t size = 0;
  };

  std::array<List, kPriorities> classes_;
  size_t size_ = 0;
  const size_t capacity_;
};

}  // namespace top
