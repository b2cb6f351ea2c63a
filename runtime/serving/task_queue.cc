#include "runtime/serving/task_queue.h"

namespace top {

size_t TaskQueue::ahead_of(int priority) const {
  size_t ahead = 0;
  for (int other = priority; other < kPriorities; ++other) ahead += classes_[other].size;
  return ahead;
}

void TaskQueue::push(Task* task) {
  List& list = classes_[task->priority];
  task->previous = list.last;
  task->next = nullptr;
  (list.last != nullptr ? list.last->next : list.first) = task;
  list.last = task;
  ++list.size;
  ++size_;
}

Task* TaskQueue::front() const {
  for (int priority = kPriorities; priority-- > 0;) {
    if (classes_[priority].first != nullptr) return classes_[priority].first;
  }
  return nullptr;
}

Task* TaskQueue::second() const {
  Task* first = nullptr;
  for (size_t i = classes_.size(); i-- > 0;) {
    for (Task* task = classes_[i].first; task != nullptr; task = task->next) {
      if (first != nullptr) return task;
      first = task;
    }
  }
  return nullptr;
}

void TaskQueue::remove(Task* task) {
  List& list = classes_[task->priority];
  (task->previous != nullptr ? task->previous->next : list.first) = task->next;
  (task->next != nullptr ? task->next->previous : list.last) = task->previous;
  task->previous = task->next = nullptr;
  --list.size;
  --size_;
}

}  // namespace top
