"""Rollouts, the search over priorities and the decoder: all of them against the simulator."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partition_problems import problems, random_problem, scheduled_problems
from top_tvm.compiler.partition import (
    PartitionProblem,
    Placement,
    assign_stages,
    list_schedule,
    sequential,
    simulate,
    validate_schedule,
)
from top_tvm.cost import DeviceModel, OpCost

FEATURES = 13
HIDDEN = 5


def weights(problem, seed=0):
    """A policy that knows nothing, as the decoder takes it."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return draw(problem.num_ops + 1, HIDDEN), draw(FEATURES, HIDDEN), draw(HIDDEN), draw(FEATURES)


def as_schedule(placements):
    return tuple(Placement(*fields) for fields in placements)


def improve(problem, schedule, max_schedules=50, temperature=0.0, seed=0, waits=False):
    return as_schedule(
        problem.native.improve(schedule, 1e9, max_schedules, temperature, seed, waits)
    )


@settings(max_examples=200)
@given(problems(), st.integers(0, 2**32))
def test_drawn_schedules_are_legal_and_take_the_time_that_is_predicted(problem, seed):
    predicted_us, placements = problem.native.decode(*weights(problem, seed), 3, 1.0, seed)
    schedule = as_schedule(placements)
    validate_schedule(problem, schedule)
    assert predicted_us == pytest.approx(simulate(problem, schedule).makespan_us)


@settings(max_examples=100)
@given(problems())
def test_without_temperature_the_best_scores_are_taken(problem):
    given_weights = weights(problem)
    once_us, _ = problem.native.decode(*given_weights, 1, 1.0, 1)
    again_us, _, _, _, _ = problem.native.sample(*given_weights, 0.0, 2)
    assert once_us == again_us
    many_us, _ = problem.native.decode(*given_weights, 8, 1.0, 1)
    assert many_us <= once_us


@settings(max_examples=100)
@given(problems(max_ops=12), st.integers(0, 2**32))
def test_records_hold_every_choice(problem, seed):
    _, ops, features, begin, chosen = problem.native.sample(*weights(problem), 1.0, seed)
    features = features.reshape(-1, FEATURES)
    assert len(features) == len(ops)
    assert np.all(np.isfinite(features))
    issued = ops[chosen]
    assert sorted(op for op in issued if op < problem.num_ops) == list(range(problem.num_ops))
    ends = [*begin[1:], len(ops)][: len(begin)]
    for first, end, choice in zip(begin, ends, chosen, strict=True):
        assert first <= choice < end
        waits = ops[first:end] == problem.num_ops
        assert waits.sum() <= 1
        assert np.array_equal(features[first:end, -1] == 1, waits)


@settings(max_examples=200)
@given(scheduled_problems())
def test_search_never_makes_a_schedule_worse(case):
    problem, schedule = case
    schedule = assign_stages(problem, schedule)
    found = improve(problem, schedule)
    validate_schedule(problem, found)
    assert simulate(problem, found).makespan_us <= simulate(problem, schedule).makespan_us


def test_search_finds_what_list_scheduling_misses_and_is_repeatable():
    gains = []
    for seed in range(20):
        problem = random_problem(random.Random(seed), 40, streams=3)
        start = list_schedule(problem)
        found = improve(problem, start, 300)
        assert improve(problem, start, 300) == found
        gains.append(simulate(problem, found).makespan_us / simulate(problem, start).makespan_us)
    assert max(gains) <= 1
    assert np.mean(gains) < 0.99


@settings(max_examples=200)
@given(problems(max_ops=30), st.integers(0, 2**32))
def test_search_with_waits_is_legal_and_repeatable_and_no_worse(problem, seed):
    start = list_schedule(problem)
    found = improve(problem, start, 300, 0.2, seed, waits=True)
    validate_schedule(problem, found)
    assert improve(problem, start, 300, 0.2, seed, waits=True) == found
    start_us = simulate(problem, start).makespan_us
    assert simulate(problem, found).makespan_us <= start_us * (1 + 1e-9)


def test_a_stream_is_kept_for_an_op_that_is_more_urgent_than_what_is_ready():
    """While op 0 runs, op 4 could; but then one of those that op 3 needs comes late."""
    edges = ((0, 1), (0, 2), (1, 3), (2, 3))
    costs = tuple(OpCost(us) for us in (2.0, 10.0, 10.0, 20.0, 9.0))
    problem = PartitionProblem(edges, costs, DeviceModel(2))
    start = sequential(problem)
    assert simulate(problem, improve(problem, start, 2000)).makespan_us == pytest.approx(39)
    found = improve(problem, start, 2000, waits=True)
    assert simulate(problem, found).makespan_us == pytest.approx(32)


def test_an_op_stands_behind_another_that_it_would_slow_down():
    """Ops 0 and 2 need all of the bandwidth, and op 1 the result of op 0."""
    wide = OpCost(10.0, single_bandwidth=1.0)
    problem = PartitionProblem(((0, 1),), (wide, OpCost(10.0), wide), DeviceModel(3))
    start = sequential(problem)
    assert simulate(problem, improve(problem, start, 2000)).makespan_us == pytest.approx(30)
    found = improve(problem, start, 2000, waits=True)
    assert simulate(problem, found).makespan_us == pytest.approx(20)


def test_annealing_is_a_search_of_its_own():
    problem = random_problem(random.Random(5), 40, streams=3)
    start = list_schedule(problem)
    found = improve(problem, start, 2000, temperature=1.0, seed=1)
    assert simulate(problem, found).makespan_us <= simulate(problem, start).makespan_us


def test_search_ends_when_time_is_up():
    problem = random_problem(random.Random(6), 60, streams=2)
    problem.native.improve(list_schedule(problem), 1.0, 0, 0.0, 0)


@settings(max_examples=100)
@given(problems(max_ops=16))
def test_an_order_can_be_followed_and_recorded(problem):
    start = list_schedule(problem)
    makespan_us, ops, _, _, chosen = problem.native.follow(start)
    assert sorted(ops[chosen]) == list(range(problem.num_ops))
    if problem.num_ops:
        assert makespan_us > 0 or simulate(problem, start).makespan_us == 0


@pytest.mark.parametrize(
    ("index", "name"), [(0, "embedding"), (1, "dynamic"), (2, "dynamic"), (3, "skip")]
)
def test_weights_that_do_not_fit_are_refused(index, name):
    problem = random_problem(random.Random(0), 5)
    given_weights = list(weights(problem))
    given_weights[index] = np.ascontiguousarray(given_weights[index][:-1])
    if index == 2:  # `out` says how wide the hidden layer is: nothing else fits then
        name = "embedding"
    with pytest.raises(ValueError, match=f"The policy's {name} has .* numbers, expected"):
        problem.native.decode(*given_weights, 1, 1.0, 0)
