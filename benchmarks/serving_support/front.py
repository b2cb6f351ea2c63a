"""The queues in front of other systems: bounded, by deadline, and with shedding, as in ours.

The rules are those of ``runtime/serving/task_scheduler.cc``: a task is refused if its model's
queue is full, or if what waits and runs already leaves it too little time; when its turn comes it
is given up if it could not end in time any more. Across models the earliest deadline is first.
It is Python, where ours is C++: :func:`overhead_us` measures what that costs a task.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from serving_support.systems import QUEUE_SIZE, Done

_NEW_WEIGHT = 0.05  # of a measurement, in the running mean of service times


@dataclass(frozen=True, slots=True)
class Task:
    """One that waits or runs."""

    model: str
    deadline_s: float  # on the clock of perf_counter
    done: Done


class Front:
    """Thread-safe. ``places`` tasks execute at a time.

    Parameters
    ----------
    service_s : mapping of str to float
        First guess of the time of a task of each model, alone.
    places : int
        Tasks that are executed side by side.
    """

    def __init__(self, service_s: Mapping[str, float], places: int) -> None:
        self._places = places
        self._lone_s = dict(service_s)
        self._service_s = dict(service_s)  # side by side with others: measured
        self._queues: dict[str, deque[Task]] = {model: deque() for model in service_s}
        self._running = dict.fromkeys(service_s, 0)
        self._changed = threading.Condition()
        self._closed = False

    def submit(self, model: str, deadline_s: float, done: Done) -> None:
        """Queue a task, or refuse it."""
        now_s = time.perf_counter()
        with self._changed:
            full = len(self._queues[model]) >= QUEUE_SIZE
            late = not math.isinf(deadline_s) and self._expected_s(model) > deadline_s
            if not full and not late:
                self._queues[model].append(Task(model, now_s + deadline_s, done))
                self._changed.notify()
        if full:
            done("rejected")
        elif late:
            done("expired")

    def take(self) -> Task | None:
        """Wait for the next task that can still end in time; None once it is closed."""
        while True:
            expired: list[Task] = []
            with self._changed:
                self._changed.wait_for(lambda: self._closed or any(self._queues.values()))
                if self._closed:
                    return None
                task = self._next(expired)
                if task is not None:
                    self._running[task.model] += 1
            for late in expired:
                late.done("expired")
            if task is not None:
                return task

    def finished(self, task: Task, took_s: float, end: str = "completed") -> None:
        """Tell the client, and learn from the time that it took."""
        with self._changed:
            self._running[task.model] -= 1
            mean_s = self._service_s[task.model]
            self._service_s[task.model] += _NEW_WEIGHT * (took_s - mean_s)
        task.done(end)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next(self, expired: list[Task]) -> Task | None:
        now_s = time.perf_counter()
        for model, queue in self._queues.items():
            while queue and now_s + self._lone_s[model] > queue[0].deadline_s:
                expired.append(queue.popleft())
        waiting = [queue for queue in self._queues.values() if queue]
        if not waiting:
            return None
        return min(waiting, key=lambda queue: queue[0].deadline_s).popleft()

    def _expected_s(self, model: str) -> float:
        work_s = {name: time_s / self._places for name, time_s in self._service_s.items()}
        counts = {name: len(queue) + self._running[name] for name, queue in self._queues.items()}
        ahead_s = work_s[model] * counts[model]
        others_s = sum(
            min(counts[name] * work_s[name], ahead_s + work_s[model])
            for name in counts
            if name != model
        )
        return ahead_s + others_s + self._lone_s[model]


def overhead_us(tasks: int = 2000) -> float:
    """Time of a task that is nothing, through queue, thread and callback, one after the other."""
    front = Front({"nothing": 1e-6}, 1)
    ended = threading.Semaphore(0)

    def work() -> None:
        while (task := front.take()) is not None:
            front.finished(task, 1e-6)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    begin_s = time.perf_counter()
    for _ in range(tasks):
        front.submit("nothing", math.inf, lambda end: ended.release())
        ended.acquire()
    took_s = time.perf_counter() - begin_s
    front.close()
    worker.join()
    return 1e6 * took_s / tasks
