"""derive_waits and assign_stages against brute-force happens-before relations."""

from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given

from partition_problems import is_gang, scheduled_problems
from top_tvm import _native
from top_tvm.compiler.partition import (
    PartitionProblem,
    Placement,
    Schedule,
    assign_stages,
    validate_schedule,
)

Waits = list[list[int]]


def derive_waits(problem: PartitionProblem, schedule: Schedule) -> Waits:
    return _native.derive_waits(problem.num_ops, problem.edges, schedule, problem.device.streams)


def stream_order(problem: PartitionProblem, schedule: Schedule) -> nx.DiGraph:
    """Happens-before of positions by stream order alone; a gang call is in every stream's order."""
    order = nx.DiGraph()
    order.add_nodes_from(range(len(schedule)))
    for stream in range(problem.device.streams):
        calls = [
            at
            for at, placement in enumerate(schedule)
            if placement.stream == stream or is_gang(problem, placement)
        ]
        nx.add_path(order, calls)
    return order


def needed_edges(problem: PartitionProblem, schedule: Schedule) -> list[tuple[int, int]]:
    position = {placement.op: at for at, placement in enumerate(schedule)}
    return [(position[producer], position[consumer]) for producer, consumer in problem.edges]


def happens_before(order: nx.DiGraph, edges: list[tuple[int, int]]) -> set[tuple[int, int]]:
    order = order.copy()
    order.add_edges_from(edges)
    return set(nx.transitive_closure_dag(order).edges)


def wait_edges(waits: Waits) -> list[tuple[int, int]]:
    return [(source, at) for at, sources in enumerate(waits) for source in sources]


@given(scheduled_problems())
def test_waits_imply_exactly_the_needed_order(case: tuple[PartitionProblem, Schedule]) -> None:
    problem, schedule = case
    order = stream_order(problem, schedule)
    waits = wait_edges(derive_waits(problem, schedule))
    needed = needed_edges(problem, schedule)
    assert happens_before(order, waits) == happens_before(order, needed)


@given(scheduled_problems(max_ops=16))
def test_no_wait_is_implied_by_the_rest(case: tuple[PartitionProblem, Schedule]) -> None:
    problem, schedule = case
    order = stream_order(problem, schedule)
    waits = wait_edges(derive_waits(problem, schedule))
    for wait in waits:
        others = [other for other in waits if other != wait]
        assert wait not in happens_before(order, others)


@given(scheduled_problems())
def test_waits_are_for_earlier_calls_on_other_streams(
    case: tuple[PartitionProblem, Schedule],
) -> None:
    problem, schedule = case
    for at, sources in enumerate(derive_waits(problem, schedule)):
        assert sources == sorted(set(sources), reverse=True)
        assert not (sources and is_gang(problem, schedule[at]))
        for source in sources:
            assert source < at
            assert schedule[source].stream != schedule[at].stream


def test_waits_of_a_diamond() -> None:
    edges = [(0, 1), (0, 2), (1, 3), (2, 3), (0, 3)]
    placements = [(0, 0, 0, 0, 1), (1, 1, 0, 0, 1), (2, 1, 1, 1, 1), (3, 2, 0, 0, 1)]
    assert _native.derive_waits(4, edges, placements, 2) == [[], [], [0], [2]]


def test_a_wait_covers_what_its_source_waited_for() -> None:
    # Op 2 on stream 2 waits for op 1, which waited for op 0: no second wait.
    placements = [(0, 0, 0, 0, 1), (1, 0, 0, 1, 1), (2, 0, 0, 2, 1)]
    assert _native.derive_waits(3, [(0, 1), (0, 2), (1, 2)], placements, 3) == [[], [0], [1]]


def test_a_gang_call_covers_everything_before_it() -> None:
    placements = [(0, 0, 0, 0, 1), (1, 1, 0, 0, 2), (2, 2, 0, 1, 1)]
    assert _native.derive_waits(3, [(0, 1), (0, 2), (1, 2)], placements, 2) == [[], [], []]


def test_impossible_orders_are_refused() -> None:
    with pytest.raises(ValueError, match="issues op 1 before op 0"):
        _native.derive_waits(2, [(0, 1)], [(1, 0, 0, 0, 1), (0, 0, 0, 0, 1)], 2)
    with pytest.raises(ValueError, match="does not place op 1"):
        _native.derive_waits(2, [(0, 1)], [(0, 0, 0, 0, 1)], 2)


@given(scheduled_problems())
def test_assigned_stages_are_legal_and_keep_the_rest(
    case: tuple[PartitionProblem, Schedule],
) -> None:
    problem, schedule = case
    staged = assign_stages(problem, schedule)
    validate_schedule(problem, staged)
    for before, after in zip(schedule, staged, strict=True):
        assert (before.op, before.threads) == (after.op, after.threads)
        assert is_gang(problem, before) or before.stream == after.stream
    assert derive_waits(problem, staged) == derive_waits(problem, schedule)


def test_stages_start_at_synchronisations() -> None:
    problem_edges = [(0, 2), (1, 3), (2, 4), (3, 4)]
    problem = _native.Problem(6, problem_edges, [(1.0, 1.0, 0, 0, 0, 0)] * 6, 2, (0, 0, 0, 0), [])
    streams_and_threads = [(0, 1), (1, 1), (0, 1), (1, 1), (1, 1), (0, 2)]
    schedule = [(op, 0, 0, *place) for op, place in enumerate(streams_and_threads)]
    stages = [
        (Placement(*fields).stage, Placement(*fields).group)
        for fields in problem.assign_stages(schedule)
    ]
    # Two independent chains are one stage; op 4 joins them; op 5 gathers the streams.
    assert stages == [(0, 0), (0, 1), (0, 0), (0, 1), (1, 0), (2, 0)]
