from dataclasses import replace

import pytest
from hypothesis import given, settings

from graphs import chain, graphs_with_schedules, make_graph
from top_tvm.compiler.assemble import assemble
from top_tvm.compiler.op_graph import OpGraph
from top_tvm.compiler.partition import Placement
from top_tvm.errors import GraphError, PartitionError, PlanError
from top_tvm.plan import Plan

PARALLEL = (
    Placement(op=0, stage=0, group=0, stream=0, threads=1),
    Placement(op=1, stage=0, group=1, stream=1, threads=1),
    Placement(op=2, stage=1, group=0, stream=0, threads=1),
)


def test_calls_follow_the_schedule() -> None:
    schedule = (PARALLEL[1], PARALLEL[0], PARALLEL[2])
    plan = assemble(
        make_graph(), schedule, streams=2, partitioner="list", batch=4, predicted_us=3.5
    )
    assert [call.op for call in plan.calls] == ["right", "left", "sum"]
    assert [call.stream for call in plan.calls] == [1, 0, 0]
    assert [call.waits for call in plan.calls] == [(), (), (0,)]
    assert [call.stage for call in plan.calls] == [0, 0, 1]
    assert (plan.batch, plan.streams, plan.partitioner) == (4, 2, "list")
    assert (plan.predicted_us, plan.measured_us) == (3.5, 0.0)
    assert Plan.from_json(plan.to_json()) == plan


def test_equal_kernels_are_listed_once() -> None:
    plan = assemble(make_graph(), PARALLEL, streams=2, partitioner="list")
    assert [kernel.symbol for kernel in plan.kernels] == ["f", "g"]
    assert [call.kernel for call in plan.calls] == [0, 0, 1]


def test_outputs_keep_their_names_and_memory() -> None:
    plan = assemble(make_graph(), PARALLEL, streams=2, partitioner="list")
    outputs = [plan.tensors[index] for index in plan.outputs]
    assert [tensor.name for tensor in outputs] == ["y", "y2", "same", "weight", "middle"]
    assert [tensor.space for tensor in outputs] == [
        *("output", "output", "input", "constant", "arena")
    ]
    assert [tensor.storage for tensor in outputs[:4]] == ["y", "y", "x", "c0"]
    assert [plan.tensors[index].name for index in plan.inputs] == ["x"]


def test_names_are_unique() -> None:
    graph = make_graph()
    values = list(graph.values)
    values[3] = replace(values[3], name="y")  # an intermediate named like an output
    values[1] = replace(values[1], name="x")  # a constant named like an input
    graph = replace(graph, values=tuple(values), outputs=(6,), output_names=("y",))
    plan = assemble(graph, PARALLEL, streams=2, partitioner="list")
    assert len({tensor.name for tensor in plan.tensors}) == len(plan.tensors)
    assert plan.tensors[plan.outputs[0]].space == "output"


def test_an_output_may_be_an_input_of_the_same_name() -> None:
    graph = replace(make_graph(), outputs=(0, 6), output_names=("x", "y"))
    plan = assemble(graph, PARALLEL, streams=2, partitioner="list")
    assert plan.outputs[0] == plan.inputs[0]


def test_two_names_of_one_intermediate() -> None:
    graph = replace(make_graph(), outputs=(6, 2, 2, 5, 5), output_names=("y", "a", "b", "c", "d"))
    plan = assemble(graph, PARALLEL, streams=2, partitioner="list")
    a, b, c, d = (plan.tensors[index] for index in plan.outputs[1:])
    assert a.offset == b.offset != c.offset == d.offset
    assert (a.name, b.name, c.name, d.name) == ("a", "b", "c", "d")


def test_memory_is_reused() -> None:
    schedule = tuple(Placement(op, 0, 0, 0, 1) for op in range(20))
    assert assemble(chain(20), schedule, streams=1, partitioner="sequential").arena_bytes == 512


def test_an_output_in_the_arena_is_not_reused() -> None:
    graph = replace(chain(20), outputs=(20, 3), output_names=("y", "third"))
    schedule = tuple(Placement(op, 0, 0, 0, 1) for op in range(20))
    plan = assemble(graph, schedule, streams=1, partitioner="sequential")
    assert plan.arena_bytes == 3 * 256


@settings(max_examples=300, deadline=None)
@given(graphs_with_schedules())
def test_any_schedule_gives_a_valid_plan(
    case: tuple[OpGraph, tuple[Placement, ...], int],
) -> None:
    graph, schedule, streams = case
    plan = assemble(graph, schedule, streams=streams, partitioner="random")  # validates the plan
    assert [call.op for call in plan.calls] == [graph.ops[p.op].name for p in schedule]
    for call, placement in zip(plan.calls, schedule, strict=True):
        op = graph.ops[placement.op]
        used = [graph.values[value] for value in (*op.inputs, *op.outputs)]
        given_shapes = [plan.tensors[argument].shape for argument in call.args]
        assert given_shapes == [value.shape for value in used]
    assert [plan.tensors[i].name for i in plan.outputs] == list(graph.output_names)


def test_an_invalid_graph_is_refused() -> None:
    graph = replace(make_graph(), output_names=())
    with pytest.raises(GraphError, match="5 outputs, but 0 names"):
        assemble(graph, PARALLEL, streams=2, partitioner="list")


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (PARALLEL[:2], "op 'sum' 0 times"),
        ((*PARALLEL, PARALLEL[0]), "the schedule has op 'left' 2 times, not once"),
        ((*PARALLEL, Placement(3, 1, 0, 0, 1)), "op 3, but the graph 3 ops"),
        ((PARALLEL[2], PARALLEL[0], PARALLEL[1]), "op 2"),
    ],
)
def test_an_invalid_schedule_is_refused(schedule: tuple[Placement, ...], message: str) -> None:
    with pytest.raises(PartitionError, match=message):
        assemble(make_graph(), schedule, streams=2, partitioner="list")


def test_an_arena_beyond_64_bits_is_refused() -> None:
    graph = chain(2)
    storages, values = list(graph.storages), list(graph.values)
    storages[1] = replace(storages[1], nbytes=2**63 - 64)
    values[1] = replace(values[1], shape=(2**61 - 16,))
    graph = replace(graph, storages=tuple(storages), values=tuple(values))
    schedule = tuple(Placement(op, 0, 0, 0, 1) for op in range(2))
    with pytest.raises(PlanError, match=r"^arena: buffer 0 is too large$"):
        assemble(graph, schedule, streams=1, partitioner="sequential")


def test_stages_are_checked() -> None:
    schedule = (PARALLEL[0]._replace(stage=2), *PARALLEL[1:])
    with pytest.raises(PlanError, match=r"'right'.*: stage is 0, but an earlier call has 2"):
        assemble(make_graph(), schedule, streams=2, partitioner="list")
