"""The graph of a planning period: operators of all tasks in flight, at their different progress.

Each model is cut into segments. When its pipeline is full, every segment is executed by as many
tasks as there are lanes, and all of these are independent of each other within a period.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from top_tvm.compiler.cost import OpCost
from top_tvm.compiler.partition.problem import PartitionProblem
from top_tvm.errors import PartitionError


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


def cut_segments(problem: PartitionProblem, segments: int) -> tuple[int, ...]:
    """Cut a graph, in the order of its ops, into segments of about the same time.

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
    if not 1 <= segments <= max(problem.num_ops, 1):
        raise PartitionError(f"{problem.num_ops} ops cannot be cut into {segments} segments")
    done = [0.0]
    for cost in problem.costs:
        done.append(done[-1] + min(cost.single_us, cost.gang_us))
    crossing = _crossing(problem)
    share = done[-1] / segments
    bounds = [0]
    for segment in range(1, segments):
        first, last = bounds[-1] + 1, problem.num_ops - (segments - segment)
        goal = share * segment
        near = [at for at in range(first, last + 1) if abs(done[at] - goal) <= 0.1 * share]
        if near:
            bounds.append(min(near, key=lambda at: (crossing[at], abs(done[at] - goal))))
        else:
            bounds.append(min(range(first, last + 1), key=lambda at: abs(done[at] - goal)))
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
    device = problems[0].device
    edges: list[tuple[int, int]] = []
    costs: list[OpCost] = []
    instances: list[Instance] = []
    names: list[str] = []
    for model, (problem, count, parts) in enumerate(zip(problems, lanes, segments, strict=True)):
        if problem.device != device:
            raise PartitionError(f"model {model} is for another device than model 0")
        if count < 0:
            raise PartitionError(f"model {model} has {count} lanes")
        bounds = cut_segments(problem, parts)
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
                known = problem.names or [str(op) for op in range(problem.num_ops)]
                names += [place + known[op] for op in inside]
    merged = replace(problems[0], edges=tuple(edges), costs=tuple(costs), names=tuple(names))
    return MergedGraph(merged, tuple(instances))
