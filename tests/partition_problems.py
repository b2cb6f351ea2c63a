"""Random scheduling problems of many shapes, and slow, obvious references to compare C++ with."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from top_tvm.compiler.partition import PartitionProblem, Placement, Schedule
from top_tvm.cost import DeviceModel, OpCost

Edges = tuple[tuple[int, int], ...]


FAMILIES = ("independent", "chain", "sparse", "dense", "branches", "layers", "series")


def random_edges(rng: random.Random, num_ops: int, families: tuple[str, ...] = FAMILIES) -> Edges:
    """A DAG of one of the families that networks are made of."""
    ops = range(num_ops)
    family = rng.choice(families)
    if family == "series":  # two parts, everything in the first before everything in the second
        middle = rng.randint(0, num_ops)
        first = random_edges(rng, middle, FAMILIES[:-1])
        second = random_edges(rng, num_ops - middle, FAMILIES[:-1])
        return (
            *first,
            *itertools.product(range(middle), range(middle, num_ops)),
            *((producer + middle, consumer + middle) for producer, consumer in second),
        )
    if family == "independent":
        return ()
    if family == "chain":
        return tuple(itertools.pairwise(ops))
    if family in ("sparse", "dense"):
        density = rng.uniform(0.05, 0.3) if family == "sparse" else rng.uniform(0.4, 0.9)
        pairs = itertools.combinations(ops, 2)
        return tuple(pair for pair in pairs if rng.random() < density)
    if family == "branches":  # modules: a source, parallel chains, a sink
        edges: list[tuple[int, int]] = []
        first = 0
        while first < num_ops - 1:
            last = min(num_ops - 1, first + rng.randint(2, 7))
            ends = [first] * rng.randint(1, 3)
            for op in range(first + 1, last):
                branch = rng.randrange(len(ends))
                edges.append((ends[branch], op))
                ends[branch] = op
            edges += [(end, last) for end in ends]
            first = last
        return tuple(edges)
    bounds = sorted({0, num_ops, *(rng.randint(0, num_ops) for _ in range(num_ops // 3 + 1))})
    layers = [range(low, high) for low, high in itertools.pairwise(bounds)]
    return tuple(
        pair
        for pair in itertools.chain(
            *itertools.starmap(itertools.product, itertools.pairwise(layers))
        )
        if rng.random() < 0.8
    )


def random_problem(
    rng: random.Random, num_ops: int, streams: int | None = None
) -> PartitionProblem:
    """A problem with or without contention, overheads and multi-threaded forms."""
    streams = streams or rng.choice([1, 2, 2, 3, 4])
    contended = rng.random() < 0.6
    moldable = rng.choice([0.0, 0.5, 1.0])

    def demand() -> float:
        return rng.choice([0.0, rng.random(), 1.0]) if contended else 0.0

    def cost() -> OpCost:
        single_us = rng.uniform(0.5, 20.0)
        gang_us = single_us / rng.uniform(0.8, streams) if rng.random() < moldable else math.inf
        return OpCost(single_us, gang_us, demand(), demand(), demand(), demand())

    overheads = [rng.choice([0.0, rng.uniform(0.1, 3.0)]) for _ in range(4)]
    return PartitionProblem(
        edges=random_edges(rng, num_ops),
        costs=tuple(cost() for _ in range(num_ops)),
        device=DeviceModel(streams, *overheads),
    )


def random_schedule(rng: random.Random, problem: PartitionProblem) -> Schedule:
    """A topological order, streams and forms drawn blindly; stages and groups are left at 0."""
    streams = problem.device.streams
    gang_share = rng.choice([0.0, 0.2, 0.6])
    preds = predecessors(problem)
    left = set(range(problem.num_ops))
    placements = []
    while left:
        op = rng.choice(sorted(op for op in left if not preds[op] & left))
        left.remove(op)
        gang = rng.random() < gang_share and problem.costs[op].gang_us < math.inf
        placements.append(Placement(op, 0, 0, rng.randrange(streams), streams if gang else 1))
    return tuple(placements)


@st.composite
def problems(draw: st.DrawFn, max_ops: int = 24) -> PartitionProblem:
    return random_problem(draw(st.randoms(use_true_random=False)), draw(st.integers(0, max_ops)))


@st.composite
def scheduled_problems(draw: st.DrawFn, max_ops: int = 24) -> tuple[PartitionProblem, Schedule]:
    rng = draw(st.randoms(use_true_random=False))
    problem = random_problem(rng, draw(st.integers(0, max_ops)))
    return problem, random_schedule(rng, problem)


def predecessors(problem: PartitionProblem) -> list[set[int]]:
    preds: list[set[int]] = [set() for _ in range(problem.num_ops)]
    for producer, consumer in problem.edges:
        preds[consumer].add(producer)
    return preds


def is_gang(problem: PartitionProblem, placement: Placement) -> bool:
    return placement.threads == problem.device.streams > 1


def call_us(problem: PartitionProblem, op: int, *, gang: bool) -> float:
    device, cost = problem.device, problem.costs[op]
    return device.dispatch_us + (device.gang_us + cost.gang_us if gang else cost.single_us)


@dataclass
class Call:
    """A call of the reference simulation; ``left_us`` counts down first overhead, then work."""

    lanes: frozenset[int]
    sources: frozenset[int]
    overhead_us: float
    work_us: float
    demands: tuple[float, float]
    end_us: float = math.inf


def fair_share(demands: Sequence[float], demand: float) -> float:
    """Speed of an op with this demand among these: the max-min fair level, found by bisection."""
    if sum(demands) <= 1 + 1e-9 or demand == 0:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(60):
        level = (low + high) / 2
        low, high = (level, high) if sum(min(d, level) for d in demands) < 1 else (low, level)
    return min(1.0, low / demand)


def reference_run(calls: Sequence[Call]) -> float:
    """Time to finish calls that are issued in this order; the end of each is stored in it.

    Written for obviousness: at every event it looks at every call afresh.
    """
    now_us = 0.0
    done: set[int] = set()
    while len(done) < len(calls):
        active = [
            i
            for i, call in enumerate(calls)
            if i not in done
            and call.sources <= done
            and all(j in done for j in range(i) if calls[j].lanes & call.lanes)
        ]
        working = [i for i in active if calls[i].overhead_us <= 0]
        rates = {
            i: min(
                fair_share([calls[j].demands[r] for j in working], calls[i].demands[r])
                for r in range(2)
            )
            for i in working
        }
        step_us = min(
            calls[i].work_us / rates[i] if i in rates else calls[i].overhead_us for i in active
        )
        now_us += step_us
        for i in active:
            call = calls[i]
            if i in rates:
                call.work_us -= step_us * rates[i]
                if call.work_us <= 1e-9:
                    done.add(i)
                    call.end_us = now_us
            else:
                call.overhead_us -= step_us
                if call.overhead_us <= 1e-9:
                    call.overhead_us = 0.0
    return now_us


def reference_call(
    problem: PartitionProblem, placement: Placement, sources: Sequence[int] = ()
) -> Call:
    device, cost = problem.device, problem.costs[placement.op]
    if is_gang(problem, placement):
        return Call(
            frozenset(range(device.streams)),
            frozenset(sources),
            device.dispatch_us + device.gang_us,
            cost.gang_us,
            (cost.gang_bandwidth, cost.gang_compute),
        )
    return Call(
        frozenset([placement.stream]),
        frozenset(sources),
        device.dispatch_us + device.wait_us * len(sources),
        cost.single_us,
        (cost.single_bandwidth, cost.single_compute),
    )
