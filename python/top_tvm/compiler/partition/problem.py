"""What a partitioner gets and returns, and the two questions asked of a schedule: legal, how fast.

Everything is computed in C++ (``runtime/schedule.h``, ``runtime/simulator.h``); this module holds
the types and turns errors into the package's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from top_tvm import _native
from top_tvm.cost import DeviceModel, OpCost
from top_tvm.errors import GraphError, PartitionError


class Placement(NamedTuple):
    """One op's place in a schedule.

    A named tuple rather than a dataclass: a schedule crosses to C++ thousands of times in a search.

    Attributes
    ----------
    op : int
        Index of the op.
    stage : int
        Stages do not decrease in the issue order.
    group : int
        Numbered within the stage. The ops of a group run in order on one stream; groups of a stage
        do not depend on each other.
    stream : int
        Stream that executes the op.
    threads : int
        1, or the number of streams: a gang call, which occupies every stream.
    """

    op: int
    stage: int
    group: int
    stream: int
    threads: int


Schedule = tuple[Placement, ...]
"""Placements in issue order, which is topological; each stream executes its ops in this order."""


@dataclass(frozen=True)
class PartitionProblem:
    """An op graph reduced to what matters for scheduling.

    Attributes
    ----------
    edges : tuple of (int, int)
        ``(producer, consumer)``. Ops are numbered in a topological order, so edges ascend.
    costs : tuple of OpCost
        One per op.
    device : DeviceModel
        What the schedule is for.
    names : tuple of str
        One per op for messages, or empty.

    Raises
    ------
    GraphError
        If an edge leaves the graph or descends, or a cost is not a sensible number.
    """

    edges: tuple[tuple[int, int], ...]
    costs: tuple[OpCost, ...]
    device: DeviceModel
    names: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        try:
            _ = self.native
        except ValueError as error:
            raise GraphError(str(error)) from error

    @property
    def num_ops(self) -> int:
        """Number of ops."""
        return len(self.costs)

    @cached_property
    def native(self) -> _native.Problem:
        """The problem in C++, built once: simulation is called in tight loops."""
        device = self.device
        return _native.Problem(
            num_ops=self.num_ops,
            edges=self.edges,
            costs=[cost.numbers for cost in self.costs],
            streams=device.streams,
            overheads=device.overheads_us,
            names=self.names,
        )

    def __reduce__(self) -> tuple[type[PartitionProblem], tuple[object, ...]]:
        """Pickle the fields only; the C++ problem is rebuilt."""
        return PartitionProblem, (self.edges, self.costs, self.device, self.names)


@dataclass(frozen=True)
class Simulation:
    """Predicted run of a schedule, in microseconds since the run was requested.

    ``start_us`` and ``end_us`` hold, per op, when its kernel runs.
    """

    makespan_us: float
    start_us: tuple[float, ...]
    end_us: tuple[float, ...]


@contextmanager
def partition_errors() -> Iterator[None]:
    """Turn what C++ says about a schedule into a :class:`PartitionError`."""
    try:
        yield
    except ValueError as error:
        raise PartitionError(str(error)) from error


def simulate(problem: PartitionProblem, schedule: Schedule) -> Simulation:
    """Predict the run of a schedule under the executor's real synchronisation.

    Only issue order, streams and threads matter; stages and groups do not.

    Raises
    ------
    PartitionError
        If the schedule is not a topological order of all ops, uses a stream or thread count that
        does not exist, or gives all streams to an op without a multi-threaded form.
    """
    with partition_errors():
        makespan_us, start_us, end_us = problem.native.simulate(schedule)
    return Simulation(makespan_us, tuple(start_us), tuple(end_us))


def validate_schedule(problem: PartitionProblem, schedule: Schedule) -> None:
    """Check that a schedule is legal.

    Raises
    ------
    PartitionError
        Naming the op that is missing, repeated, issued too early, out of its stage's order, on
        another stream than its group, in another group of the stage than an op whose result it
        needs, or given a stream, threads or form that do not exist.
    """
    with partition_errors():
        problem.native.validate_schedule(schedule)


def assign_stages(problem: PartitionProblem, schedule: Schedule) -> Schedule:
    """Number stages and groups of a schedule made without them, keeping everything else.

    A new stage starts where an op needs the result of an op of the current stage on another stream,
    and where single-stream calls and gang calls meet, except that a run on stream 0 alone is one
    stage. The ops of a stage on one stream are a group. Gang calls are shown on stream 0.
    """
    with partition_errors():
        return tuple(Placement(*fields) for fields in problem.native.assign_stages(schedule))


def staged_objective(problem: PartitionProblem, schedule: Schedule) -> float:
    """Time of a valid schedule if every stage ended with a barrier, in microseconds.

    This is what ``ios`` minimises: the run's overhead, every stage's time from an idle device, and
    ``(streams - 1) * wait_us`` between consecutive stages, except between two of one group each on
    the same stream. The executor waits only where data needs it, so :func:`simulate` says less.

    Raises
    ------
    PartitionError
        If the schedule is not valid, or has a gang call in a stage of several groups.
    """
    with partition_errors():
        return problem.native.staged_objective(schedule)
