"""Throughput of one model on devices that are not at hand, by the runtime on a virtual clock.

Plans are made for the device. Two merged forms: by admission, where an op may start when its inputs
and its stream are ready, but not before the time that it has in the schedule of a full period; and
with a barrier per period. A backlog is always there.

No schedule does more than the resources allow: the sum over the ops of what each takes of the
device's arithmetic, of its memory and of its streams, whichever is most. What that leaves is the
most that merging can gain, and stands next to what it does gain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from partition_support.problems import SIMULATED_DEVICES, SimulatedDevice, simulated_problem
from serving_support.mixes import model_content
from top_tvm import _native
from top_tvm.compiler.build import optimise_model
from top_tvm.compiler.op_graph import OpGraph
from top_tvm.compiler.partition import PARTITIONERS, PartitionProblem, Schedule, simulate
from top_tvm.compiler.partition.merge import merge
from top_tvm.errors import PartitionError

Record = dict[str, Any]

_TASKS = 1200
_WARMUP, _DRAIN = 200, 200  # tasks that are not counted: the pipeline is not full
_QUEUE = 10_000


@dataclass(frozen=True)
class Shapes:
    """What is tried.

    Attributes
    ----------
    streams, lanes, segments, batch_sizes : sequence of int
        All combinations of lanes and segments.
    partitioners : sequence of str
        The best of their schedules is taken.
    """

    streams: Sequence[int]
    lanes: Sequence[int]
    segments: Sequence[int]
    batch_sizes: Sequence[int]
    partitioners: Sequence[str]


@dataclass(frozen=True)
class _Variant:
    """As the native runtime takes it, with plans of its own."""

    id: str
    in_flight: int
    barrier: bool
    period_us: float
    lanes: list[tuple[int, list[int]]]  # first stream, and the number of each segment's plan
    segments: int
    tasks: int  # per lane: the batch size


def simulate_self(
    names: Sequence[str], devices: Sequence[str], shapes: Shapes, say: Callable[[str], None]
) -> Iterator[Record]:
    """One record per model, device, number of streams and variant."""
    for name in names:
        graphs = {
            batch: optimise_model(model_content(name, batch)).extracted.graph
            for batch in sorted({1, *shapes.batch_sizes})
        }
        for device in devices:
            for streams in shapes.streams:
                say(f"{name}: {device}, {streams} streams")
                yield from _variants_on(name, graphs, device, streams, shapes)


def bounds_us(problem: PartitionProblem) -> dict[str, float]:
    """Least time of the device per task, by what it takes: none of them can be had twice."""
    costs, device = problem.costs, problem.device
    busy_us = sum(
        min(cost.single_us, cost.gang_us * device.streams) + device.dispatch_us for cost in costs
    )
    return {
        "compute": sum(cost.single_us * cost.single_compute for cost in costs),
        "bandwidth": sum(cost.single_us * cost.single_bandwidth for cost in costs),
        "streams": busy_us / device.streams,
    }


def _variants_on(
    name: str, graphs: dict[int, OpGraph], device_name: str, streams: int, shapes: Shapes
) -> Iterator[Record]:
    device: SimulatedDevice = SIMULATED_DEVICES[device_name](streams)
    problem = simulated_problem(graphs[1], device)
    bounds = bounds_us(problem)
    for planner in _planners(problem, graphs, device, shapes):
        for variant, plans in planner():
            per_s = _capacity(variant, plans, problem, streams)
            yield {
                "section": "self",
                "device": f"{device_name} (simulated)",
                "model": Path(name).stem,
                "ops": problem.num_ops,
                "streams": streams,
                "variant": variant.id,
                "mode": variant.id.partition("-")[0],
                "barrier": variant.barrier,
                "lanes": len(variant.lanes),
                "segments": variant.segments,
                "batch": variant.tasks,
                "predicted_per_s": 1e6 * len(variant.lanes) * variant.tasks / variant.period_us,
                "per_s": per_s,
                "bound_per_s": 1e6 / max(bounds.values()),
                "bound_us": bounds,
                "limit": max(bounds, key=lambda what: bounds[what]),
            }


_Planned = Iterator[tuple[_Variant, list[Any]]]


def _planners(
    problem: PartitionProblem, graphs: dict[int, OpGraph], device: SimulatedDevice, shapes: Shapes
) -> Iterator[Callable[[], _Planned]]:
    streams = problem.device.streams
    for batch, graph in graphs.items():
        # Batches have more FLOPs per byte of weights, so the bound is not one for them.
        yield lambda batch=batch, graph=graph: _serial(
            simulated_problem(graph, device), batch, shapes.partitioners
        )
    width = 1
    while width < streams:
        yield lambda width=width: _free(problem, width, shapes.partitioners)
        width *= 2
    for lanes in shapes.lanes:
        for segments in shapes.segments:
            if lanes * segments > 1:
                yield lambda f=lanes, k=segments: _merged(problem, f, k, shapes.partitioners)


def _serial(problem: PartitionProblem, batch: int, partitioners: Sequence[str]) -> _Planned:
    schedule, time_us = _best(problem, (*partitioners, "sequential"))
    id_ = "serial" if batch == 1 else f"serial-b{batch}"
    plans = [_plan_fields(problem, range(problem.num_ops), schedule)]
    yield _Variant(id_, 1, False, time_us, [(0, [0])], 1, batch), plans


def _free(problem: PartitionProblem, width: int, partitioners: Sequence[str]) -> _Planned:
    count = problem.device.streams // width
    narrow = replace(problem, device=replace(problem.device, streams=width))
    schedule, time_us = _best(narrow, partitioners if width > 1 else ("sequential",))
    plans = [_plan_fields(narrow, range(narrow.num_ops), schedule)]
    lanes = [(lane * width, [0]) for lane in range(count)]
    yield _Variant(f"free-{count}x{width}", count, False, time_us, lanes, 1, 1), plans


def _merged(
    problem: PartitionProblem, lanes: int, segments: int, partitioners: Sequence[str]
) -> _Planned:
    try:
        merged = merge([problem], [lanes], [segments])
    except PartitionError:  # fewer ops than segments
        return
    schedule, period_us = _best(merged.problem, partitioners)
    plans: list[Any] = []
    rows: list[tuple[int, list[int]]] = []
    for lane in range(lanes):
        row = []
        for segment in range(segments):
            ops = [
                op
                for op, instance in enumerate(merged.instances)
                if (instance.lane, instance.segment) == (lane, segment)
            ]
            row.append(len(plans))
            plans.append(_plan_fields(merged.problem, ops, schedule))
        rows.append((0, row))
    for barrier in (False, True):
        id_ = f"merged-f{lanes}k{segments}" + ("-barriers" if barrier else "")
        yield _Variant(id_, 0, barrier, period_us, rows, segments, 1), plans


def _best(problem: PartitionProblem, partitioners: Sequence[str]) -> tuple[Schedule, float]:
    schedules = [PARTITIONERS[name](problem) for name in partitioners]
    times_us = [simulate(problem, schedule).makespan_us for schedule in schedules]
    best = min(range(len(schedules)), key=times_us.__getitem__)
    return schedules[best], times_us[best]


def _plan_fields(problem: PartitionProblem, ops: Sequence[int], schedule: Schedule) -> Any:
    """The part of a schedule that executes some of the ops, as the native runtime takes it."""
    number = {op: index for index, op in enumerate(ops)}
    places = [place for place in schedule if place.op in number]
    edges = [(number[a], number[b]) for a, b in problem.edges if a in number and b in number]
    local = [place._replace(op=number[place.op]) for place in places]
    streams = problem.device.streams
    waits = _native.derive_waits(len(ops), edges, local, streams)
    start_us = simulate(problem, schedule).start_us
    return (
        streams,
        [(place.stream, place.threads, wait) for place, wait in zip(places, waits, strict=True)],
        [problem.costs[place.op].numbers for place in places],
        [start_us[place.op] for place in places],
    )


def _capacity(
    variant: _Variant, plans: list[Any], problem: PartitionProblem, streams: int
) -> float:
    """Tasks per second with more of them than can be done."""
    lanes = [(first, [row]) for first, row in variant.lanes]  # of one batch size
    latency_us = variant.period_us * variant.segments
    model = (variant.segments, lanes, [latency_us], [variant.period_us / len(variant.lanes)])
    fields = (variant.id, variant.in_flight, variant.barrier, variant.period_us, [model])
    device = problem.device
    table = (["model"], [[1]], [fields])
    runtime = _native.VirtualRuntime(table, [plans], streams, device.overheads_us, _QUEUE)
    runtime.apply(0, [math.inf])
    # An instance of a batch counts for all its tasks.
    runtime.add_arrivals([(0.0, 0, 0, math.inf)] * _TASKS)
    runtime.drain()
    ended_us = sorted(record[5] for record in runtime.take_records())[_WARMUP:-_DRAIN]
    # The slope, and not one end less another: lanes end in bursts, and a window that begins behind
    # one and ends with one would count a burst too many.
    per_us, _ = np.polyfit(ended_us, np.arange(len(ended_us)), 1)
    return 1e6 * variant.tasks * float(per_us)
