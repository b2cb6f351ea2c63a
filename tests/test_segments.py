"""Segments: where graphs may be cut, and that chains of segments compute what the graph does."""

import functools
import hashlib
from itertools import pairwise

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from bf16 import needs_bf16
from chains import run_chain
from graphs import graphs_with_schedules, make_graph
from small_model import small_model
from top_tvm.compiler.assemble import assemble
from top_tvm.compiler.build import compile_model
from top_tvm.compiler.light_models import light_model
from top_tvm.compiler.op_graph import OpGraph
from top_tvm.compiler.partition import PartitionProblem, sequential
from top_tvm.compiler.partition.merge import cut_segments
from top_tvm.compiler.segments import cut_positions, split_graph
from top_tvm.compiler.transformer_models import transformer_model
from top_tvm.cost import DeviceModel, OpCost
from top_tvm.random_inputs import random_inputs

MODELS = {
    "squeezenet": lambda: light_model("squeezenet", seed=5),
    "inception_v1": lambda: light_model("inception_v1", seed=5),
    "densenet121": lambda: light_model("densenet121", seed=5),
    "shufflenet": lambda: light_model("shufflenet", seed=5),
    "bert": lambda: transformer_model("bert_small", 1, layers=2),  # with two outputs
    "vit": lambda: transformer_model("vit_small", 1, layers=2),
}


def dense_block():
    """Concatenations one inside the other, each in the memory of the next; three outputs.

    ``d`` is read again; ``same`` is an input.
    """
    nodes = [
        helper.make_node("Tanh", ["x"], ["a"]),
        helper.make_node("Sigmoid", ["x"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["ab"], axis=1),
        helper.make_node("Exp", ["ab"], ["c"]),
        helper.make_node("Concat", ["ab", "c"], ["abc"], axis=1),
        helper.make_node("Softmax", ["abc"], ["d"], axis=-1),
        helper.make_node("Concat", ["d", "x"], ["e"], axis=1),
        helper.make_node("Softmax", ["e"], ["y"], axis=-1),
        helper.make_node("Identity", ["x"], ["same"]),
    ]
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (4, 16))],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("y", "d", "same")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def problem_of(graph: OpGraph) -> PartitionProblem:
    """Costs from sizes alone, so that cuts are always the same."""
    costs = tuple(OpCost(1.0 + op.flops * 1e-5 + op.nbytes * 1e-4) for op in graph.ops)
    return PartitionProblem(graph.edges(), costs, DeviceModel(2))


def plan_of(graph: OpGraph):
    return assemble(graph, sequential(problem_of(graph)), streams=2, partitioner="sequential")


def check_chains(compilation, model, counts, close):
    """Chains give the outputs of one plan, bit for bit, and ONNX Runtime's."""
    graph = compilation.graphs[0].extracted.graph
    executor = compilation.session.executor
    whole = plan_of(graph)
    inputs = random_inputs(whole, seed=1)
    expected = run_chain([whole], executor, inputs)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    for name, reference in zip(names, session.run(names, inputs), strict=True):
        close(expected[name], reference)
    allowed = cut_positions(graph)
    for count in counts:
        bounds = cut_segments(problem_of(graph), count, allowed)
        assert len(bounds) == count + 1
        segments = split_graph(graph, bounds)
        plans = [plan_of(segment) for segment in segments]
        assert [len(plan.calls) for plan in plans] == [b - a for a, b in pairwise(bounds)]
        results = run_chain(plans, executor, inputs)
        for name in names:
            np.testing.assert_array_equal(results[name], expected[name], strict=True)


def close(result, reference):
    scale = float(np.abs(reference).max())
    np.testing.assert_allclose(result, reference, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("name", MODELS)
def test_chains_of_real_models(name):
    model = MODELS[name]()
    check_chains(compile_model(model), model, (1, 2, 3, 4), close)


@needs_bf16
def test_chains_in_bfloat16():
    model = small_model()
    check_chains(
        compile_model(model, precision="bf16"),
        model,
        (1, 2, 3),
        functools.partial(np.testing.assert_allclose, rtol=0.05, atol=0.05),
    )


def test_every_cut_of_concatenations_in_place():
    model = dense_block()
    compilation = compile_model(model)
    graph = compilation.graphs[0].extracted.graph
    assert any(graph.is_slice(value) for op in graph.ops for value in op.outputs)
    allowed = cut_positions(graph)
    assert 0 < len(allowed) < len(graph.ops) - 1
    for at in allowed:
        for segment in split_graph(graph, (0, at, len(graph.ops))):
            segment.validate()
    check_chains(compilation, model, range(1, len(allowed) + 2), close)


def test_no_cut_through_a_concatenation():
    graph = compile_model(dense_block()).graphs[0].extracted.graph
    for at in set(range(1, len(graph.ops))) - set(cut_positions(graph)):
        before, behind = graph.ops[:at], graph.ops[at:]
        written = {graph.values[v].storage for op in before for v in op.outputs}
        slices = {
            graph.values[value].storage
            for op in behind
            for value in (*op.inputs, *op.outputs)
            if graph.is_slice(value)
        }
        assert written & slices


def test_outputs_that_no_op_writes_belong_to_the_last_segment():
    graph = make_graph()
    assert cut_positions(graph) == (1, 2)
    first, second, third = split_graph(graph, (0, 1, 2, 3))
    assert first.output_names == ("left",)
    assert second.output_names == ("right",)
    assert third.output_names == ("y2", "same", "weight", "middle", "y")
    keys = [third.storages[third.values[value].storage].key for value in third.inputs]
    assert keys == ["x", "left", "right"]


def test_boundary_values_are_named_apart_from_inputs_and_outputs():
    graph = make_graph()
    names = ("left", "right", "same", "weight", "middle")
    first, second, _ = split_graph(OpGraph(**{**vars(graph), "output_names": names}), (0, 1, 2, 3))
    assert first.output_names == ("left.2",)
    assert second.output_names == ("right.2",)


def test_one_segment_is_the_graph_itself():
    graph = make_graph()
    assert split_graph(graph, (0, 3)) == (graph,)


# --- Random graphs, executed by an interpreter that shares nothing with executors ---


def interpret(graph: OpGraph, inputs: dict[str, bytes]) -> dict[str, bytes]:
    """Outputs by name; what an op writes is a digest of its name and of what it reads."""
    memory = [inputs[storage.key] if storage.kind == "input" else b"" for storage in graph.storages]
    for op in graph.ops:
        read = b"".join(memory[graph.values[value].storage] for value in op.inputs)
        for number, value in enumerate(op.outputs):
            view = graph.values[value]
            assert not memory[view.storage], "written twice"
            digest = hashlib.sha256(f"{op.name} {number}".encode() + read).digest()
            memory[view.storage] = digest
    return {
        name: memory[graph.values[value].storage]
        for value, name in zip(graph.outputs, graph.output_names, strict=True)
    }


@settings(max_examples=200, deadline=None)
@given(graphs_with_schedules(), st.data())
def test_chains_of_random_graphs(case, data):
    graph, _, _ = case
    allowed = cut_positions(graph)
    assert allowed == tuple(range(1, len(graph.ops)))  # nothing is written in parts
    cuts = data.draw(st.sets(st.sampled_from(allowed))) if allowed else set()
    values = {"x": b"input"}
    expected = interpret(graph, values)
    for segment in split_graph(graph, (0, *sorted(cuts), len(graph.ops))):
        segment.validate()
        plan_of(segment)  # passes all checks of plans
        given = {segment.storages[segment.values[value].storage].key for value in segment.inputs}
        results = interpret(segment, {name: values[name] for name in given})
        assert not results.keys() & values.keys()
        values |= results
    assert {name: values[name] for name in expected} == expected
