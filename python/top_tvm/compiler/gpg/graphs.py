"""Random op graphs to train on: families that networks come from, with realistic work per op."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from top_tvm.compiler.partition import PartitionProblem, Placement, list_schedule, simulate
from top_tvm.compiler.partition.merge import merge
from top_tvm.compiler.wide_device import Device, MulticoreDevice, OpWork, WideDevice

Edges = list[tuple[int, int]]
UNLIMITED_MS = 1e12  # a search that the clock ended would not be repeatable
_HELD_OUT_SIZES = (30, 60, 120, 240, 400, 600)  # ops
_HELD_OUT_STREAMS = (2, 4, 8, 16)


def random_device(rng: random.Random, streams: int | None = None) -> Device:
    """A device with 2 to 16 streams, dear or cheap synchronisation, much or little room.

    One of four is a multicore.
    """
    streams = streams or rng.choice([2, 2, 3, 4, 4, 4, 6, 8, 8, 12, 16])
    if rng.random() < 0.25:
        return MulticoreDevice(
            name="random",
            streams=streams,
            bytes_per_us=math.exp(rng.uniform(math.log(7e3), math.log(3e4))),
            bandwidth_cores=rng.uniform(1, max(2, streams)),
            gang_efficiency=rng.uniform(0.6, 0.98),
            wait_us=rng.choice([0.2, 0.5, 2.0, 7.0]),
            gang_us=rng.choice([0.3, 0.6, 2.0, 7.0]),
        )
    return WideDevice(
        name="random",
        streams=streams,
        flops_per_us=math.exp(rng.uniform(math.log(2e6), math.log(6e7))),
        bytes_per_us=math.exp(rng.uniform(math.log(3e5), math.log(3e6))),
        resident_elements=math.exp(rng.uniform(math.log(5e4), math.log(1e6))),
        dispatch_us=rng.choice([0.1, 0.5, 1.0, 2.0]),
        wait_us=rng.choice([0.2, 1.0, 2.0, 5.0]),
        run_us=5.0,
        shortest_us=rng.choice([1.0, 2.0, 4.0]),
    )


def random_work(rng: random.Random) -> OpWork:
    """A convolution, product, pool or elementwise op of a batch-1 network."""
    side = rng.choice([7, 14, 14, 28, 28, 56])
    channels = rng.choice([32, 64, 96, 128, 192, 256, 384, 512])
    elements = side * side * channels
    kind = rng.random()
    if kind < 0.6:
        inputs = rng.choice([32, 64, 128, 192, 256, 512])
        window = rng.choice([1, 1, 9, 9, 25])
        flops = 2.0 * elements * inputs * window
        nbytes = 4.0 * (elements + side * side * inputs + inputs * channels * window)
    elif kind < 0.75:
        flops, nbytes = 9.0 * elements, 8.0 * elements
    else:
        flops, nbytes = 1.0 * elements, 4.0 * elements * rng.choice([2, 3])
    return OpWork(flops, nbytes, float(elements))


def chain(rng: random.Random, size: int) -> Edges:
    """One op after the other, with residual connections."""
    edges = [(op, op + 1) for op in range(size - 1)]
    for op in range(0, size - 4, rng.choice([3, 4, 5])):
        edges.append((op, op + 3))
    return edges


def inception(rng: random.Random, size: int) -> Edges:
    """Modules of parallel branches between an op that they share and a concatenation."""
    edges: Edges = []
    last, count = 0, 1
    while count < size:
        ends = []
        for _ in range(rng.choice([2, 3, 4, 4, 5, 6])):
            current = last
            for _ in range(rng.choice([1, 1, 2, 2, 3])):
                edges.append((current, count))
                current = count
                count += 1
            ends.append(current)
        edges += [(end, count) for end in ends]
        last = count
        count += 1
    return edges


def cells(rng: random.Random, size: int) -> Edges:
    """NASNet-like cells: pairs of ops on results of the cell and of the two cells before."""
    edges: Edges = []
    before = [0, 0]
    count = 1
    while count < size:
        states = list(dict.fromkeys(before))
        unused = set()
        for _ in range(rng.choice([3, 4, 5])):
            pair = []
            for source in rng.choices(states, k=2):
                edges.append((source, count))
                unused.discard(source)
                pair.append(count)
                count += 1
            edges += [(op, count) for op in pair]
            states.append(count)
            unused.add(count)
            count += 1
        edges += [(op, count) for op in sorted(unused)]
        before = [before[1], count]
        count += 1
    return edges


def small_world(rng: random.Random, size: int) -> Edges:
    """RandWire-like: Watts-Strogatz rings, oriented by number."""
    neighbours, rewire = rng.choice([2, 4]), rng.uniform(0.1, 0.9)
    edges: set[tuple[int, int]] = set()
    for op in range(size):
        for step in range(1, neighbours // 2 + 1):
            other = (op + step) % size
            if rng.random() < rewire:
                other = rng.randrange(size)
            if other != op:
                edges.add((min(op, other), max(op, other)))
    return sorted(edges)


def layered(rng: random.Random, size: int) -> Edges:
    """Layers of 1 to 8 ops, each reading a few of the layer before."""
    edges: Edges = []
    previous: list[int] = []
    count = 0
    while count < size:
        layer = list(range(count, count + rng.randint(1, 8)))
        for op in layer:
            if previous:
                count_read = min(len(previous), rng.randint(1, 3))
                edges += [(source, op) for source in rng.sample(previous, count_read)]
        previous = layer
        count += len(layer)
    return edges


FAMILIES: tuple[Callable[[random.Random, int], Edges], ...] = (
    chain,
    inception,
    inception,
    cells,
    small_world,
    layered,
)


def random_problem(rng: random.Random, size: int, device: Device) -> PartitionProblem:
    """One graph of about ``size`` ops on a device."""
    edges = rng.choice(FAMILIES)(rng, max(size, 2))
    num_ops = max(size, *(b + 1 for _, b in edges), 1)
    costs = tuple(device.cost(random_work(rng)) for _ in range(num_ops))
    return PartitionProblem(tuple(edges), costs, device.model())


def random_merged(rng: random.Random, size: int, device: Device) -> PartitionProblem:
    """A period of several models, tasks and segments, of about ``size`` ops in all."""
    models = rng.choice([1, 1, 2, 3])
    problems, lanes, segments = [], [], []
    for _ in range(models):
        lanes.append(rng.choice([1, 2, 3, 4]))
        segments.append(rng.choice([1, 2, 3, 4]))
        problems.append(random_problem(rng, max(size // (models * lanes[-1]), 8), device))
    return merge(problems, lanes, segments).problem


def problem_with_room(
    rng: random.Random, size: int, *, merged: bool | None = None, streams: int | None = None
) -> PartitionProblem:
    """A graph where list scheduling is more than 4 % above a lower bound.

    On a device that list scheduling keeps busy, or that waits for one long path, all schedules are
    alike.

    Parameters
    ----------
    rng : random.Random
        Draws everything.
    size : int
        Ops, about.
    merged : bool, optional
        Whether it is a period of several tasks; else half of the graphs are.
    streams : int, optional
        Of the device; else drawn.
    """
    while True:
        device = random_device(rng, streams)
        several = rng.random() < 0.5 if merged is None else merged
        make = random_merged if several else random_problem
        problem = make(rng, size, device)
        found_us = simulate(problem, list_schedule(problem)).makespan_us
        if found_us > 1.04 * lower_bound_us(problem):
            return problem


def training_problem(
    rng: random.Random, size: int, *, merged: bool | None = None
) -> PartitionProblem:
    """A graph for training: in three of four cases one where a short search beats list scheduling.

    By 0.5 % at least. Room over the lower bound is no promise: of graphs of one task, a search
    improves one of four. But what list scheduling does well has to be learned, too.
    """
    several = rng.random() < 0.5 if merged is None else merged
    if rng.random() < 0.25:
        return problem_with_room(rng, size, merged=several)
    while True:
        problem = problem_with_room(rng, size, merged=several)
        start = list_schedule(problem)
        found = problem.native.improve(start, UNLIMITED_MS, 50, 0.0, rng.getrandbits(32))
        if (
            simulate(problem, tuple(Placement(*fields) for fields in found)).makespan_us
            < 0.995 * simulate(problem, start).makespan_us
        ):
            return problem


def held_out_problems(count: int) -> list[PartitionProblem]:
    """Graphs to evaluate on, never trained on and always the same.

    Of 30 to 600 ops, every other one merged, for 2, 4, 8 and 16 streams in turn. Unlike for
    training, those where a search finds nothing are among them.
    """
    problems = []
    for index in range(count):
        pair = index // 2
        problems.append(
            problem_with_room(
                random.Random(f"held out {index}"),
                _HELD_OUT_SIZES[pair % len(_HELD_OUT_SIZES)],
                merged=index % 2 == 1,
                streams=_HELD_OUT_STREAMS[pair % len(_HELD_OUT_STREAMS)],
            )
        )
    return problems


def lower_bound_us(problem: PartitionProblem) -> float:
    """No schedule is faster: the longest path, and the work per stream and per resource."""
    device, costs = problem.device, problem.costs
    times = [min(cost.single_us, cost.gang_us) + device.dispatch_us for cost in costs]
    paths = [0.0] * len(costs)
    successors: list[list[int]] = [[] for _ in costs]
    for producer, consumer in problem.edges:
        successors[producer].append(consumer)
    for op in reversed(range(len(costs))):
        paths[op] = times[op] + max((paths[succ] for succ in successors[op]), default=0.0)
    single = [cost.single_us for cost in costs]
    return device.run_us + max(
        max(paths, default=0.0),
        sum(times) / device.streams,
        sum(t * cost.single_compute for t, cost in zip(single, costs, strict=True)),
        sum(t * cost.single_bandwidth for t, cost in zip(single, costs, strict=True)),
    )
