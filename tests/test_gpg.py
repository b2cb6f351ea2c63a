"""GPG as a partitioner, with the weights that come with the package."""

import logging
import math
import random
import sys

import pytest
from hypothesis import given, settings

import top_tvm
import top_tvm.compiler
from partition_problems import problems
from partition_problems import random_problem as any_problem
from small_model import small_model
from top_tvm.compiler.gpg.graphs import problem_with_room
from top_tvm.compiler.gpg.tensor_file import read_tensors
from top_tvm.compiler.partition import (
    PARTITIONERS,
    PartitionProblem,
    available_partitioners,
    cut_stages,
    gpg,
    greedy,
    learned,
    list_schedule,
    simulate,
    staged_objective,
    validate_schedule,
)
from top_tvm.cost import DeviceModel, OpCost
from top_tvm.errors import GraphError, PartitionError


def time_us(problem, schedule):
    return simulate(problem, schedule).makespan_us


@pytest.mark.parametrize("hundred", range(10))
def test_a_thousand_random_graphs_get_legal_schedules(hundred):
    for index in range(100):
        rng = random.Random(f"legal {hundred} {index}")
        problem = any_problem(rng, rng.choice([0, 1, 2, 5, 20, 60]))
        schedule = gpg(problem, samples=3, search_ms=1)
        validate_schedule(problem, schedule)
        assert time_us(problem, schedule) <= time_us(problem, list_schedule(problem)) * (1 + 1e-9)


@pytest.mark.parametrize("objective", ["simulated", "staged"])
def test_five_thousand_ops(objective):
    problem = problem_with_room(random.Random(5), 5000, merged=True, streams=8)
    schedule = gpg(problem, samples=2, search_ms=500, objective=objective)
    validate_schedule(problem, schedule)


@given(problems(max_ops=30))
@settings(max_examples=50)
def test_staged_schedules_are_legal_and_no_worse_than_what_they_start_from(problem):
    schedule = gpg(problem, objective="staged")
    validate_schedule(problem, schedule)
    if problem.num_ops > 1 and problem.device.streams > 1:
        start_us = simulate(problem, list_schedule(problem)).start_us
        order = sorted(range(problem.num_ops), key=lambda op: (start_us[op], op))
        for other in (cut_stages(problem, order), greedy(problem)):
            assert staged_objective(problem, schedule) <= staged_objective(problem, other) + 1e-6


def test_graphs_with_room_get_better_schedules_than_list_scheduling():
    ratios = []
    for index in range(6):
        rng = random.Random(f"room {index}")
        problem = problem_with_room(rng, 150, merged=True, streams=2)
        ratios.append(time_us(problem, gpg(problem)) / time_us(problem, list_schedule(problem)))
    assert max(ratios) <= 1.0
    assert math.prod(ratios) < 0.97 ** len(ratios)


def test_a_seed_decides_the_schedule():
    problem = problem_with_room(random.Random(3), 120, merged=True, streams=4)
    first = gpg(problem, seed=1)
    learned._search.cache_clear()
    assert gpg(problem, seed=1) == first
    assert gpg(problem, seed=1) is gpg(problem, seed=1), "a schedule is kept"
    others = [gpg(problem, seed=seed) for seed in range(2, 6)]
    assert any(other != first for other in others)


def test_more_samples_are_never_worse_before_the_local_search():
    problem = problem_with_room(random.Random(4), 120, merged=True, streams=4)
    times = [time_us(problem, gpg(problem, samples=n, search_ms=0)) for n in (1, 4, 16)]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "gpg: samples is 0; give a positive number"),
        ({"search_ms": -1}, "gpg: search_ms is -1; give a time in milliseconds, or None"),
        ({"objective": "fast"}, "gpg: no objective 'fast'; there are: simulated, staged"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(PartitionError) as caught:
        gpg(PartitionProblem((), (OpCost(1.0),), DeviceModel(2)), **options)
    assert str(caught.value) == message


@pytest.mark.parametrize("edges", [((0, 1), (1, 0)), ((1, 1),), ((0, 7),)])
def test_graphs_with_cycles_or_stray_edges_are_refused(edges):
    with pytest.raises(GraphError):
        gpg(PartitionProblem(edges, (OpCost(1.0),) * 2, DeviceModel(2)))


@pytest.fixture
def without_dgl(monkeypatch):
    # Restored afterwards: importing a package again sets it anew in the one above.
    monkeypatch.setattr(top_tvm.compiler, "gpg", top_tvm.compiler.gpg)
    for module in [name for name in sys.modules if name.startswith("top_tvm.compiler.gpg")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "dgl", None)
    available_partitioners.cache_clear()
    yield
    available_partitioners.cache_clear()


@pytest.mark.usefixtures("without_dgl")
def test_without_dgl_gpg_says_what_is_missing():
    with pytest.raises(PartitionError, match=r"gpg: the network needs DGL and PyTorch, .*pip inst"):
        gpg(PartitionProblem((), (OpCost(1.0),), DeviceModel(2)))


@pytest.mark.usefixtures("without_dgl")
def test_without_dgl_auto_goes_on_and_says_so_once(caplog):
    with caplog.at_level(logging.WARNING, "top_tvm"):
        for _ in range(2):
            executable = top_tvm.build(small_model(), partitioner="auto")
    assert executable.artifact.plans[1].partitioner in PARTITIONERS
    said = [record.message for record in caplog.records if "without gpg" in record.message]
    assert len(said) == 1


def test_shipped_weights_are_small_and_say_how_they_were_made():
    assert learned.WEIGHTS.stat().st_size < 1_000_000
    _, about = read_tensors(learned.WEIGHTS)
    assert about["command"].startswith("top-tvm train gpg --out")
    assert about["seed"] >= 0
    assert about["date"] >= "2026-11-24"
    assert about["updates"] == about["config"]["updates"]
    assert about["evaluation"]["best_of_16"] < 1.0
