"""Tasks offered to a system at given times, whatever it does with them.

Latency counts from when a task was to arrive, so that a slow system cannot slow its clients down
and look better for it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving_support.arrivals import Arrival
from serving_support.systems import QUEUE_SIZE, System

COMPLETED, REJECTED, EXPIRED, FAILED = "completed", "rejected", "expired", "failed"
_PATIENCE_S = 60.0


@dataclass
class Outcome:
    """What became of the tasks of one run; one entry per arrival, times from the start."""

    arrivals: Sequence[Arrival]
    ends: list[str]
    ended_s: list[float]
    backlog_max: int = 0
    late_submits_ms: float = 0.0  # by how much the driver itself was late, 99th percentile
    by_model: dict[str, Counter[str]] = field(default_factory=dict)

    def latencies_ms(self, model: str | None = None) -> list[float]:
        """Of completed tasks."""
        return [
            1e3 * (ended_s - arrival.at_s)
            for arrival, end, ended_s in zip(self.arrivals, self.ends, self.ended_s, strict=True)
            if end == COMPLETED and model in (None, arrival.model)
        ]

    def good(self, model: str | None = None) -> int:
        """Tasks completed within their deadlines."""
        return sum(
            end == COMPLETED and ended_s - arrival.at_s <= arrival.deadline_s
            for arrival, end, ended_s in zip(self.arrivals, self.ends, self.ended_s, strict=True)
            if model in (None, arrival.model)
        )


def offer(system: System, arrivals: Sequence[Arrival]) -> Outcome:
    """Submit every task at its time, and wait until all have ended.

    Raises
    ------
    TimeoutError
        If tasks have not ended a minute after the last one arrived.
    """
    count = len(arrivals)
    ends, ended_s = [""] * count, [math.nan] * count
    late_s = [0.0] * count
    open_tasks, open_max = 0, 0
    lock, all_ended = threading.Lock(), threading.Event()
    start_s = time.perf_counter() + 0.01

    def done(index: int, end: str) -> None:
        nonlocal open_tasks
        ended_s[index] = time.perf_counter() - start_s
        ends[index] = end
        with lock:
            open_tasks -= 1
            if open_tasks == 0:
                all_ended.set()

    with lock:
        open_tasks = 1  # the driver's own: all_ended is not set while it submits
    for index, arrival in enumerate(arrivals):
        wait_s = start_s + arrival.at_s - time.perf_counter()
        if wait_s > 0:
            time.sleep(wait_s)
        late_s[index] = time.perf_counter() - start_s - arrival.at_s
        with lock:
            open_tasks += 1
            open_max = max(open_max, open_tasks - 1)
        # A deadline counts from the arrival, not from when the driver woke up.
        left_s = max(arrival.deadline_s - late_s[index], 1e-6)
        system.submit(arrival.model, left_s, lambda end, at=index: done(at, end))
    with lock:
        open_tasks -= 1
        if open_tasks == 0:
            all_ended.set()
    if not all_ended.wait(_PATIENCE_S):
        missing = ends.count("")
        raise TimeoutError(f"{system.name}: {missing} of {count} tasks have not ended")
    return Outcome(arrivals, ends, ended_s, open_max, 1e3 * float(np.percentile(late_s, 99)))


def summary(outcome: Outcome, duration_s: float) -> dict[str, Any]:
    """Numbers of a run, over all models and per model."""
    counts = Counter(outcome.ends)
    last_arrival_s = max(arrival.at_s for arrival in outcome.arrivals)
    models = sorted({arrival.model for arrival in outcome.arrivals})
    # All tasks end after the last arrival at the earliest, or the time would be that of a burst.
    total_s = max(duration_s, *outcome.ended_s)
    return {
        "submitted": len(outcome.ends),
        **{end: counts[end] for end in (COMPLETED, REJECTED, EXPIRED, FAILED)},
        "throughput": counts[COMPLETED] / total_s,
        "goodput": outcome.good() / total_s,
        "good_share": outcome.good() / len(outcome.ends),
        **_percentiles(outcome.latencies_ms()),
        "drain_s": max(0.0, max(outcome.ended_s) - last_arrival_s),
        "backlog_max": outcome.backlog_max,
        "driver_late_p99_ms": outcome.late_submits_ms,
        "models": {
            model: {
                "submitted": sum(arrival.model == model for arrival in outcome.arrivals),
                "goodput": outcome.good(model) / total_s,
                **_percentiles(outcome.latencies_ms(model)),
            }
            for model in models
        },
    }


def saturated_throughput(system: System, models: Sequence[str], least_s: float) -> float:
    """Tasks per second, as many of each model, from full queues: bursts, one after the other."""
    burst = [Arrival(0.0, model, math.inf) for _ in range(QUEUE_SIZE) for model in models]
    tasks, total_s = 0, 0.0
    while total_s < least_s:
        outcome = offer(system, burst)
        tasks += outcome.ends.count(COMPLETED)
        total_s += max(outcome.ended_s)
    return tasks / total_s


def lone_latency_s(system: System, models: Sequence[str], runs: int) -> Mapping[str, float]:
    """Median time of a task that has the system to itself, per model."""
    found = {}
    for model in models:
        times_s = []
        for _ in range(runs):
            outcome = offer(system, [Arrival(0.0, model, math.inf)])
            times_s.append(outcome.ended_s[0])
        found[model] = float(np.median(times_s))
    return found


def _percentiles(latencies_ms: Sequence[float]) -> dict[str, float | None]:
    if not latencies_ms:
        return {"p50_ms": None, "p95_ms": None, "p99_ms": None}
    p50, p95, p99 = (float(value) for value in np.percentile(latencies_ms, (50, 95, 99)))
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99}
