"""The simulator against hand-computed cases, bounds, and a reference that is slow and obvious."""

from __future__ import annotations

import math
import pickle

import pytest
from hypothesis import given, settings

from partition_problems import (
    call_us,
    is_gang,
    predecessors,
    problems,
    reference_call,
    reference_run,
    scheduled_problems,
)
from top_tvm import _native
from top_tvm.compiler.partition import PartitionProblem, Placement, Schedule, simulate
from top_tvm.cost import DeviceModel, OpCost
from top_tvm.errors import DeviceError, GraphError, PartitionError


def on_streams(*streams: int) -> Schedule:
    """Op i on the i-th of the streams given, in order."""
    return tuple(Placement(op, 0, stream, stream, 1) for op, stream in enumerate(streams))


def independent(streams: int, *costs: OpCost) -> PartitionProblem:
    return PartitionProblem((), costs, DeviceModel(streams))


def test_ops_that_fit_together_do_not_slow_each_other() -> None:
    problem = independent(2, OpCost(10, single_bandwidth=0.5), OpCost(8, single_bandwidth=0.5))
    assert simulate(problem, on_streams(0, 1)).end_us == pytest.approx((10, 8))


def test_equal_demands_share_equally() -> None:
    # 0.8 + 0.8 want 1.6 of 1: each gets 0.5, runs at 0.5 / 0.8.
    problem = independent(2, OpCost(10, single_bandwidth=0.8), OpCost(10, single_bandwidth=0.8))
    assert simulate(problem, on_streams(0, 1)).end_us == pytest.approx((16, 16))


def test_less_than_a_fair_share_is_granted_in_full() -> None:
    # Op 0 keeps its 0.2, op 1 runs at 0.8 while op 0 does: 8 of its 20 us are done at 10.
    problem = independent(2, OpCost(10, single_bandwidth=0.2), OpCost(20, single_bandwidth=1.0))
    assert simulate(problem, on_streams(0, 1)).end_us == pytest.approx((10, 22))


def test_the_scarcer_resource_decides() -> None:
    # Bandwidth would allow 0.5 / 0.9, compute 0.5 / 1.0.
    cost = OpCost(10, single_bandwidth=0.9, single_compute=1.0)
    assert simulate(independent(2, cost, cost), on_streams(0, 1)).makespan_us == pytest.approx(20)


def test_share_freed_by_a_small_demand_goes_to_the_others() -> None:
    # Level 0.45 = (1 - 0.1) / 2; the small op is not hindered.
    small, big = OpCost(5, single_bandwidth=0.1), OpCost(9, single_bandwidth=0.9)
    ends = simulate(independent(3, small, big, big), on_streams(0, 1, 2)).end_us
    # By 5 us the big ones have done 2.5 us of work; then 6.5 us remain at 0.5 / 0.9.
    assert ends == pytest.approx((5, 16.7, 16.7))


def test_three_thirds_do_not_saturate() -> None:
    cost = OpCost(7, single_compute=1 / 3)
    problem = independent(3, cost, cost, cost)
    assert simulate(problem, on_streams(0, 1, 2)).makespan_us == pytest.approx(7)


def test_overheads_of_waits_dispatch_and_run() -> None:
    problem = PartitionProblem(
        edges=((0, 2), (1, 2)),
        costs=(OpCost(10), OpCost(4), OpCost(1)),
        device=DeviceModel(2, dispatch_us=1, wait_us=3, run_us=100),
    )
    result = simulate(problem, on_streams(0, 1, 1))
    # Op 2 starts after op 0 (at 111), one wait and one dispatch; its other input is on its stream.
    assert result.start_us == pytest.approx((101, 101, 115))
    assert result.makespan_us == pytest.approx(116)


def test_every_needed_wait_is_paid() -> None:
    problem = PartitionProblem(
        ((0, 2), (1, 2)), (OpCost(10), OpCost(10), OpCost(1)), DeviceModel(3, wait_us=3)
    )
    assert simulate(problem, on_streams(0, 1, 2)).makespan_us == pytest.approx(10 + 2 * 3 + 1)


def test_gang_call_gathers_all_streams() -> None:
    problem = PartitionProblem(
        edges=(),
        costs=(OpCost(10), OpCost(4), OpCost(9, gang_us=5), OpCost(2)),
        device=DeviceModel(2, gang_us=1.5, wait_us=100),
    )
    schedule = (*on_streams(0, 1), Placement(2, 1, 0, 0, 2), Placement(3, 2, 0, 1, 1))
    result = simulate(problem, schedule)
    # It starts when the slower stream arrives, and stream 1 goes on when it has finished.
    assert result.start_us == pytest.approx((0, 0, 11.5, 16.5))
    assert result.makespan_us == pytest.approx(18.5)


def test_gang_call_orders_everything_without_waits() -> None:
    problem = PartitionProblem(
        edges=((0, 1), (1, 2), (0, 2)),
        costs=(OpCost(10), OpCost(9, gang_us=5), OpCost(2)),
        device=DeviceModel(2, wait_us=100),
    )
    schedule = (Placement(0, 0, 0, 1, 1), Placement(1, 1, 0, 0, 2), Placement(2, 2, 0, 0, 1))
    assert simulate(problem, schedule).makespan_us == pytest.approx(17)


def test_with_one_stream_there_is_no_gang() -> None:
    problem = PartitionProblem((), (OpCost(10, gang_us=1),), DeviceModel(1, gang_us=50))
    assert simulate(problem, on_streams(0)).makespan_us == pytest.approx(10)


def test_empty_graph_costs_a_run() -> None:
    assert simulate(PartitionProblem((), (), DeviceModel(2, run_us=7)), ()).makespan_us == 7


@given(scheduled_problems())
def test_agrees_with_the_reference(case: tuple[PartitionProblem, Schedule]) -> None:
    problem, schedule = case
    waits = _native.derive_waits(problem.num_ops, problem.edges, schedule, problem.device.streams)
    calls = [reference_call(problem, *pair) for pair in zip(schedule, waits, strict=True)]
    run_us = problem.device.run_us
    makespan_us = reference_run(calls) + run_us
    result = simulate(problem, schedule)
    assert result.makespan_us == pytest.approx(makespan_us)
    for placement, call in zip(schedule, calls, strict=True):
        assert result.end_us[placement.op] == pytest.approx(call.end_us + run_us)


@given(scheduled_problems())
def test_respects_dependencies_and_bounds(case: tuple[PartitionProblem, Schedule]) -> None:
    problem, schedule = case
    result = simulate(problem, schedule)
    gangs = {p.op for p in schedule if is_gang(problem, p)}
    solo_us = [
        cost.gang_us if op in gangs else cost.single_us for op, cost in enumerate(problem.costs)
    ]
    path_us = [0.0] * problem.num_ops
    for op, preds in enumerate(predecessors(problem)):
        path_us[op] = max((path_us[pred] for pred in preds), default=0.0) + solo_us[op]
        for pred in preds:
            assert result.start_us[op] >= result.end_us[pred] - 1e-9
        assert result.end_us[op] - result.start_us[op] >= solo_us[op] - 1e-9
    busy_us = result.makespan_us - problem.device.run_us + 1e-6
    assert busy_us >= max(path_us, default=0.0)
    streams = problem.device.streams
    assert busy_us * streams >= sum(
        us * (streams if op in gangs else 1) for op, us in enumerate(solo_us)
    )
    for resource in ("bandwidth", "compute"):
        used_us = sum(
            getattr(cost, f"{'gang' if op in gangs else 'single'}_{resource}") * solo_us[op]
            for op, cost in enumerate(problem.costs)
        )
        assert busy_us >= used_us * (1 - 1e-9)


@given(problems())
def test_one_stream_takes_the_sum(problem: PartitionProblem) -> None:
    result = simulate(problem, on_streams(*[0] * problem.num_ops))
    total_us = sum(call_us(problem, op, gang=False) for op in range(problem.num_ops))
    assert result.makespan_us == pytest.approx(problem.device.run_us + total_us)


@given(scheduled_problems())
def test_stages_and_groups_do_not_matter(case: tuple[PartitionProblem, Schedule]) -> None:
    problem, schedule = case
    renumbered = tuple(p._replace(stage=at, group=0) for at, p in enumerate(schedule))
    assert simulate(problem, renumbered) == simulate(problem, schedule)


@pytest.mark.parametrize(
    ("edges", "costs", "message"),
    [
        (((0, 5),), (OpCost(1),) * 3, r"Edge \(0, 5\) leaves the graph, which has 3 ops"),
        (((-1, 2),), (OpCost(1),) * 3, r"Edge \(-1, 2\) leaves the graph"),
        (((2, 1),), (OpCost(1),) * 3, r"Edge \(2, 1\) does not ascend"),
        (((1, 1),), (OpCost(1),) * 3, r"Edge \(1, 1\) does not ascend"),
        ((), (OpCost(1), OpCost(-1), OpCost(1)), r"single-threaded time of op 1 \(b\) is -1"),
        ((), (OpCost(1), OpCost(1), OpCost(math.inf)), r"time of op 2 \(c\) is inf"),
        ((), (OpCost(math.nan), OpCost(1), OpCost(1)), r"time of op 0 \(a\) is nan"),
        ((), (OpCost(1, math.nan), OpCost(1), OpCost(1)), r"multi-threaded time of op 0 \(a\)"),
        ((), (OpCost(1, 1, 1.5), OpCost(1), OpCost(1)), r"demand of op 0 \(a\) is 1.5"),
        ((), (OpCost(1), OpCost(1)), r"2 ops, but there are 3 names"),
    ],
)
def test_bad_problem_is_refused(
    edges: tuple[tuple[int, int], ...], costs: tuple[OpCost, ...], message: str
) -> None:
    with pytest.raises(GraphError, match=message):
        PartitionProblem(edges, costs, DeviceModel(2), names=("a", "b", "c"))


@pytest.mark.parametrize("device", [DeviceModel(0), DeviceModel(2, wait_us=-1.0)])
def test_bad_device_is_refused(device: DeviceModel) -> None:
    with pytest.raises(GraphError, match="device"):
        PartitionProblem((), (), device)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (on_streams(0), r"does not place op 1 \(relu\)"),
        ((Placement(1, 0, 0, 0, 1), Placement(0, 0, 0, 0, 1)), r"issues op 1 \(relu\) before op 0"),
        (on_streams(0, 2), r"op 1 \(relu\) on stream 2, but there are 2 streams"),
        ((Placement(0, 0, 0, 0, 3), Placement(1, 0, 0, 0, 1)), r"gives op 0 \(conv\) 3 threads"),
        (
            (Placement(0, 0, 0, 0, 1), Placement(1, 0, 0, 0, 2)),
            r"op 1 \(relu\) .* no multi-threaded",
        ),
    ],
)
def test_schedule_that_cannot_run_is_refused(schedule: Schedule, message: str) -> None:
    problem = PartitionProblem(
        ((0, 1),), (OpCost(4, gang_us=3), OpCost(1)), DeviceModel(2), names=("conv", "relu")
    )
    with pytest.raises(PartitionError, match=message):
        simulate(problem, schedule)


def test_device_model_survives_json() -> None:
    device = DeviceModel(4, 0.5, 1.0, 2.0, 30.0)
    assert DeviceModel.from_json(device.to_json()) == device


@pytest.mark.parametrize("record", [{}, {"streams": 2, "speed": 1.0}, {"streams": "many"}])
def test_foreign_json_is_no_device_model(record: dict[str, float]) -> None:
    with pytest.raises(DeviceError, match="Not a device model"):
        DeviceModel.from_json(record)


@settings(max_examples=20)
@given(problems())
def test_problem_survives_pickle(problem: PartitionProblem) -> None:
    copy = pickle.loads(pickle.dumps(problem))
    assert copy == problem
    assert copy.native.sequential() == problem.native.sequential()


def test_streams_never_idle_for_nothing() -> None:
    """With everything independent and equal, n streams are n times as fast."""
    problem = PartitionProblem((), (OpCost(3.0),) * 12, DeviceModel(4))
    assert simulate(problem, on_streams(*[0, 1, 2, 3] * 3)).makespan_us == pytest.approx(9)
