"""The methods that are compared, each with its time for searching."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from top_tvm.compiler.partition import (
    PARTITIONERS,
    PartitionProblem,
    Placement,
    Schedule,
    gpg,
    list_schedule,
    simulate,
)

_IOS_CHILD = Path(__file__).parent / "ios_child.py"
# Of annealing: at first a step may cost about as much as an op takes on average.
_TEMPERATURE = 1.0
_BEAM_WIDTH, _BEAM_CANDIDATES = 1024, 4


@dataclass(frozen=True)
class Budget:
    """How long methods may search; those with ``search_ms`` get as much as gpg took.

    ``ios_exact`` lifts the limits that ios has in its paper on groups and their ops.
    """

    search_ms: float
    long_s: float
    ios_s: float
    seed: int = 0
    ios_exact: bool = False


@dataclass(frozen=True)
class Found:
    """A schedule, or None with a note that says why there is none."""

    schedule: Schedule | None
    search_ms: float | None
    note: str = ""


Search = Callable[[PartitionProblem, Budget], Schedule]
Method = Callable[[PartitionProblem, Budget], Found]


def _timed(search: Search) -> Method:
    def run(problem: PartitionProblem, budget: Budget) -> Found:
        begin = time.perf_counter()
        schedule = search(problem, budget)
        return Found(schedule, (time.perf_counter() - begin) * 1e3)

    return run


def _partitioner(name: str) -> Method:
    return _timed(lambda problem, budget: PARTITIONERS[name](problem))


def _policy(problem: PartitionProblem, budget: Budget, samples: int = 16) -> Schedule:
    """Gpg without local search: the best of list scheduling and what the policy makes."""
    return gpg(problem, samples=samples, search_ms=0)


def _gpg_staged(problem: PartitionProblem, budget: Budget) -> Schedule:
    return gpg(problem, objective="staged")


def _beam(problem: PartitionProblem, budget: Budget) -> Schedule:
    placements = problem.native.beam(_BEAM_WIDTH, _BEAM_CANDIDATES, budget.search_ms)
    return tuple(Placement(*fields) for fields in placements)


def _local_search(problem: PartitionProblem, budget: Budget, temperature: float = 0.0) -> Schedule:
    """List scheduling, and in what is left of the time a search from there."""
    begin = time.perf_counter()
    start = list_schedule(problem)
    left_ms = budget.search_ms - (time.perf_counter() - begin) * 1e3
    return _improve(problem, start, left_ms, temperature, budget.seed)


def _improve(
    problem: PartitionProblem, start: Schedule, max_ms: float, temperature: float, seed: int
) -> Schedule:
    placements = problem.native.improve(start, max(max_ms, 1e-3), 0, temperature, seed, waits=True)
    return tuple(Placement(*fields) for fields in placements)


def _long_search(problem: PartitionProblem, budget: Budget) -> Schedule:
    """The best known: a third of the time each to climb, to anneal, and to climb from the better.

    It starts from list scheduling and knows nothing of what the other methods found.
    """
    third = replace(budget, search_ms=budget.long_s * 1e3 / 3)
    climbed = _local_search(problem, third)
    annealed = _local_search(problem, third, _TEMPERATURE)
    best = min(climbed, annealed, key=lambda found: simulate(problem, found).makespan_us)
    return _improve(problem, best, third.search_ms, 0.0, budget.seed + 1)


def _ios(problem: PartitionProblem, budget: Budget) -> Found:
    """Without a limit on stages, in its own process."""
    command = [sys.executable, str(_IOS_CHILD)]
    limits = {"max_stages": None}
    if budget.ios_exact:
        limits |= {"max_groups": None, "max_group_ops": None}
    given = pickle.dumps((problem, limits, budget.ios_s))
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=budget.ios_s)
    except subprocess.TimeoutExpired:
        return Found(None, None, f"did not finish in {budget.ios_s / 60:g} min")
    if done.returncode:
        message = done.stderr.decode().strip().splitlines()[-1:]
        if message and message[0].startswith("MemoryError"):
            return Found(None, None, "did not finish: out of memory")
        raise RuntimeError(f"ios failed: {' '.join(message)}")
    search_ms, placements = json.loads(done.stdout)
    return Found(tuple(Placement(*fields) for fields in placements), search_ms)


METHODS: Mapping[str, Method] = {
    "gpg": _partitioner("gpg"),
    "policy": _timed(_policy),
    "policy-1": _timed(partial(_policy, samples=1)),
    "sequential": _partitioner("sequential"),
    "greedy": _partitioner("greedy"),
    "list": _partitioner("list"),
    "beam": _timed(_beam),
    "list+search": _timed(_local_search),
    "annealing": _timed(partial(_local_search, temperature=_TEMPERATURE)),
    "ios-bounded": _partitioner("ios"),
    "ios": _ios,
    "gpg-staged": _timed(_gpg_staged),
    "search-long": _timed(_long_search),
}
