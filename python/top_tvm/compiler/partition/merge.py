"""The graph of a planning period: operators of all tasks in flight, at their different progress.

Each model is cut into segments. When its pipeline is full, every segment is executed by as many
tasks as there are lanes, and all of these are independent of each other within a period.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from top_tvm.compiler.partition.problem import PartitionProblem, Placement, Schedule
from top_tvm.cost import OpCost
from top_tvm.errors import PartitionError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Instance:
    """Which task an op of a merged graph belongs to: indices from 0."""

    model: int
    lane: int
    segment: int


@dataclass(frozen=True)
class MergedGraph:
    """A problem whose ops belong to several tasks.

    ``instances`` has one entry per op. Ops of different instances are independent.
    """

    problem: PartitionProblem
    instances: tuple[Instance, ...]

    def restrict(self, schedule: Schedule, instance: Instance) -> Schedule:
        """The part of a schedule that executes one instance; its ops are numbered from 0."""
        own = (op for op, other in enumerate(self.instances) if other == instance)
        number = {op: index for index, op in enumerate(own)}
        return tuple(
            Placement(number[place.op], *place[1:]) for place in schedule if place.op in number
        )


def cut_segments(
    problem: PartitionProblem, segments: int, allowed: Collection[int] | None = None
) -> tuple[int, ...]:
    """Cut a graph, in the order of its ops, into segments of about the same time.

    Parameters
    ----------
    problem : PartitionProblem
        The graph.
    segments : int
        Number of segments.
    allowed : collection of int, optional
        Where a segment may begin. If that is at fewer ops than wanted, there are fewer segments,
        which the log says. By default everywhere.

    Returns
    -------
    tuple of int
        ``segments + 1`` bounds: segment s holds the ops from ``bounds[s]`` to ``bounds[s + 1]``.
        Of the cuts whose imbalance is within a tenth of a segment, the one that the fewest values
        cross is taken: they have to be kept between periods.

    Raises
    ------
    PartitionError
        If there are fewer ops than segments.
    """
    inside = range(1, problem.num_ops)
    positions = list(inside) if allowed is None else sorted(set(allowed).intersection(inside))
    if allowed is not None and segments > len(positions) + 1:
        possible = len(positions) + 1
        _LOG.warning("%d segments instead of %d: no more cuts are possible", possible, segments)
        segments = possible
    if not 1 <= segments <= max(problem.num_ops, 1):
        raise PartitionError(f"{problem.num_ops} ops cannot be cut into {segments} segments")
    done = [0.0]
    for cost in problem.costs:
        done.append(done[-1] + min(cost.single_us, cost.gang_us))
    crossing = _crossing(problem)
    share = done[-1] / segments
    bounds = [0]
    for segment in range(1, segments):
        goal = share * segment
        left = segments - 1 - segment  # cuts that come behind this one
        candidates = [at for at in positions[: len(positions) - left] if at > bounds[-1]]
        near = [at for at in candidates if abs(done[at] - goal) <= 0.1 * share]
        if near:
            bounds.append(min(near, key=lambda at: (crossing[at], abs(done[at] - goal))))
        else:
            bounds.append(min(candidates, key=lambda at: abs(done[at] - goal)))
    return (*bounds, problem.num_ops)


def _crossing(problem: PartitionProblem) -> list[int]:
    """Per position: how many ops before it have a reader at or behind it."""
    last_reader: dict[int, int] = {}
    for producer, consumer in problem.edges:
        last_reader[producer] = max(consumer, last_reader.get(producer, 0))
    change = [0] * (problem.num_ops + 2)
    for producer, consumer in last_reader.items():
        change[producer + 1] += 1
        change[consumer + 1] -= 1
    total, crossing = 0, []
    for at in range(problem.num_ops + 1):
        total += change[at]
        crossing.append(total)
    return crossing


def merge(
    problems: Sequence[PartitionProblem], lanes: Sequence[int], segments: Sequence[int]
) -> MergedGraph:
    """Merge the ops that a device executes in a period.

    Parameters
    ----------
    problems : sequence of PartitionProblem
        One per model, all for the same device.
    lanes, segments : sequence of int
        Per model: tasks that may be in the same segment, and parts that it is cut into. A model
        with 0 lanes takes no part.

    Raises
    ------
    PartitionError
        If the devices differ, lengths do not fit, or a model cannot be cut so often.
    """
    if not problems or not len(problems) == len(lanes) == len(segments):
        raise PartitionError("merge needs a number of lanes and of segments for every model")
    for model, problem in enumerate(problems):
        if problem.device != problems[0].device:
            raise PartitionError(f"model {model} is for another device than model 0")
    cuts = [cut_segments(problem, parts) for problem, parts in zip(problems, segments, strict=True)]
    return merge_segments(problems, lanes, cuts)


def merge_segments(
    problems: Sequence[PartitionProblem], lanes: Sequence[int], cuts: Sequence[Sequence[int]]
) -> MergedGraph:
    """Merge models that are cut already.

    Parameters
    ----------
    problems : sequence of PartitionProblem
        One per model, all for the same device.
    lanes : sequence of int
        As for :func:`merge`.
    cuts : sequence of sequence of int
        Per model the bounds of its segments, see :func:`cut_segments`.
    """
    edges: list[tuple[int, int]] = []
    costs: list[OpCost] = []
    instances: list[Instance] = []
    names: list[str] = []
    for model, (problem, count, bounds) in enumerate(zip(problems, lanes, cuts, strict=True)):
        if count < 0:
            raise PartitionError(f"model {model} has {count} lanes")
        known = problem.names or [str(op) for op in range(problem.num_ops)]
        for lane in range(count):
            for segment, (first, last) in enumerate(pairwise(bounds)):
                offset = len(costs) - first
                inside = range(first, last)
                edges += [
                    (producer + offset, consumer + offset)
                    for producer, consumer in problem.edges
                    if producer in inside and consumer in inside
                ]
                costs += problem.costs[first:last]
                instances += [Instance(model, lane, segment)] * (last - first)
                place = f"m{model}.l{lane}.s{segment}/"
                names += [place + known[op] for op in inside]
    merged = replace(problems[0], edges=tuple(edges), costs=tuple(costs), names=tuple(names))
    return MergedGraph(merged, tuple(instances))
