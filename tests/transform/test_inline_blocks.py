"""Chains of operators that read a value more than once: numbers, and how large kernels become."""

import numpy as np
import onnxruntime
import pytest
import tvm_ffi
from onnx import TensorProto, helper
from tvm import relax
from tvm.ir import TensorLoad

from kernels import call, kernel
from top_tvm.compiler.build import compile_model, make_plan, measure_ops
from top_tvm.compiler.partition import PARTITIONERS
from top_tvm.compiler.transform.inline_blocks import MAX_REPEATED_LOADS
from top_tvm.weights import aligned

op = relax.op
# What one link makes of a value, as nodes of ONNX: inputs and operator, of "a" and then of others.
LINKS = {
    "sum": [("Add", "a", "a")],
    "square": [("Mul", "a", "a")],
    "difference": [("Neg", "a"), ("Sub", "a", 0)],
    "diamond": [("Relu", "a"), ("Sigmoid", 0), ("Add", 0, 1)],
    "nested functions": [("Sigmoid", "a"), ("Tanh", 0)],
    "two levels": [("Abs", "a"), ("Max", "a", 0), ("Min", "a", 0), ("Add", 1, 2)],
}


def chain(link, length, shape):
    """A model of that many links."""
    nodes, value = [], "x"
    for index in range(length):
        names = [f"v{index}_{step}" for step in range(len(LINKS[link]))]
        for name, (operator, *sources) in zip(names, LINKS[link], strict=True):
            inputs = [value if source == "a" else names[source] for source in sources]
            nodes.append(helper.make_node(operator, inputs, [name]))
        value = names[-1]
    nodes.append(helper.make_node("Identity", [value], ["y"]))
    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "chain", tensors[:1], tensors[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def loads(function):
    found = []
    tvm_ffi.structural_walk(function.body, (TensorLoad, found.append))
    return len(found)


@pytest.mark.parametrize(
    ("link", "shape"),
    [*((link, (3, 32)) for link in LINKS), ("sum", (33,)), ("diamond", (2, 3, 5))],
)
def test_chains_have_bounded_kernels_and_right_numbers(link, shape):
    model = chain(link, 25, shape)
    # Powers of two and of one are exact, however often they are squared or doubled.
    x = aligned(np.random.default_rng(0).choice(np.float32([-1, 0, 0.5, 1, 2]), shape))
    compilation = compile_model(model)
    (compiled,) = compilation.graphs
    total = sum(map(loads, compiled.extracted.prim_funcs.values()))
    assert total <= MAX_REPEATED_LOADS * 25 * len(LINKS[link])
    problem = measure_ops(compilation, compiled)
    plan = make_plan(compiled, problem, "sequential", PARTITIONERS["sequential"](problem))
    (output,) = compilation.session.executor(plan).run([x])
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


def doubled(times):
    def body(emit, x):
        for _ in range(times):
            x = emit(op.add(x, x))
        return x

    return body


def test_short_chains_stay_one_expression():
    """Up to the limit, five doublings; the sixth reads what they gave from a buffer."""
    x = np.random.default_rng(1).standard_normal((4, 32)).astype("float32")
    for times, buffers in ((5, 0), (6, 1)):
        function = kernel((4, 32), doubled(times))
        assert function.script().count("alloc_buffer") == buffers
        assert loads(function) <= MAX_REPEATED_LOADS + 2 * buffers
        np.testing.assert_array_equal(call(function, x), x * 2**times)


def test_costly_functions_are_nested_to_a_depth_that_compiles():
    x = np.random.default_rng(2).standard_normal((4, 32)).astype("float32")
    for times, buffers in ((3, 0), (4, 1), (12, 3)):

        def body(emit, value, times=times):
            for _ in range(times):
                value = emit(op.sigmoid(value))
            return value

        function = kernel((4, 32), body)
        assert function.script().count("alloc_buffer") == buffers
        expected = x
        for _ in range(times):
            expected = 1 / (1 + np.exp(-expected))
        np.testing.assert_allclose(call(function, x), expected, rtol=1e-5)
