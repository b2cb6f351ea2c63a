"""Plans of segments: the schedule of a merged graph, restricted to one instance at a time."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from top_tvm.compiler.assemble import assemble
from top_tvm.compiler.op_graph import OpGraph
from top_tvm.compiler.partition import (
    PartitionProblem,
    Placement,
    Schedule,
    assign_stages,
    simulate,
)
from top_tvm.compiler.partition.merge import Instance, MergedGraph, cut_segments
from top_tvm.compiler.segments import cut_positions, split_graph
from top_tvm.plan import Plan

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeasuredModel:
    """A compiled model; all by batch size.

    Attributes
    ----------
    graphs : mapping of int to OpGraph
        What executes.
    problems : mapping of int to PartitionProblem
        Its measured costs.
    plans : mapping of int to Plan
        The fastest for one task at a time.
    """

    graphs: Mapping[int, OpGraph]
    problems: Mapping[int, PartitionProblem]
    plans: Mapping[int, Plan]


@dataclass(frozen=True)
class LanePlace:
    """A lane of a merged graph: index of the model and of the lane, and how the model was cut."""

    model: int
    lane: int
    batch: int
    bounds: tuple[int, ...]


class SegmentPlans:
    """Makes the plans of the segments of one model; equal ones are one object."""

    def __init__(self, name: str, model: MeasuredModel) -> None:
        self._name = name
        self._model = model
        self._allowed = {batch: cut_positions(graph) for batch, graph in model.graphs.items()}
        self._bounds: dict[int, dict[int, tuple[int, ...]]] = {}
        self._split: dict[tuple[int, tuple[int, ...]], tuple[OpGraph, ...]] = {}
        self._plans: dict[tuple[int, int, int, Schedule], Plan] = {}

    def bounds(self, segments: int) -> dict[int, tuple[int, ...]]:
        """By batch size where ``segments`` segments begin and end, or as many as are possible.

        All batch sizes have the same number of segments.
        """
        if segments not in self._bounds:
            possible = min(len(allowed) + 1 for allowed in self._allowed.values())
            if possible < segments:
                _LOG.warning(
                    "model %r: %d segments instead of %d, as it cannot be cut in more places",
                    *(self._name, possible, segments),
                )
            self._bounds[segments] = {
                batch: cut_segments(problem, min(segments, possible), self._allowed[batch])
                for batch, problem in self._model.problems.items()
            }
        return self._bounds[segments]

    def of_lane(
        self, merged: MergedGraph, schedule: Schedule, partitioner: str, place: LanePlace
    ) -> tuple[Plan, ...]:
        """Plans of all segments in a lane, from a schedule of the merged graph.

        Parameters
        ----------
        merged : MergedGraph
            What was scheduled.
        schedule : Schedule
            Of all its ops.
        partitioner : str
            Name of what made the schedule.
        place : LanePlace
            Whose plans are wanted.
        """
        batch, bounds = place.batch, place.bounds
        if (batch, bounds) not in self._split:
            self._split[batch, bounds] = split_graph(self._model.graphs[batch], bounds)
        graphs = self._split[batch, bounds]
        plans = []
        for segment, (first, last) in enumerate(pairwise(bounds)):
            own = merged.restrict(schedule, Instance(place.model, place.lane, segment))
            problem = _restrict(self._model.problems[batch], first, last)
            staged = assign_stages(problem, own)
            key = (batch, first, last, staged)
            if key not in self._plans:
                self._plans[key] = assemble(
                    graphs[segment],
                    staged,
                    streams=problem.device.streams,
                    partitioner=partitioner,
                    batch=batch,
                    predicted_us=simulate(problem, staged).makespan_us,
                )
            plans.append(self._plans[key])
        return tuple(plans)


def _restrict(problem: PartitionProblem, first: int, last: int) -> PartitionProblem:
    """The ops from ``first`` to ``last``, numbered from 0."""
    inside = range(first, last)
    return replace(
        problem,
        edges=tuple(
            (p - first, c - first) for p, c in problem.edges if p in inside and c in inside
        ),
        costs=problem.costs[first:last],
        names=problem.names[first:last],
    )


def narrow(problem: PartitionProblem, streams: int) -> PartitionProblem:
    """The problem on fewer of the streams, where forms for all of them do not exist."""
    if streams == problem.device.streams:
        return problem
    return replace(without_gangs(problem), device=replace(problem.device, streams=streams))


def without_gangs(problem: PartitionProblem) -> PartitionProblem:
    """The problem where no op can use all streams together."""
    costs = tuple(replace(cost, gang_us=math.inf) for cost in problem.costs)
    return replace(problem, costs=costs)


def shift(schedule: Sequence[Placement], op: int, stream: int) -> list[Placement]:
    """The schedule with ops and streams that are numbered from these on."""
    return [p._replace(op=p.op + op, stream=p.stream + stream) for p in schedule]
