"""Cutting models into segments and merging those that run at the same time."""

import random
from collections import Counter
from itertools import pairwise

import pytest

from partition_problems import random_problem
from top_tvm.compiler.partition import PartitionProblem, Placement
from top_tvm.compiler.partition.merge import Instance, cut_segments, merge
from top_tvm.cost import DeviceModel, OpCost
from top_tvm.errors import PartitionError


def problem(num_ops, edges=None, times=None, streams=2):
    costs = tuple(OpCost(float(time)) for time in times or [1.0] * num_ops)
    chain = tuple(pairwise(range(num_ops))) if edges is None else edges
    return PartitionProblem(chain, costs, DeviceModel(streams))


def test_segments_take_about_the_same_time():
    assert cut_segments(problem(6), 3) == (0, 2, 4, 6)
    assert cut_segments(problem(4, times=[6, 1, 1, 4]), 2) == (0, 1, 4)
    assert cut_segments(problem(3), 1) == (0, 3)


def test_of_equal_cuts_the_one_that_few_values_cross():
    times = [10] * 4 + [0.1] * 3 + [10] * 4
    edges = [(0, 4), (1, 4), (2, 5), (3, 5), (4, 6), (5, 6), *[(6, op) for op in range(7, 11)]]
    bounds = cut_segments(problem(11, tuple(edges), times), 2)
    assert bounds == (0, 7, 11)  # behind op 6 one value crosses


def test_segments_begin_where_they_may():
    assert cut_segments(problem(6), 3, allowed=[1, 3, 5]) == (0, 1, 3, 6)
    assert cut_segments(problem(6), 3, allowed={5, 4}) == (0, 4, 5, 6)
    assert cut_segments(problem(6), 2, allowed=[0, 6, 5]) == (0, 5, 6)


@pytest.mark.parametrize("seed", range(20))
def test_cuts_that_may_be_anywhere_are_those_without_a_limit(seed):
    rng = random.Random(seed)
    graph = random_problem(rng, rng.randint(4, 30))
    for segments in range(1, 5):
        everywhere = cut_segments(graph, segments, range(graph.num_ops))
        assert everywhere == cut_segments(graph, segments)


def test_too_few_cuts_give_fewer_segments(caplog):
    assert cut_segments(problem(6), 4, allowed=[2]) == (0, 2, 6)
    assert "2 segments instead of 4: no more cuts are possible" in caplog.text
    assert cut_segments(problem(6), 4, allowed=[]) == (0, 6)


def test_a_schedule_is_restricted_to_an_instance():
    merged = merge([problem(4), problem(3)], lanes=[2, 1], segments=[2, 1])
    schedule = tuple(Placement(op, 0, 0, op % 2, 1) for op in range(merged.problem.num_ops))
    own = merged.restrict(schedule, Instance(0, 1, 1))  # ops 6 and 7 of 11
    assert own == (Placement(0, 0, 0, 0, 1), Placement(1, 0, 0, 1, 1))
    assert merged.restrict(schedule, Instance(1, 0, 0)) == (
        *(Placement(0, 0, 0, 0, 1), Placement(1, 0, 0, 1, 1), Placement(2, 0, 0, 0, 1)),
    )
    assert merged.restrict(schedule, Instance(1, 1, 0)) == ()


@pytest.mark.parametrize("segments", [0, 4])
def test_impossible_numbers_of_segments(segments):
    with pytest.raises(PartitionError, match=f"3 ops cannot be cut into {segments} segments"):
        cut_segments(problem(3), segments)


def test_every_lane_has_every_segment_and_instances_are_independent():
    rng = random.Random(3)
    first, second = random_problem(rng, 12, 2), random_problem(rng, 7, 2)
    device = first.device
    second = PartitionProblem(second.edges, second.costs, device)
    merged = merge([first, second], lanes=[2, 3], segments=[3, 1])
    assert merged.problem.num_ops == 2 * 12 + 3 * 7 == len(merged.instances)
    assert merged.problem.device == device
    sizes = Counter(merged.instances)
    assert set(sizes) == {Instance(0, lane, s) for lane in range(2) for s in range(3)} | {
        Instance(1, lane, 0) for lane in range(3)
    }
    for producer, consumer in merged.problem.edges:
        assert merged.instances[producer] == merged.instances[consumer]
    bounds = cut_segments(first, 3)
    inside = sum(any(a <= p and c < b for a, b in pairwise(bounds)) for p, c in first.edges)
    assert len(merged.problem.edges) == 2 * inside + 3 * len(second.edges)
    assert Counter(merged.problem.costs) == Counter([*first.costs * 2, *second.costs * 3])


def test_names_say_whose_op_it_is():
    merged = merge([problem(2)], [1], [2])
    assert merged.problem.names == ("m0.l0.s0/0", "m0.l0.s1/1")


def test_a_model_without_lanes_takes_no_part():
    assert merge([problem(2), problem(3)], [0, 1], [1, 1]).problem.num_ops == 3


@pytest.mark.parametrize(
    ("problems", "lanes", "segments", "message"),
    [
        ([], [], [], "a number of lanes and of segments for every model"),
        ([problem(2)], [1, 1], [1], "a number of lanes and of segments for every model"),
        ([problem(2)], [-1], [1], "model 0 has -1 lanes"),
        ([problem(2)], [1], [3], "2 ops cannot be cut into 3 segments"),
        ([problem(2), problem(2, streams=3)], [1, 1], [1, 1], "model 1 is for another device"),
    ],
)
def test_what_cannot_be_merged(problems, lanes, segments, message):
    with pytest.raises(PartitionError, match=message):
        merge(problems, lanes, segments)
