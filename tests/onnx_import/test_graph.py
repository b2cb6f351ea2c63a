"""The walk over a graph: functions, names, order, constants; branches and loops."""

import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import top_tvm
from top_tvm.compiler.frontend import import_onnx
from top_tvm.compiler.onnx_import import control_flow
from top_tvm.compiler.onnx_import.fold import fold
from top_tvm.compiler.onnx_import.graph import convert_graph
from top_tvm.errors import ModelError

X = np.linspace(-2, 3, 8, dtype=np.float32).reshape(2, 4)
INTEGERS = ("numbers", "rows_times_many", "size")  # results that are
node = helper.make_node


def tensor(name, shape=None, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def make(nodes, outputs=("y",), constants=None, functions=(), inputs=("x",), opset=17):
    domains = sorted({"", *(function.domain for function in functions)})
    graph = helper.make_graph(
        nodes,
        "g",
        [tensor(name, X.shape) for name in inputs],
        [tensor(n, kind=TensorProto.INT64 if n in INTEGERS else 1) for n in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(d, 1 if d else opset) for d in domains],
        functions=list(functions),
        ir_version=10,
    )


def function(name, inputs, outputs, nodes, domain="own", **attributes):
    required = [key for key, value in attributes.items() if value is None]
    defaults = [helper.make_attribute(k, v) for k, v in attributes.items() if v is not None]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_function(domain, name, inputs, outputs, nodes, imports, required, defaults)


def run(model, **feeds):
    feeds = feeds or {"x": X}
    results = top_tvm.build(model, partitioner="sequential", streams=1).run(feeds)
    return [results[output.name] for output in model.graph.output]


def referring(op_type, inputs, outputs, **references):
    made = node(op_type, inputs, outputs)
    for name, of_function in references.items():
        attribute = made.attribute.add()
        attribute.name, attribute.ref_attr_name = name, of_function
        attribute.type = onnx.AttributeProto.FLOAT
    return made


LEAKY = function(
    "Leaky", ["a"], ["b"], [referring("LeakyRelu", ["a"], ["b"], alpha="slope")], slope=0.5
)


def test_functions_have_default_attributes_and_call_each_other():
    twice = function(
        "Twice",
        ["a", "extra"],
        ["b", "unwanted"],
        [
            node("Leaky", ["a"], ["c"], domain="own"),
            referring_leaky("c", "d", "second"),
            node("Clip", ["d", "", "extra"], ["b"]),
            node("Neg", ["b"], ["unwanted"]),
        ],
        second=0.25,
    )
    nodes = [
        node("Twice", ["x"], ["y", ""], domain="own", name="same"),
        node("Twice", ["x", "most"], ["z", ""], domain="own", name="same", second=0.75),
    ]
    model = make(nodes, ("y", "z"), {"most": np.float32(1)}, [LEAKY, twice])
    y, z = run(model)
    np.testing.assert_allclose(y, np.where(X < 0, X * 0.5 * 0.25, X), rtol=1e-6)
    np.testing.assert_allclose(z, np.minimum(np.where(X < 0, X * 0.5 * 0.75, X), 1), rtol=1e-6)


def referring_leaky(source, target, attribute):
    made = referring("Leaky", [source], [target], slope=attribute)
    made.domain = "own"
    return made


def test_a_function_of_the_model_comes_before_an_operator_of_its_name():
    shadow = function("Relu", ["a"], ["b"], [node("Neg", ["a"], ["b"])], domain="")
    nodes = [node("Relu", ["x"], ["y"]), node("Relu", ["c"], ["z"])]
    y, z = run(make(nodes, ("y", "z"), {"c": np.float32([1, -2])}, [shadow]))
    np.testing.assert_array_equal(y, -X)
    np.testing.assert_array_equal(z, [-1, 2])


def test_endless_functions_are_refused():
    endless = function("F", ["a"], ["b"], [node("F", ["a"], ["b"], domain="own")])
    with pytest.raises(ModelError, match="function 'F' calls itself"):
        import_onnx(make([node("F", ["x"], ["y"], domain="own")], functions=[endless]))


def test_results_may_be_inputs_constants_or_each_other():
    nodes = [node("Neg", ["x"], ["y"]), node("Identity", ["y"], ["same"])]
    outputs = ("x", "c", "y", "same")
    x, c, y, same = run(make(nodes, outputs, {"c": np.float32([5])}))
    for result, expected in ((x, X), (c, [5]), (y, -X), (same, -X)):
        np.testing.assert_array_equal(result, expected)


def test_any_order_of_nodes_and_dead_nodes():
    nodes = [
        node("Add", ["b", "a"], ["y"]),
        node("Sqrt", ["x"], ["dead"]),
        node("Neg", ["a"], ["b"]),
        node("Abs", ["x"], ["a"]),
    ]
    np.testing.assert_array_equal(run(make(nodes))[0], 0 * X)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("Add", ["x", "y"], ["y"], name="n")], "node 'n' .Add. depends on itself"),
        ([node("Neg", ["x"], ["y"]), node("Abs", ["x"], ["y"])], "two nodes compute 'y'"),
        ([node("Add", ["x", "z"], ["y"], name="n")], "its input 'z' does not exist"),
        ([node("Neg", ["x"], ["z"])], "output 'y' is computed by no node"),
    ],
)
def test_impossible_graphs(nodes, message):
    with pytest.raises(ModelError, match=message):
        import_onnx(make(nodes))


def test_unused_inputs_stay_and_are_named(caplog):
    model = make([node("Neg", ["x"], ["y"])], inputs=("x", "idle"))
    with caplog.at_level(logging.WARNING, "top_tvm"):
        imported = import_onnx(model)
    assert imported.inputs == ("x", "idle")
    assert len(imported.module["main"].params) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "g: the results do not depend on: 'idle'"
    ]
    np.testing.assert_array_equal(run(model, x=X, idle=X)[0], -X)


def test_shape_arithmetic_in_64_bits_is_folded():
    """What PyTorch writes for ``x.reshape(x.shape[0] * 2, -1)``, and a number above 2 ** 31."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["rows"]),
        node("Mul", ["rows", "two"], ["doubled"]),
        node("Unsqueeze", ["doubled", "axis"], ["first"]),
        node("Concat", ["first", "rest"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["y"]),
        node("Mul", ["rows", "many"], ["rows_times_many"]),
        node("Size", ["x"], ["size"]),
    ]
    constants = {"zero": np.int64(0), "two": np.int64(2), "axis": np.int64([0])}
    constants |= {"rest": np.int64([-1]), "many": np.int64(1 << 40)}
    y, z, size = run(make(nodes, ("y", "rows_times_many", "size"), constants))
    np.testing.assert_array_equal(y, X.reshape(4, 2))
    assert (z, size) == (2 << 40, 8)
    assert z.dtype == size.dtype == np.int64


@pytest.mark.parametrize("operands", [("ConstantOfShape",), ("Expand", np.float32([1]))])
def test_constants_of_absurd_size_are_refused(operands):
    op_type, *values = operands
    values.append(np.int64([1 << 20, 1 << 20]))
    made = node(op_type, ["a", "b"][: len(values)], ["y"])
    with pytest.raises(ModelError, match=r"here: its result of shape .* takes \d+\.\d GB"):
        fold(made, 17, values, "here")


def branch(name, nodes):
    return helper.make_graph(nodes, name, [], [tensor(name)])


def conditional(condition):
    return node(
        "If",
        [condition],
        ["y"],
        then_branch=branch("t", [node("Neg", ["x"], ["t"])]),
        else_branch=branch("e", [node("Abs", ["x"], ["e"])]),
    )


def test_branches_that_are_known_are_taken():
    nodes = [node("Size", ["x"], ["s"]), node("Less", ["s", "few"], ["c"]), conditional("c")]
    for few, expected in ((9, -X), (8, np.abs(X))):
        np.testing.assert_array_equal(
            run(make(nodes, constants={"few": np.int64(few)}))[0], expected
        )
    late = [node("ReduceMax", ["x"], ["m"], keepdims=0), node("Cast", ["m"], ["c"], to=9)]
    with pytest.raises(ModelError, match=r"\(If\): its condition is computed at run time"):
        import_onnx(make([*late, conditional("c")]))


def loop_body(state_nodes, condition="going"):
    """A body that also puts out its iteration and its state."""
    inputs = [tensor("i", (), TensorProto.INT64), tensor("going", (), TensorProto.BOOL)]
    return helper.make_graph(
        state_nodes,
        "body",
        [*inputs, tensor("state")],
        [
            tensor(condition, (), TensorProto.BOOL),
            tensor("new"),
            tensor("i", (), TensorProto.INT64),
            tensor("new"),
        ],
    )


def looping(body, count="n", condition=""):
    return node("Loop", [count, condition, "x"], ["y", "numbers", "states"], body=body)


DOUBLE = [node("Add", ["state", "state"], ["new"])]


def test_counted_loops_are_unrolled():
    model = make([looping(loop_body(DOUBLE))], ("y", "numbers", "states"), {"n": np.int64(3)})
    y, numbers, states = run(model)
    np.testing.assert_array_equal(y, 8 * X)
    np.testing.assert_array_equal(numbers, [0, 1, 2])
    np.testing.assert_array_equal(states, [2 * X, 4 * X, 8 * X])


def test_loops_end_when_their_condition_does():
    nodes = [*DOUBLE, node("Less", ["i", "last"], ["more"])]
    model = make(
        [looping(loop_body(nodes, "more"), count="")], ("y", "numbers"), {"last": np.int64(1)}
    )
    y, numbers = run(model)
    np.testing.assert_array_equal(y, 4 * X)
    np.testing.assert_array_equal(numbers, [0, 1])


@pytest.mark.parametrize(
    ("count", "nodes", "condition", "message"),
    [
        (2000, DOUBLE, "going", "has more than 1024 turns"),
        (0, DOUBLE, "going", "it has no iterations"),
        (
            3,
            [
                *DOUBLE,
                node("ReduceMax", ["new"], ["m"], keepdims=0),
                node("Cast", ["m"], ["c"], to=9),
            ],
            "c",
            "its condition is computed at run time",
        ),
    ],
)
def test_loops_that_are_refused(count, nodes, condition, message):
    model = make([looping(loop_body(nodes, condition))], ("y", "states"), {"n": np.int64(count)})
    with pytest.raises(ModelError, match=rf"\(Loop\): .*{message}"):
        import_onnx(model)


def test_nested_loops_have_one_limit(monkeypatch):
    monkeypatch.setattr(control_flow, "MAX_UNROLLED_NODES", 30)
    body = renamed(loop_body([node("Add", ["state", "x"], ["new"])]))
    inner = node("Loop", ["n", "", "state"], ["new", "is", "s"], body=body)
    model = make([looping(loop_body([inner]))], constants={"n": np.int64(5)})
    np.testing.assert_allclose(run(model)[0], 26 * X, rtol=1e-5)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.int64(6), "n"))
    with pytest.raises(ModelError, match="become more than 30 nodes"):
        import_onnx(model)


def renamed(body):
    """A body whose names are not those of the graph around it."""
    for item in (*body.input, *body.output):
        item.name = f"inner_{item.name}"
    for inner in body.node:
        inner.input[:] = [name if name == "x" else f"inner_{name}" for name in inner.input]
        inner.output[:] = [f"inner_{name}" for name in inner.output]
    return body


def test_scans_run_along_any_axis_in_either_direction():
    body = helper.make_graph(
        [node("Add", ["sum", "item"], ["new"])],
        "body",
        [tensor("sum"), tensor("item")],
        [tensor("new"), tensor("new")],
    )
    attributes = {
        "num_scan_inputs": 1,
        "scan_input_axes": [1],
        "scan_input_directions": [1],
        "scan_output_axes": [-1],
    }
    scan = node("Scan", ["start", "x"], ["y", "sums"], body=body, **attributes)
    y, sums = run(make([scan], ("y", "sums"), {"start": np.float32([10, 20])}))
    expected = np.add(np.cumsum(X[:, ::-1], 1), [[10], [20]])
    np.testing.assert_allclose(sums, expected, rtol=1e-6)
    np.testing.assert_allclose(y, expected[:, -1], rtol=1e-6)


def test_operators_without_elements_give_constants():
    nodes = [node("Slice", ["x", "end", "end", "one"], ["none"])]
    nodes.append(node("Concat", ["none", "x", "none"], ["y"], axis=1))
    (y,) = run(make(nodes, ("y",), {"end": np.int64([4]), "one": np.int64([1])}))
    np.testing.assert_array_equal(y, X)


def test_outputs_in_bfloat16_are_refused():
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2,))],
        [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, (2,))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ModelError, match=r"m: output 'y': .*BFLOAT16.* cast it to float32"):
        convert_graph(model, "m")
