"""Measure every op on the device, in every form and in company, and keep the results.

Ops are timed where they will run: inside the executor, in the order of the model, with the caches
in the state that the op before left behind. One plan executes everything on stream 0 with one
thread per op, another everything on all streams, and a third one instance of the model on every
stream, side by side; the executor's time stamps give each op's time.

On shared machines a neighbour can slow down a core for seconds, longer than repeats help against.
Therefore the first builds of a model all measure, and the times of the quietest are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tvm

from top_tvm.compiler.assemble import assemble
from top_tvm.compiler.cache import MeasurementCache
from top_tvm.compiler.op_graph import Op, OpGraph
from top_tvm.compiler.partition import Placement
from top_tvm.compiler.replicate import replicate
from top_tvm.compiler.session import Session
from top_tvm.cost import OpCost
from top_tvm.random_inputs import random_inputs
from top_tvm.runtime.native import onednn_version

Progress = Callable[[str, int, int], None]

# To be raised when the way of measuring changes: older entries of the cache are ignored then.
_PROFILE_VERSION = 3
# How many builds measure an op before its time is taken from the cache alone.
_BUILDS = 3
_ROUNDS = 3
_SECONDS_PER_FORM = 1.0
_MIN_REPEATS, _MAX_REPEATS = 4, 40
_NEVER = (math.inf, math.inf, math.inf, 0)  # the times of an OpTime, builds that measured


@dataclass(frozen=True)
class OpTime:
    """Measured times of one op in microseconds.

    Attributes
    ----------
    single_us : float
        On one thread, the other streams idle.
    gang_us : float
        On all streams; infinite for an op that has no such form.
    paired_us : float
        On one thread while every other stream executes the same model.
    """

    single_us: float
    gang_us: float
    paired_us: float


def ignore_progress(what: str, done: int, total: int) -> None:
    """Report nothing."""


def profile_ops(
    graph: OpGraph,
    session: Session,
    streams: int,
    cache: MeasurementCache,
    progress: Progress,
    *,
    fresh: bool = False,
) -> tuple[OpTime, ...]:
    """Time of every op: on one thread, on all, and on one while the others are busy, too.

    Parameters
    ----------
    graph : OpGraph
        What to measure.
    session : Session
        Its kernels and constants.
    streams : int
        Number of threads of the second form.
    cache : MeasurementCache
        Looked up first; gets what is new.
    progress : callable
        Called with (what, done, total).
    fresh : bool
        Measure even what the cache knows.

    Returns
    -------
    tuple of OpTime
        In the order of the ops.
    """
    keys = [f"{measured_with()}/{op.fingerprint}/{streams}" for op in graph.ops]
    if fresh or any((cache.get(key) or _NEVER)[3] < _BUILDS for key in keys):
        single = gang = paired = measure_form(graph, session, streams, 1, "one thread", progress)
        if streams > 1:
            gang = measure_form(graph, session, streams, streams, "all threads", progress)
            paired = _measure_paired(graph, session, streams, progress)
        _remember(keys, (single, gang, paired), cache)
    return tuple(
        _op_time(op, cache.get(key), streams) for op, key in zip(graph.ops, keys, strict=True)
    )


def measured_with() -> str:
    """Key of everything that measurements depend on besides the op."""
    return f"{_PROFILE_VERSION}/{tvm.__version__}/{onednn_version()}"


def op_costs(times: Sequence[OpTime], streams: int) -> tuple[OpCost, ...]:
    """Costs for the simulator, in which equal ops side by side slow each other as measured.

    An op that takes ``paired_us`` while every stream executes it and ``single_us`` alone demands
    ``paired_us / single_us / streams`` of what the streams share, whatever that is (memory
    bandwidth, a cache, the clock).
    """
    return tuple(
        OpCost(
            single_us=time.single_us,
            gang_us=time.gang_us,
            single_bandwidth=min(1.0, max(1.0, time.paired_us / time.single_us) / streams),
            gang_bandwidth=1.0,
        )
        for time in times
    )


def measure_form(
    graph: OpGraph, session: Session, streams: int, threads: int, label: str, progress: Progress
) -> list[float]:
    """Time of each op, one after the other in the form with so many threads, where it has one."""
    schedule = [
        Placement(index, index, 0, 0, threads if op.kernel.moldable else 1)
        for index, op in enumerate(graph.ops)
    ]
    return _op_times(graph, schedule, session, streams, f"measure ops: {label}", progress)


def _measure_paired(
    graph: OpGraph, session: Session, streams: int, progress: Progress
) -> list[float]:
    """Time of each op on one thread while all other streams execute the same model."""
    count = len(graph.ops)
    schedule = [
        Placement(stream * count + index, index, stream, stream, 1)
        for index in range(count)
        for stream in range(streams)
    ]
    union = replicate(graph, streams)
    times = _op_times(union, schedule, session, streams, "measure ops: side by side", progress)
    return [float(time_us) for time_us in np.reshape(times, (count, streams)).mean(axis=1)]


def _op_times(
    graph: OpGraph,
    schedule: Sequence[Placement],
    session: Session,
    streams: int,
    label: str,
    progress: Progress,
) -> list[float]:
    """Median over rounds of each call's trimmed mean, in us, in the order of the schedule."""
    plan = assemble(graph, tuple(schedule), streams=streams, partitioner="profile")
    executor = session.executor(plan)
    inputs = list(random_inputs(plan).values())
    run_us = float(np.median(executor.time(inputs, 1, 2)))
    repeats = int(_SECONDS_PER_FORM * 1e6 / max(run_us, 1.0) / _ROUNDS)
    repeats = min(max(repeats, _MIN_REPEATS), _MAX_REPEATS)
    means = []
    for index in range(_ROUNDS):
        progress(label, index, _ROUNDS)
        stamps = executor.timeline(inputs, 1, repeats)
        times_us = np.sort(stamps[:, :, 1] - stamps[:, :, 0], axis=0)
        outliers = -(-repeats // 10)
        # Medians of skewed times do not add up to the median of their sum; means nearly do.
        means.append(times_us[outliers:-outliers].mean(axis=0))
    progress(label, _ROUNDS, _ROUNDS)
    return [max(float(time_us), 1e-3) for time_us in np.median(means, axis=0)]


def _remember(
    keys: Sequence[str], measured: Sequence[Sequence[float]], cache: MeasurementCache
) -> None:
    """Keep the times of the quietest build; equal ops share one entry, their median."""
    samples: dict[str, list[tuple[float, ...]]] = {}
    for key, times in zip(keys, zip(*measured, strict=True), strict=True):
        samples.setdefault(key, []).append(times)
    new = {key: [float(t) for t in np.median(times, axis=0)] for key, times in samples.items()}
    known = {key: entry for key in new if (entry := cache.get(key))}
    # All or none: the least of each single op would be a machine that never was.
    quieter = sum(sum(new[key]) for key in known) < sum(sum(entry[:3]) for entry in known.values())
    entries = {}
    for key, times_us in new.items():
        kept = times_us if quieter or key not in known else known[key][:3]
        entries[key] = [*kept, known[key][3] + 1 if key in known else 1]
    cache.update(entries)


def _op_time(op: Op, entry: Sequence[float], streams: int) -> OpTime:
    single_us, gang_us, paired_us, _ = entry
    return OpTime(single_us, gang_us if op.kernel.moldable and streams > 1 else math.inf, paired_us)
