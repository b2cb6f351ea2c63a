"""What the network sees of an op before anything runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from top_tvm.compiler.partition.problem import PartitionProblem

Array = npt.NDArray[Any]
NUM_FEATURES = 18


def op_features(problem: PartitionProblem) -> Array:
    """Features of all ops, scaled to about -3..3 and independent of the unit of time.

    Parameters
    ----------
    problem : PartitionProblem
        With at least one op.

    Returns
    -------
    numpy.ndarray
        float32, shape ``(num_ops, NUM_FEATURES)``.
    """
    device, count = problem.device, problem.num_ops
    costs = np.array(
        [
            (c.single_us, c.gang_us, c.single_bandwidth, c.gang_bandwidth, c.single_compute)
            for c in problem.costs
        ]
    )
    single, gang = np.maximum(costs[:, 0], 1e-3), costs[:, 1]
    moldable = np.isfinite(gang)
    fastest = np.minimum(single, np.where(moldable, gang, np.inf))
    to_sink, from_source = _paths(problem, fastest + device.dispatch_us)
    critical = max(to_sink.max(), 1e-3)
    mean = single.mean()
    edges = np.array(problem.edges, dtype=np.int64).reshape(-1, 2)
    inputs = np.bincount(edges[:, 1], minlength=count)
    outputs = np.bincount(edges[:, 0], minlength=count)
    slack = critical - to_sink - from_source  # 0 on the critical path
    shared = [
        np.log(device.streams) / 2,
        np.log1p(device.wait_us / mean),
        np.log1p(device.dispatch_us / mean),
        np.log(single.sum() / (critical * device.streams)) / 2,
        np.log(count) / 4,
    ]
    columns = [
        np.log(single / mean),
        np.where(moldable, np.log(np.where(moldable, gang, 1.0) * device.streams / single), 0.0),
        moldable,
        costs[:, 2],
        costs[:, 3],
        costs[:, 4],
        costs[:, 4] * device.streams / 4,
        to_sink / critical,
        from_source / critical,
        slack / critical,
        np.log1p(inputs),
        np.log1p(outputs),
        single / critical,
        *(np.full(count, value) for value in shared),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _paths(problem: PartitionProblem, times: Array) -> tuple[Array, Array]:
    """Longest paths: from the start of an op to the end of the graph, and from the begin to it."""
    to_sink, from_source = times.copy(), np.zeros_like(times)
    edges = sorted(problem.edges)
    for producer, consumer in edges:
        from_source[consumer] = max(from_source[consumer], from_source[producer] + times[producer])
    for producer, consumer in reversed(edges):
        to_sink[producer] = max(to_sink[producer], times[producer] + to_sink[consumer])
    return to_sink, from_source
