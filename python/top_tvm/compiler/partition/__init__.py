"""Partitioners: from an op graph with costs to a schedule (stage, group, stream, order, threads).

All of them serve one objective, the simulated time of the schedule (:func:`simulate`), and are
computed in C++ (``passes/``); for ``gpg`` a graph neural network in Python reads the graph first.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Protocol

from top_tvm.compiler.partition.learned import gpg, why_unavailable
from top_tvm.compiler.partition.problem import (
    PartitionProblem,
    Placement,
    Schedule,
    Simulation,
    assign_stages,
    simulate,
    staged_objective,
    validate_schedule,
)
from top_tvm.compiler.partition.staged import cut_stages, improve_stages
from top_tvm.errors import PartitionError

__all__ = [
    "PARTITIONERS",
    "PartitionProblem",
    "Partitioner",
    "Placement",
    "Schedule",
    "Simulation",
    "assign_stages",
    "available_partitioners",
    "cut_stages",
    "gpg",
    "greedy",
    "improve_stages",
    "ios",
    "list_schedule",
    "sequential",
    "simulate",
    "staged_objective",
    "validate_schedule",
]

_LOG = logging.getLogger(__name__)


class Partitioner(Protocol):
    """Anything that makes a valid schedule of a problem."""

    def __call__(self, problem: PartitionProblem, /) -> Schedule:
        """Return a schedule that passes :func:`validate_schedule`."""


def sequential(problem: PartitionProblem) -> Schedule:
    """One op after the other, each in its faster form: the baseline of every comparison."""
    return tuple(Placement(*fields) for fields in problem.native.sequential())


def greedy(problem: PartitionProblem) -> Schedule:
    """Wavefront: a stage is everything that is ready.

    The ops of a stage are balanced over the streams, longest first, unless executing them one after
    the other, on all streams where that is faster, takes less time.
    """
    return tuple(Placement(*fields) for fields in problem.native.greedy())


def list_schedule(problem: PartitionProblem) -> Schedule:
    """Critical-path list scheduling of moldable ops, without barriers.

    Two orders with and without gang calls and the sequential schedule are tried, and the one with
    the least simulated time is returned. Stages are numbered afterwards by :func:`assign_stages`.
    """
    return tuple(Placement(*fields) for fields in problem.native.list_schedule())


def ios(
    problem: PartitionProblem,
    *,
    max_group_ops: int | None = 3,
    max_groups: int | None = 8,
    max_stages: int | None = 500_000,
) -> Schedule:
    """Dynamic programming over down-sets (Ding et al., "IOS", MLSys 2021).

    Minimises :func:`staged_objective`; exactly so when the limits are None and no part of the graph
    without a series cut has more than 128 ops.

    Parameters
    ----------
    problem : PartitionProblem
        Graph, costs and device.
    max_group_ops : int, optional
        Ops per group of a concurrent stage (r in the paper); None for no limit.
    max_groups : int, optional
        Groups per stage (s in the paper); None for no limit.
    max_stages : int, optional
        About how many stages to try in total, which bounds the search time; a part of the graph
        that needs more than its share is split in two. None for no limit: exponential in the
        graph's width.

    Raises
    ------
    PartitionError
        If a limit is not positive.
    """
    limits = {"max_group_ops": max_group_ops, "max_groups": max_groups, "max_stages": max_stages}
    for name, limit in limits.items():
        if limit is not None and limit <= 0:
            raise PartitionError(f"ios: {name} is {limit}; give a positive number, or None.")
    fields = problem.native.ios(**{name: limit or 0 for name, limit in limits.items()})
    return tuple(Placement(*placement) for placement in fields)


PARTITIONERS: Mapping[str, Partitioner] = {
    "sequential": sequential,
    "greedy": greedy,
    "list": list_schedule,
    "ios": ios,
    "gpg": gpg,
}


@cache
def available_partitioners() -> tuple[str, ...]:
    """Names of the partitioners that work here, for ``"auto"``; says once if one does not."""
    if reason := why_unavailable():
        _LOG.warning('partitioner "auto" goes on without gpg: %s', reason)
        return tuple(name for name in PARTITIONERS if name != "gpg")
    return tuple(PARTITIONERS)
