"""Cuts of orders into stages and the search over orders, against brute force and exact ios."""

from __future__ import annotations

import random
from functools import cache

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partition_problems import call_us, predecessors, problems, random_problem
from top_tvm.compiler.partition import (
    PartitionProblem,
    Placement,
    Schedule,
    cut_stages,
    greedy,
    improve_stages,
    ios,
    list_schedule,
    sequential,
    staged_objective,
    validate_schedule,
)
from top_tvm.cost import DeviceModel, OpCost
from top_tvm.errors import PartitionError

ROUNDING = 1 + 1e-9


def issue_order(schedule: Schedule) -> list[int]:
    return [placement.op for placement in schedule]


def random_order(rng: random.Random, problem: PartitionProblem) -> list[int]:
    preds = predecessors(problem)
    order: list[int] = []
    left = set(range(problem.num_ops))
    while left:
        order.append(rng.choice(sorted(op for op in left if not preds[op] & left)))
        left.remove(order[-1])
    return order


def stage_us(problem: PartitionProblem, ops: list[int]) -> float:
    """One stage, concurrent or sequential, whatever is faster: what ios makes of just these ops."""
    number = {op: i for i, op in enumerate(sorted(ops))}
    edges = tuple((number[a], number[b]) for a, b in problem.edges if {a, b} <= number.keys())
    costs = tuple(problem.costs[op] for op in sorted(ops))
    alone = PartitionProblem(edges, costs, problem.device)
    streams = range(problem.device.streams)
    sequential_us = staged_objective(alone, sequential(alone))
    dag = nx.DiGraph(edges)
    dag.add_nodes_from(range(len(ops)))
    groups = sorted(sorted(group) for group in nx.weakly_connected_components(dag))
    if len(groups) == 1:
        return sequential_us - problem.device.run_us
    solo_us = [sum(call_us(alone, op, gang=False) for op in group) for group in groups]
    load_us = [0.0 for _ in streams]
    placements = []
    stream_of = {}
    for index in sorted(range(len(groups)), key=lambda index: -solo_us[index]):
        stream_of[index] = load_us.index(min(load_us))
        load_us[stream_of[index]] += solo_us[index]
    for index, group in enumerate(groups):
        placements += [Placement(op, 0, index, stream_of[index], 1) for op in group]
    concurrent_us = staged_objective(alone, tuple(placements))
    return min(sequential_us, concurrent_us) - problem.device.run_us


def best_cut_us(problem: PartitionProblem, order: list[int]) -> float:
    """The least staged objective over all cuts of an order."""
    barrier_us = (problem.device.streams - 1) * problem.device.wait_us

    @cache
    def best_us(end: int) -> float:
        if end == 0:
            return 0.0
        return min(
            best_us(begin) + (barrier_us if begin else 0.0) + stage_us(problem, order[begin:end])
            for begin in range(end)
        )

    return problem.device.run_us + best_us(len(order))


@settings(max_examples=50, deadline=None)
@given(problems(max_ops=8), st.randoms(use_true_random=False))
def test_no_cut_of_the_order_is_better(problem: PartitionProblem, rng: random.Random) -> None:
    order = random_order(rng, problem)
    schedule = cut_stages(problem, order)
    validate_schedule(problem, schedule)
    assert staged_objective(problem, schedule) == pytest.approx(best_cut_us(problem, order))


@given(problems(max_ops=32))
def test_the_stages_of_other_partitioners_are_cuts_of_their_order(
    problem: PartitionProblem,
) -> None:
    for schedule in (sequential(problem), greedy(problem), ios(problem, max_stages=5_000)):
        found_us = staged_objective(problem, cut_stages(problem, issue_order(schedule)))
        assert found_us <= staged_objective(problem, schedule) * ROUNDING


@settings(max_examples=100, deadline=None)
@given(problems(max_ops=40), st.sampled_from([0.0, 0.5]), st.integers(0, 2**32))
def test_search_is_legal_and_deterministic_and_never_worse_than_its_start(
    problem: PartitionProblem, temperature: float, seed: int
) -> None:
    orders = [issue_order(list_schedule(problem)), issue_order(greedy(problem))]

    def search() -> Schedule:
        return improve_stages(
            problem, orders, max_ms=1e9, max_orders=100, temperature=temperature, seed=seed
        )

    found = search()
    validate_schedule(problem, found)
    assert search() == found
    for order in orders:
        start_us = staged_objective(problem, cut_stages(problem, order))
        assert staged_objective(problem, found) <= start_us * ROUNDING


def test_search_finds_what_exact_ios_finds() -> None:
    rng = random.Random(1)
    best = 0
    for trial in range(100):
        problem = random_problem(rng, rng.randint(2, 11))
        exact_us = staged_objective(
            problem, ios(problem, max_group_ops=None, max_groups=None, max_stages=None)
        )
        order = random_order(rng, problem)
        found = improve_stages(problem, [order], max_ms=1e9, max_orders=500, seed=trial)
        found_us = staged_objective(problem, found)
        assert found_us >= exact_us / ROUNDING, "ios is exact"
        best += found_us <= exact_us * ROUNDING
    assert best >= 97


def test_stages_are_joined_where_barriers_are_dear() -> None:
    problem = PartitionProblem((), (OpCost(10.0),) * 200, DeviceModel(4, wait_us=50.0))
    schedule = cut_stages(problem, range(200))
    assert {placement.stage for placement in schedule} == {0}
    assert staged_objective(problem, schedule) == pytest.approx(500)


def test_search_overcomes_a_bad_start() -> None:
    """Two chains of ops of equal time, one behind the other, run side by side in one stage."""
    chains = tuple((op, op + 1) for op in range(19) if op != 9)
    problem = PartitionProblem(chains, (OpCost(10.0),) * 20, DeviceModel(2, wait_us=5.0))
    schedule = improve_stages(problem, [range(20)], max_ms=1e9, max_orders=2000)
    assert staged_objective(problem, schedule) == pytest.approx(100)


@pytest.mark.parametrize("edges", [(), tuple((op, op + 1) for op in range(4999))])
def test_thousands_of_ops(edges: tuple[tuple[int, int], ...]) -> None:
    rng = random.Random(2)
    costs = tuple(OpCost(rng.uniform(1, 9), gang_us=5.0) for _ in range(5000))
    problem = PartitionProblem(edges, costs, DeviceModel(4, 0.5, 1.0, 1.0))
    schedule = improve_stages(problem, [range(5000)], max_ms=1e9, max_orders=200)
    validate_schedule(problem, schedule)
    sequential_us = staged_objective(problem, sequential(problem))
    found_us = staged_objective(problem, schedule)
    if edges:
        assert found_us == pytest.approx(sequential_us)
    else:
        assert found_us < 0.5 * sequential_us


def test_a_graph_without_ops_has_no_stages() -> None:
    problem = PartitionProblem((), (), DeviceModel(2))
    assert cut_stages(problem, []) == improve_stages(problem, [[]], max_orders=10) == ()


def test_bad_orders_are_refused() -> None:
    problem = PartitionProblem(((0, 1),), (OpCost(1.0),) * 2, DeviceModel(2), names=("a", "b"))
    with pytest.raises(PartitionError, match=r"issues op 1 \(b\) before op 0 \(a\)"):
        cut_stages(problem, [1, 0])
    with pytest.raises(PartitionError, match=r"does not place op 1 \(b\)"):
        improve_stages(problem, [[0, 1], [0]], max_orders=10)
    with pytest.raises(PartitionError, match="no order to start from"):
        improve_stages(problem, [])
    with pytest.raises(PartitionError, match="max_orders is 0; give a positive number, or None"):
        improve_stages(problem, [[0, 1]], max_orders=0)
