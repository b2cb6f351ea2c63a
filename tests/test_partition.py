"""Every partitioner on random DAGs; ios against brute force; messages about bad schedules."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from functools import cache, partial

import networkx as nx
import pytest
from hypothesis import given

from partition_problems import (
    call_us,
    is_gang,
    predecessors,
    problems,
    random_problem,
    reference_call,
    reference_run,
)
from top_tvm.compiler.partition import (
    PARTITIONERS,
    Partitioner,
    PartitionProblem,
    Placement,
    Schedule,
    ios,
    sequential,
    simulate,
    staged_objective,
    validate_schedule,
)
from top_tvm.cost import DeviceModel, OpCost
from top_tvm.errors import PartitionError

INCEPTION = tuple(
    (14 * module + producer, 14 * module + consumer)
    for module in range(3)
    for producer, consumer in (
        *((0, first) for first in (1, 2, 5, 9)),
        *((2, 3), (3, 4), (5, 6), (6, 7), (7, 8), (9, 10), (10, 11), (11, 12)),
        *((last, 13) for last in (1, 4, 8, 12)),
        *(((13, 14),) if module < 2 else ()),
    )
)


def best_staged_us(problem: PartitionProblem, max_group_ops: int, max_groups: int) -> float:
    """The least staged objective over all sequences of stages, by trying each.

    Works backwards over bit sets and charges a barrier between any two stages: a run of sequential
    stages is one sequential stage, which is tried too.
    """
    preds = predecessors(problem)
    dag = nx.DiGraph(problem.edges)
    dag.add_nodes_from(range(problem.num_ops))
    streams = problem.device.streams
    barrier_us = (streams - 1) * problem.device.wait_us

    def endings(ops: frozenset[int]) -> Iterator[frozenset[int]]:
        """Non-empty subsets that no other op of `ops` depends on."""
        members = sorted(ops)
        for bits in range(1, 1 << len(members)):
            ending = frozenset(op for i, op in enumerate(members) if bits >> i & 1)
            if not any(preds[op] & ending for op in ops - ending):
                yield ending

    @cache
    def stage_us(ops: frozenset[int]) -> float:
        gang = streams > 1
        best = sum(
            min(call_us(problem, op, gang=False), call_us(problem, op, gang=True))
            if gang
            else call_us(problem, op, gang=False)
            for op in ops
        )
        groups = [sorted(g) for g in nx.weakly_connected_components(dag.subgraph(ops))]
        if len(groups) > max_groups or max(map(len, groups)) > max_group_ops:
            return best
        solo_us = {g[0]: sum(call_us(problem, op, gang=False) for op in g) for g in groups}
        load_us = [0.0] * streams
        stream_of: dict[int, int] = {}
        for first, time_us in sorted(solo_us.items(), key=lambda item: (-item[1], item[0])):
            stream_of[first] = load_us.index(min(load_us))
            load_us[stream_of[first]] += time_us
        calls = [
            reference_call(problem, Placement(op, 0, 0, stream_of[group[0]], 1))
            for group in sorted(groups)
            for op in group
        ]
        return min(best, reference_run(calls))

    @cache
    def best_us(ops: frozenset[int]) -> float:
        if not ops:
            return 0.0
        return min(
            stage_us(ending) + (best_us(ops - ending) + barrier_us if ending != ops else 0.0)
            for ending in endings(ops)
        )

    return problem.device.run_us + best_us(frozenset(range(problem.num_ops)))


@pytest.mark.parametrize("seed", range(10))
def test_ios_equals_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(50):
        problem = random_problem(rng, rng.randint(1, 8))
        schedule = ios(problem, max_group_ops=None, max_groups=None, max_stages=None)
        validate_schedule(problem, schedule)
        expected_us = best_staged_us(problem, problem.num_ops, problem.num_ops)
        assert staged_objective(problem, schedule) == pytest.approx(expected_us), problem


def test_ios_ends_a_block_later_where_that_saves_a_barrier() -> None:
    # Levels as stages, {0, 1} {2, 3, 4}, end the block of the first five ops 0.5 us earlier than
    # {0 3, 1} and then 2 and 4 in order, which op 5 follows without a barrier of 4 us.
    first = ((0, 2), (0, 3), (0, 4), (1, 2), (1, 4))
    costs = tuple(OpCost(single_us) for single_us in (4, 17, 9, 10, 1.5, 14))
    problem = PartitionProblem(
        (*first, *((op, 5) for op in range(5))), costs, DeviceModel(3, wait_us=2)
    )
    assert staged_objective(problem, ios(problem)) == pytest.approx(17 + 4 + 9 + 1.5 + 14)
    assert best_staged_us(problem, 6, 6) == pytest.approx(45.5)


@pytest.mark.parametrize(("max_group_ops", "max_groups"), [(1, 2), (2, 8), (3, 2)])
def test_limits_cost_no_more_than_what_they_exclude(max_group_ops: int, max_groups: int) -> None:
    rng = random.Random(max_group_ops)
    for _ in range(30):
        problem = random_problem(rng, rng.randint(1, 8))
        schedule = ios(problem, max_group_ops=max_group_ops, max_groups=max_groups)
        # Levels as stages are tried whatever the limits, so it may be better than what they allow.
        allowed_us = best_staged_us(problem, max_group_ops, max_groups)
        best_us = best_staged_us(problem, problem.num_ops, problem.num_ops)
        tolerance = 1e-9 * allowed_us
        assert best_us - tolerance <= staged_objective(problem, schedule) <= allowed_us + tolerance


# A search that gives up early does all that a long one does, splitting included.
QUICK: dict[str, Partitioner] = {**PARTITIONERS, "ios": partial(ios, max_stages=5_000)}


@pytest.mark.parametrize("name", QUICK)
@given(problem=problems(max_ops=40))
def test_schedules_are_valid(name: str, problem: PartitionProblem) -> None:
    schedule = QUICK[name](problem)
    validate_schedule(problem, schedule)
    assert all(
        not is_gang(problem, placement) or problem.costs[placement.op].gang_us < math.inf
        for placement in schedule
    )
    assert QUICK[name](problem) == schedule, "a partitioner must be deterministic"


@given(problems(max_ops=40))
def test_list_is_never_predicted_slower_than_sequential(problem: PartitionProblem) -> None:
    sequential_us = simulate(problem, sequential(problem)).makespan_us
    list_us = simulate(problem, PARTITIONERS["list"](problem)).makespan_us
    assert list_us <= sequential_us * (1 + 1e-9)


@given(problems(max_ops=40))
def test_ios_is_at_least_as_good_as_sequential_and_greedy_with_stages(
    problem: PartitionProblem,
) -> None:
    ios_us = staged_objective(problem, QUICK["ios"](problem))
    for name in ("sequential", "greedy"):
        other_us = staged_objective(problem, PARTITIONERS[name](problem))
        assert ios_us <= other_us * (1 + 1e-9)


@given(problems(max_ops=40))
def test_sequential_is_one_run_of_the_faster_forms(problem: PartitionProblem) -> None:
    schedule = sequential(problem)
    assert [placement.op for placement in schedule] == list(range(problem.num_ops))
    assert {(p.stage, p.group, p.stream) for p in schedule} <= {(0, 0, 0)}
    forms = (False, True) if problem.device.streams > 1 else (False,)
    fastest_us = sum(
        min(call_us(problem, op, gang=gang) for gang in forms) for op in range(problem.num_ops)
    )
    expected_us = problem.device.run_us + fastest_us
    assert simulate(problem, schedule).makespan_us == pytest.approx(expected_us)


def inception(streams: int, gang_speedup: float) -> PartitionProblem:
    cost = OpCost(100.0, gang_us=100.0 / gang_speedup)
    return PartitionProblem(
        INCEPTION, (cost,) * 42, DeviceModel(streams, dispatch_us=0.5, wait_us=1.0, gang_us=1.0)
    )


@pytest.mark.parametrize("name", ["greedy", "list", "ios"])
def test_branches_run_side_by_side(name: str) -> None:
    problem = inception(streams=2, gang_speedup=1.0)
    speedup = (
        simulate(problem, sequential(problem)).makespan_us
        / simulate(problem, PARTITIONERS[name](problem)).makespan_us
    )
    # Of 14 ops per module 2 are alone and 12 fit two streams in at least 6 steps, greedy's waves
    # of 4, 3, 3 and 2 ops take 2, 2, 2 and 1.
    assert speedup > 14 / 9.5


@pytest.mark.parametrize("name", PARTITIONERS)
def test_a_chain_uses_all_streams_for_every_op(name: str) -> None:
    chain = tuple((op, op + 1) for op in range(9))
    problem = PartitionProblem(
        chain, (OpCost(100.0, gang_us=60.0),) * 10, DeviceModel(2, wait_us=1.0, gang_us=1.0)
    )
    schedule = PARTITIONERS[name](problem)
    assert all(placement.threads == 2 for placement in schedule)
    assert {placement.stage for placement in schedule} == {0}


@pytest.mark.parametrize("name", ["greedy", "list", "ios"])
def test_an_efficient_gang_is_not_used_where_branches_fill_the_streams(name: str) -> None:
    problem = PartitionProblem(
        (), (OpCost(100.0, gang_us=70.0),) * 4, DeviceModel(2, wait_us=1.0, gang_us=1.0)
    )
    assert simulate(problem, PARTITIONERS[name](problem)).makespan_us == pytest.approx(200)


def test_list_hides_a_long_branch_behind_the_others() -> None:
    # Op 0 leads to the long op 5; ops 1-4 fill the other stream.
    costs = (OpCost(1.0), *[OpCost(10.0)] * 4, OpCost(40.0))
    problem = PartitionProblem(((0, 5),), costs, DeviceModel(2))
    assert simulate(problem, PARTITIONERS["list"](problem)).makespan_us == pytest.approx(41)


def test_ios_searches_big_graphs_in_bounded_steps() -> None:
    """Blocks of more ops than a bit set holds, and too few stages for an exact search."""
    rng = random.Random(5)
    ops = 400
    edges = tuple((max(0, op - rng.randint(1, 12)), op) for op in range(1, ops))
    costs = tuple(OpCost(rng.uniform(1, 50)) for _ in range(ops))
    problem = PartitionProblem(edges, costs, DeviceModel(4, 0.5, 1.0))
    schedule = ios(problem, max_stages=20_000)
    validate_schedule(problem, schedule)
    greedy_us = staged_objective(problem, PARTITIONERS["greedy"](problem))
    assert staged_objective(problem, schedule) <= greedy_us


@pytest.mark.parametrize("limit", ["max_group_ops", "max_groups", "max_stages"])
def test_ios_refuses_limits_that_leave_nothing(limit: str) -> None:
    with pytest.raises(PartitionError, match=f"ios: {limit} is 0; give a positive number, or None"):
        ios(inception(2, 1.0), **{limit: 0})


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (((0, 0, 0, 0, 1), (1, 1, 0, 0, 1)), r"does not place op 2 \(add\)"),
        (((0, 0, 0, 0, 1),) * 3, r"places op 0 \(a\) twice"),
        (((0, 0, 0, 0, 1), (7, 0, 0, 0, 1)), r"places op 7, but the graph has 3 ops"),
        (
            ((2, 0, 0, 0, 1), (0, 0, 0, 0, 1), (1, 0, 0, 0, 1)),
            r"issues op 2 \(add\) before op 0 \(a\), whose result it needs",
        ),
        (
            ((0, 1, 0, 0, 1), (1, 0, 0, 0, 1), (2, 1, 0, 0, 1)),
            r"issues op 1 \(b\) of stage 0 after an op of stage 1",
        ),
        (
            ((0, 0, 0, 0, 1), (1, 0, 0, 1, 1), (2, 1, 0, 0, 1)),
            r"places op 1 \(b\) on stream 1, but its group is on stream 0",
        ),
        (
            ((0, 0, 0, 0, 1), (1, 0, 1, 1, 1), (2, 0, 0, 0, 1)),
            r"puts op 2 \(add\) and op 1 \(b\), .* into different groups of stage 0",
        ),
        (((0, 0, 0, -1, 1), (1, 0, 0, 0, 1), (2, 1, 0, 0, 1)), r"op 0 \(a\) on stream -1"),
        (((0, 0, 0, 0, 4), (1, 0, 0, 0, 1), (2, 1, 0, 0, 1)), r"gives op 0 \(a\) 4 threads"),
        (((0, 0, -1, 0, 1), (1, 0, 0, 0, 1), (2, 1, 0, 0, 1)), r"op 0 \(a\) into group -1"),
        (
            ((0, 0, 0, 0, 1), (1, 0, 0, 0, 2), (2, 1, 0, 0, 1)),
            r"gives op 1 \(b\) 2 threads, but it has no multi-threaded form",
        ),
    ],
)
def test_illegal_schedule_is_refused(
    schedule: tuple[tuple[int, int, int, int, int], ...], message: str
) -> None:
    problem = PartitionProblem(
        ((0, 2), (1, 2)), (OpCost(1),) * 3, DeviceModel(2), names=("a", "b", "add")
    )
    placements: Schedule = tuple(Placement(*fields) for fields in schedule)
    with pytest.raises(PartitionError, match=message):
        validate_schedule(problem, placements)


def test_stages_of_several_groups_hold_no_gang_call() -> None:
    problem = PartitionProblem((), (OpCost(2, gang_us=1),) * 2, DeviceModel(2))
    schedule = (Placement(0, 0, 0, 0, 2), Placement(1, 0, 1, 1, 1))
    with pytest.raises(PartitionError, match="Stage 0 has several groups, but op 0"):
        staged_objective(problem, schedule)


# Beam search is no partitioner of `build`: a baseline for the table of the benchmark.
def beam(problem: PartitionProblem, width: int, candidates: int = 3) -> Schedule:
    return tuple(Placement(*fields) for fields in problem.native.beam(width, candidates))


@given(problems(max_ops=40))
def test_beam_search_makes_legal_schedules_and_no_worse_ones_with_more_width(
    problem: PartitionProblem,
) -> None:
    times_us = []
    for width in (1, 4, 16):
        schedule = beam(problem, width)
        validate_schedule(problem, schedule)
        assert beam(problem, width) == schedule, "a search without a time limit is deterministic"
        times_us.append(simulate(problem, schedule).makespan_us)
    # Predicted while it is made and afterwards: equal but for rounding.
    assert times_us[1] <= times_us[0] * (1 + 1e-9)
    assert times_us[2] <= times_us[1] * (1 + 1e-9)


def test_a_wide_beam_finds_the_best_order_of_a_small_graph() -> None:
    # With all candidates and room for all states the search is complete, but for pauses.
    rng = random.Random(11)
    gains = []
    for _ in range(20):
        problem = random_problem(rng, 7, streams=2)
        found_us = simulate(problem, beam(problem, 4096, 7)).makespan_us
        improved = problem.native.improve(beam(problem, 1, 7), 1e9, 2000, 0.0, 0)
        searched_us = simulate(problem, tuple(Placement(*p) for p in improved)).makespan_us
        assert found_us <= searched_us * (1 + 1e-9)
        gains.append(found_us / simulate(problem, beam(problem, 1)).makespan_us)
    assert min(gains) < 0.95


def test_beam_search_ends_when_time_is_up() -> None:
    problem = random_problem(random.Random(6), 400, streams=2)
    schedule = problem.native.beam(1 << 20, 4, 1.0)
    validate_schedule(problem, tuple(Placement(*fields) for fields in schedule))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((0, 4), "width of a beam search is 0"),
        ((4, 0), "number of candidates of a beam search is 0"),
        ((4, 4, 0.0), "time of a beam search is 0"),
    ],
)
def test_beam_search_refuses_limits_that_leave_nothing(
    limits: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        inception(2, 1.0).native.beam(*limits)
