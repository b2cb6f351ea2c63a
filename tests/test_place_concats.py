"""Concatenations without copies: which disappear, and that the numbers stay."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from top_tvm.compiler.build import compile_model, make_plan, measure_ops
from top_tvm.compiler.partition import PARTITIONERS
from top_tvm.strides import Rows, row_strides, rows_of
from top_tvm.weights import aligned


def make_model(nodes, shape, outputs=("y",)):
    graph = helper.make_graph(
        nodes,
        "concats",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def block(axis):
    """Two concatenations, one inside the other, as in a dense block."""
    return [
        helper.make_node("Tanh", ["x"], ["a"]),
        helper.make_node("Sigmoid", ["x"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["ab"], axis=axis),
        helper.make_node("Exp", ["ab"], ["c"]),
        helper.make_node("Concat", ["ab", "c"], ["abc"], axis=axis),
        helper.make_node("Softmax", ["abc"], ["y"], axis=-1),
    ]


def concats(graph):
    return [op.name for op in graph.ops if op.name.startswith("concat")]


def graph_of(model):
    (compiled,) = compile_model(model).graphs
    compiled.extracted.graph.validate()
    return compiled.extracted.graph


def check_numbers(model):
    """Every partitioner against ONNX Runtime; running twice finds the arena dirty."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    spec = session.get_inputs()[0]
    x = aligned(np.random.default_rng(3).standard_normal(spec.shape).astype("float32"))
    expected = session.run(None, {"x": x})
    compilation = compile_model(model)
    (compiled,) = compilation.graphs
    problem = measure_ops(compilation, compiled)
    for name, partition in PARTITIONERS.items():
        plan = make_plan(compiled, problem, name, partition(problem))
        executor = compilation.session.executor(plan)
        for _ in range(2):
            for output, reference in zip(executor.run([x]), expected, strict=True):
                np.testing.assert_allclose(output, reference, rtol=1e-5, atol=1e-6)
    return compiled.extracted.graph


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_nested_concatenations_disappear_on_every_axis(axis, batch):
    graph = check_numbers(make_model(block(axis), (batch, 4, 3, 32)))
    assert concats(graph) == []
    strided = [value for value in graph.values if value.strides]
    assert bool(strided) == (axis > 1 or (axis == 1 and batch > 1))


def test_a_concatenation_that_is_an_output_is_written_in_place():
    nodes = [*block(2)[:2], helper.make_node("Concat", ["a", "b"], ["y"], axis=2)]
    graph = check_numbers(make_model(nodes, (2, 3, 32)))
    assert concats(graph) == []
    assert {graph.storages[graph.values[op.outputs[0]].storage].kind for op in graph.ops} == {
        "output"
    }


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param(
            [
                helper.make_node("Tanh", ["x"], ["a"]),
                helper.make_node("Concat", ["x", "a"], ["y"], axis=2),
            ],
            id="input",
        ),
        pytest.param(
            [
                helper.make_node("Tanh", ["x"], ["a"]),
                helper.make_node("Concat", ["a", "a"], ["y"], axis=2),
            ],
            id="twice",
        ),
    ],
)
def test_a_concatenation_of_what_cannot_move_stays(nodes):
    assert len(concats(check_numbers(make_model(nodes, (2, 3, 32))))) == 1


def test_a_part_that_is_an_output_itself_stays():
    nodes = [
        helper.make_node("Tanh", ["x"], ["a"]),
        helper.make_node("Sigmoid", ["x"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["y"], axis=2),
    ]
    assert len(concats(check_numbers(make_model(nodes, (2, 3, 32), outputs=("y", "a"))))) == 1


def test_parts_at_unaligned_addresses_stay():
    assert len(concats(check_numbers(make_model(block(3), (1, 2, 3, 5))))) == 2


def test_a_part_seen_through_another_shape_stays():
    nodes = [
        helper.make_node("Tanh", ["x"], ["a"]),
        helper.make_node("Sigmoid", ["x"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["ab"], axis=2),
        helper.make_node("Reshape", ["a", "flat"], ["row"]),
        helper.make_node("Exp", ["row"], ["e"]),
        helper.make_node("ReduceSum", ["e"], ["total"], keepdims=0),
        helper.make_node("Add", ["ab", "total"], ["y"]),
    ]
    model = make_model(nodes, (2, 3, 32))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([192], np.int64), "flat"))
    assert len(concats(check_numbers(model))) == 1


@pytest.mark.parametrize(
    ("shape", "strides", "rows"),
    [
        ((2, 3, 4), (), Rows(1, 24, 24)),
        ((2, 3, 4), (12, 4, 1), Rows(1, 24, 24)),
        ((2, 3, 4), (30, 10, 1), Rows(6, 4, 10)),
        ((2, 3, 4), (20, 4, 1), Rows(2, 12, 20)),
        ((2, 1, 4), (9, 7, 1), Rows(2, 4, 9)),
        ((0, 4), (9, 1), Rows(0, 4, 9)),
    ],
)
def test_rows(shape, strides, rows):
    assert rows_of(shape, strides) == rows
    assert rows.extent == ((rows.count - 1) * rows.pitch + rows.width if rows.count else 0)


@pytest.mark.parametrize("strides", [(1, 4), (10, 12, 1), (12, 3, 1), (12, 4, 2)])
def test_strides_that_are_no_rows_are_refused(strides):
    with pytest.raises(ValueError, match=r"stride|rows of"):
        rows_of((2, 3, 4)[: len(strides)], strides)


def test_rows_begin_at_an_axis_or_nowhere():
    assert row_strides((2, 3, 4), 6, 10) == (30, 10, 1)
    assert row_strides((6, 4), 6, 10) == (10, 1)
    assert row_strides((3, 8), 6, 10) is None
    assert row_strides((24,), 1, 99) == (1,)
