"""GPG: a learned policy makes schedules; the best of them is improved by local search.

The graph is encoded once by a graph neural network. A small decoder then makes schedules while it
simulates them (``passes/policy.h``): one by the best score, the others drawn at random. Those of
list scheduling and of sequential execution are candidates, too, so the result is never worse.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from top_tvm.compiler.partition.problem import PartitionProblem, Placement, Schedule
from top_tvm.errors import PartitionError

if TYPE_CHECKING:
    from top_tvm.compiler.gpg.network import Network

Fields = Sequence[tuple[int, int, int, int, int]]
WEIGHTS = Path(__file__).parent.parent / "gpg" / "weights.safetensors"
OBJECTIVES = ("simulated", "staged")
# What local search tries: numbers, not times, so that a seed decides the result.
_MOVES = 1700
_ORDERS_PER_OP = 3
_SAMPLE_TEMPERATURE = 1.0
_ANNEALING_TEMPERATURE = 0.2
_NO_LIMIT_MS = 1e9


def gpg(
    problem: PartitionProblem,
    *,
    samples: int = 16,
    seed: int = 0,
    search_ms: float | None = None,
    objective: str = "simulated",
) -> Schedule:
    """Learned partitioner: milliseconds for graphs of hundreds of ops.

    Parameters
    ----------
    problem : PartitionProblem
        Graph, costs and device.
    samples : int
        Schedules made by the policy.
    seed : int
        The same problem, options and seed give the same schedule.
    search_ms : float, optional
        Time for all of the search, in milliseconds; 0 for no local search. Then the result also
        depends on the machine. By default a fixed number of moves.
    objective : {"simulated", "staged"}
        What is minimised: :func:`simulate`, or :func:`staged_objective`.

    Returns
    -------
    Schedule
        With the simulated objective never slower than :func:`list_schedule`'s.

    Raises
    ------
    PartitionError
        If an option is not one of those above, or DGL or PyTorch is not installed.
    """
    if samples < 1:
        raise PartitionError(f"gpg: samples is {samples}; give a positive number")
    if search_ms is not None and search_ms < 0:
        raise PartitionError(f"gpg: search_ms is {search_ms}; give a time in milliseconds, or None")
    if objective not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise PartitionError(f"gpg: no objective {objective!r}; there are: {known}")
    if reason := why_unavailable():
        raise PartitionError(f"gpg: {reason}")
    return _search(problem, samples, seed, search_ms, objective)


def why_unavailable() -> str | None:
    """What is missing for GPG on this machine, and what to do; None if nothing is."""
    try:
        import top_tvm.compiler.gpg.network  # noqa: F401
    except (ImportError, OSError) as error:
        return (
            f"the network needs DGL and PyTorch, which cannot be imported here ({error}); with "
            "Python 3.10 or 3.11, pip install 'top_tvm[compile]' installs them"
        )
    return None


@lru_cache(maxsize=256)
def _search(
    problem: PartitionProblem, samples: int, seed: int, search_ms: float | None, objective: str
) -> Schedule:
    deadline = math.inf if search_ms is None else time.perf_counter() + search_ms / 1e3
    native = problem.native
    best = native.list_schedule()
    if problem.num_ops > 1 and problem.device.streams > 1:
        weights = shipped_network().policy_of(problem).arguments()
        decoded_us, decoded = native.decode(*weights, samples, _SAMPLE_TEMPERATURE, seed)
        if objective == "staged":
            return _stages(problem, (decoded, best), deadline, seed)
        if decoded_us < native.simulate(best)[0]:
            best = decoded
        limits = _limits(deadline, _MOVES)
        best = native.improve(best, *limits, _ANNEALING_TEMPERATURE, seed, waits=True)
    return tuple(Placement(*fields) for fields in best)


def _stages(
    problem: PartitionProblem, schedules: Sequence[Fields], deadline: float, seed: int
) -> Schedule:
    """Cut the orders in which ops start in some schedules, and improve the best of these orders."""
    native = problem.native
    orders = []
    for schedule in schedules:
        _, start_us, _ = native.simulate(schedule)
        orders.append(sorted(range(problem.num_ops), key=lambda op: (start_us[op], op)))
    limits = _limits(deadline, _ORDERS_PER_OP * problem.num_ops)
    found = [native.greedy(), native.improve_stages(orders, *limits, 0.0, seed)]
    best = min(found, key=native.staged_objective)
    return tuple(Placement(*fields) for fields in best)


def _limits(deadline: float, tries: int) -> tuple[float, int]:
    """Milliseconds and number of tries of a local search; 0 tries mean no limit."""
    if deadline == math.inf:
        return _NO_LIMIT_MS, tries
    return max(0.0, 1e3 * (deadline - time.perf_counter())), 0


@lru_cache(maxsize=1)
def shipped_network() -> Network:
    """The policy that comes with the package."""
    from top_tvm.compiler.gpg.network import load_network

    return load_network(WEIGHTS)
