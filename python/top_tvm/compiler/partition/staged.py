"""Schedules for the staged objective, from orders of ops.

Computed in C++ (``passes/staged_search.h``).
"""

from __future__ import annotations

from collections.abc import Sequence

from top_tvm.compiler.partition.problem import (
    PartitionProblem,
    Placement,
    Schedule,
    partition_errors,
)
from top_tvm.errors import PartitionError


def cut_stages(problem: PartitionProblem, order: Sequence[int]) -> Schedule:
    """Cut an order of ops into stages so that :func:`staged_objective` is least.

    Dynamic programming over the positions of the order. Stages have at most 256 ops; the connected
    components of a stage are its groups.

    Parameters
    ----------
    problem : PartitionProblem
        Graph, costs and device.
    order : sequence of int
        All ops in a topological order, for example the issue order of a schedule.

    Raises
    ------
    PartitionError
        If the order is not a topological one of all ops.
    """
    with partition_errors():
        fields = problem.native.cut_stages(order)
    return tuple(Placement(*placement) for placement in fields)


def improve_stages(
    problem: PartitionProblem,
    orders: Sequence[Sequence[int]],
    *,
    max_ms: float = 1000.0,
    max_orders: int | None = None,
    temperature: float = 0.5,
    seed: int = 0,
) -> Schedule:
    """Search for an order with a better cut than those given, by simulated annealing.

    Parameters
    ----------
    problem : PartitionProblem
        Graph, costs and device.
    orders : sequence of sequence of int
        At least one, as :func:`cut_stages` takes them. The search starts from the best.
    max_ms : float
        Time to search.
    max_orders : int, optional
        How many orders to try; None for no limit. With a limit the result depends on the seed alone
        as long as ``max_ms`` suffices.
    temperature : float
        How much worse the next order may be at the beginning, relative to the mean time per op; 0
        takes improvements only.
    seed : int
        Of the moves.

    Returns
    -------
    Schedule
        The best cut found: never worse than the best cut of the orders given.

    Raises
    ------
    PartitionError
        If there is no order, one is not a topological order of all ops, or a limit is not positive.
    """
    if max_orders is not None and max_orders <= 0:
        raise PartitionError(f"max_orders is {max_orders}; give a positive number, or None.")
    with partition_errors():
        fields = problem.native.improve_stages(orders, max_ms, max_orders or 0, temperature, seed)
    return tuple(Placement(*placement) for placement in fields)
