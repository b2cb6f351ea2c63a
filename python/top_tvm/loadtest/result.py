"""Counts and times of a load test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from top_tvm.loadtest.record import ENDS, LoadTask, Record


@dataclass(frozen=True)
class Outcome:
    """What became of some tasks: ``submitted`` is the sum of the five counts behind it.

    Attributes
    ----------
    submitted, completed, rejected, expired, cancelled, failed : int
        Tasks. Those that the runtime refused count as submitted, too.
    throughput, goodput : float
        Tasks per second that completed, and that did so within their deadline.
    p50_ms, p95_ms, p99_ms : float or None
        Latency of completed tasks, from the intended arrival on; None if there are none.
    backlog_max : int
        Most tasks that had been accepted and had not ended.
    utilisation : float
        Share of the streams' time, 0 to 1.
    """

    submitted: int
    completed: int
    rejected: int
    expired: int
    cancelled: int
    failed: int
    throughput: float
    goodput: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    backlog_max: int
    utilisation: float


@dataclass(frozen=True)
class LoadResult:
    """A whole load test.

    Attributes
    ----------
    total : Outcome
        Over all models.
    models : dict of str to Outcome
        By name. Utilisations add up to that of all.
    variants : dict of str to float
        Share of the time that each variant was the current one, most of it first.
    elapsed_s : float
        What rates refer to.
    late_p99_ms : float or None
        How long after its arrival a task was submitted, 99th percentile: the error of the load
        generator, part of the latencies.
    interrupted : bool
        Whether the test was ended early.
    settings : dict
        How it was run: seed, mode, controller and so on.
    """

    total: Outcome
    models: dict[str, Outcome]
    variants: dict[str, float]
    elapsed_s: float
    late_p99_ms: float | None
    interrupted: bool
    settings: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """With the fixed keys of ``top-tvm loadtest --json``."""
        return {
            **asdict(self.total),
            "models": {name: asdict(outcome) for name, outcome in self.models.items()},
            "variants": self.variants,
            "elapsed_s": self.elapsed_s,
            "late_p99_ms": self.late_p99_ms,
            "interrupted": self.interrupted,
            **self.settings,
        }


def summarize(
    record: Record, *, deadline_ms: float | None = None, settings: dict[str, Any] | None = None
) -> LoadResult:
    """Count and time what is in a record.

    Parameters
    ----------
    record : Record
        All tasks have ended.
    deadline_ms : float, optional
        Of every task, from its intended arrival on.
    settings : dict, optional
        Kept as they are.
    """
    utilisation = _utilisation(record)
    of_model: dict[str, list[LoadTask]] = {name: [] for name in record.models}
    for task in record.tasks:
        of_model[task.model].append(task)
    work = {
        name: work_us * sum(task.end == "completed" for task in of_model[name])
        for name, work_us in zip(record.models, record.work_us, strict=True)
    }
    all_work = sum(work.values()) or 1.0
    late_s = [task.submitted_s - task.arrival_s for task in record.tasks]
    return LoadResult(
        total=_outcome(record.tasks, record.elapsed_s, deadline_ms, utilisation),
        models={
            name: _outcome(
                tasks, record.elapsed_s, deadline_ms, utilisation * work[name] / all_work
            )
            for name, tasks in of_model.items()
        },
        variants=variant_shares(record),
        elapsed_s=record.elapsed_s,
        late_p99_ms=1e3 * float(np.nanquantile(late_s, 0.99)) if late_s else None,
        interrupted=record.interrupted,
        settings=dict(settings or {}),
    )


def variant_shares(record: Record) -> dict[str, float]:
    """Share of the samples of each variant, the largest first."""
    counts = Counter(sample.variant for sample in record.samples)
    return {name: count / len(record.samples) for name, count in counts.most_common()}


def backlog_steps(tasks: Sequence[LoadTask]) -> tuple[Any, Any]:
    """Times, ascending, and the number of tasks from then on that were accepted and go on."""
    accepted = [task for task in tasks if task.end not in ("rejected", "waiting")]
    begins = np.array([task.submitted_s for task in accepted], dtype=np.float64)
    ends = np.array([task.finished_s for task in accepted], dtype=np.float64)
    times = np.concatenate([ends, begins])
    changes = np.concatenate([np.full(len(ends), -1), np.full(len(begins), 1)])
    # At the same time, ends come first; but a task never ends before it begins.
    ended_at_once = np.concatenate([ends <= begins, ends <= begins])
    times, changes = times[~ended_at_once], changes[~ended_at_once]
    order = np.argsort(times, kind="stable")
    return times[order], np.cumsum(changes[order])


def _outcome(
    tasks: Sequence[LoadTask], elapsed_s: float, deadline_ms: float | None, utilisation: float
) -> Outcome:
    counts = Counter(task.end for task in tasks)
    unknown = counts.keys() - set(ENDS)
    if unknown:
        raise ValueError(f"tasks have not ended: {sorted(unknown)}")
    latency_ms = 1e3 * np.array(
        [task.finished_s - task.arrival_s for task in tasks if task.end == "completed"]
    )
    in_time = len(latency_ms) if deadline_ms is None else int((latency_ms <= deadline_ms).sum())
    p50, p95, p99 = (
        map(float, np.quantile(latency_ms, (0.5, 0.95, 0.99)))
        if len(latency_ms)
        else (None, None, None)
    )
    seconds = max(elapsed_s, 1e-9)
    _, backlog = backlog_steps(tasks)
    return Outcome(
        submitted=len(tasks),
        completed=counts["completed"],
        rejected=counts["rejected"],
        expired=counts["expired"],
        cancelled=counts["cancelled"],
        failed=counts["failed"],
        throughput=counts["completed"] / seconds,
        goodput=in_time / seconds,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        backlog_max=int(backlog.max()) if len(backlog) else 0,
        utilisation=utilisation,
    )


def _utilisation(record: Record) -> float:
    if len(record.samples) < 2:
        return 0.0
    first, last = record.samples[0], record.samples[-1]
    available_s = (last.time_s - first.time_s) * record.streams
    return min(max((last.busy_s - first.busy_s) / max(available_s, 1e-9), 0.0), 1.0)
