"""Measure every op on the device, on one thread and on all, and keep the results.

Ops are timed where they will run: inside the executor, in the order of the model, with the caches
in the state that the op before left behind. One plan executes everything on stream 0 with one
thread per op, another everything on all streams; the executor's time stamps give each op's time.

On shared machines a neighbour can slow down a core for seconds, longer than repeats help against.
Therefore the first builds of a model all measure, and the least of their times is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import tvm

from top_tvm.compiler.assemble import assemble
from top_tvm.compiler.cache import MeasurementCache
from top_tvm.compiler.cost import DeviceModel, OpCost
from top_tvm.compiler.op_graph import Op, OpGraph
from top_tvm.compiler.partition import Placement
from top_tvm.compiler.session import Session
from top_tvm.random_inputs import random_inputs
from top_tvm.runtime.native import onednn_version

Progress = Callable[[str, int, int], None]

# To be raised when the way of measuring changes: older entries of the cache are ignored then.
_PROFILE_VERSION = 2
# How many builds measure an op before its time is taken from the cache alone.
_BUILDS = 3
_ROUNDS = 3
_SECONDS_PER_FORM = 1.0
_MIN_REPEATS, _MAX_REPEATS = 4, 40
_NEVER = (math.inf, math.inf, 0)  # least single_us, least gang_us, builds that measured


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
) -> tuple[tuple[float, float], ...]:
    """Time of every op alone: on one thread, and on all streams.

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
    tuple of (float, float)
        Microseconds per op; the second is infinite for an op without a multi-threaded form.
    """
    libraries = f"{_PROFILE_VERSION}/{tvm.__version__}/{onednn_version()}"
    keys = [f"{libraries}/{op.fingerprint}/{streams}" for op in graph.ops]
    if fresh or any((cache.get(key) or _NEVER)[2] < _BUILDS for key in keys):
        single = _measure(graph, session, streams, gang=False, progress=progress)
        gang = (
            _measure(graph, session, streams, gang=True, progress=progress)
            if streams > 1
            else single
        )
        _remember(graph.ops, keys, single, gang, cache)
    return tuple(
        _times(op, cache.get(key), streams) for op, key in zip(graph.ops, keys, strict=True)
    )


def op_costs(
    graph: OpGraph,
    times: Sequence[tuple[float, float]],
    device: DeviceModel,
    bandwidth_bytes_per_us: float,
) -> tuple[OpCost, ...]:
    """Costs for the simulator: times as measured, demands from bytes and the device's bandwidth."""
    costs = []
    for op, (single_us, gang_us) in zip(graph.ops, times, strict=True):
        traffic_us = op.nbytes / bandwidth_bytes_per_us
        costs.append(
            OpCost(
                single_us=single_us,
                gang_us=gang_us,
                single_bandwidth=min(1.0, traffic_us / single_us),
                gang_bandwidth=min(1.0, traffic_us / gang_us) if math.isfinite(gang_us) else 0.0,
                single_compute=1.0 / device.streams,
                gang_compute=1.0,
            )
        )
    return tuple(costs)


def _measure(
    graph: OpGraph, session: Session, streams: int, *, gang: bool, progress: Progress
) -> list[float]:
    """Median over rounds of each op's median, all ops in one form where they have it."""
    schedule = [
        Placement(index, index, 0, 0, streams if gang and op.kernel.moldable else 1)
        for index, op in enumerate(graph.ops)
    ]
    plan = assemble(graph, tuple(schedule), streams=streams, partitioner="profile")
    executor = session.executor(plan)
    inputs = list(random_inputs(plan).values())
    run_us = float(np.median(executor.time(inputs, 1, 2)))
    repeats = int(_SECONDS_PER_FORM * 1e6 / max(run_us, 1.0) / _ROUNDS)
    repeats = min(max(repeats, _MIN_REPEATS), _MAX_REPEATS)
    label = f"measure ops on {streams if gang else 1} thread{'s' if gang and streams > 1 else ''}"
    medians = []
    for index in range(_ROUNDS):
        progress(label, index, _ROUNDS)
        stamps = executor.timeline(inputs, 1, repeats)
        medians.append(np.median(stamps[:, :, 1] - stamps[:, :, 0], axis=0))
    progress(label, _ROUNDS, _ROUNDS)
    return [max(float(time_us), 1e-3) for time_us in np.median(medians, axis=0)]


def _remember(
    ops: Sequence[Op],
    keys: Sequence[str],
    single: Sequence[float],
    gang: Sequence[float],
    cache: MeasurementCache,
) -> None:
    """Equal ops share one entry: the least over builds of the median of their times."""
    samples: dict[str, list[tuple[float, float]]] = {}
    for key, single_us, gang_us in zip(keys, single, gang, strict=True):
        samples.setdefault(key, []).append((single_us, gang_us))
    entries = {}
    for key, times in samples.items():
        single_us, gang_us = (float(time_us) for time_us in np.median(times, axis=0))
        least_single_us, least_gang_us, builds = cache.get(key) or _NEVER
        entries[key] = [min(single_us, least_single_us), min(gang_us, least_gang_us), builds + 1]
    cache.update(entries)


def _times(op: Op, entry: Sequence[float], streams: int) -> tuple[float, float]:
    single_us, gang_us, _ = entry
    return single_us, gang_us if op.kernel.moldable and streams > 1 else math.inf
