"""What the walk over a graph, control flow and sequences refuse: each text, and what it names."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from top_tvm.compiler.onnx_import import control_flow, graph
from top_tvm.compiler.onnx_import.graph import convert_graph
from top_tvm.errors import ModelError

node = helper.make_node
CONSTANTS = {
    "true": np.asarray(True),
    "none": np.asarray(0, np.int64),
    "three": np.asarray(3, np.int64),
    "four": np.asarray(4, np.int64),
    "huge": np.asarray([1 << 20, 1 << 20], np.int64),
    "complex": np.ones((2, 4), np.complex64),
}


def value(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def body(nodes, inputs, outputs):
    return helper.make_graph(nodes, "body", [value(n) for n in inputs], [value(n) for n in outputs])


def model(nodes, opset=17, functions=()):
    """From x of shape (2, 4) and, where they want it, z of shape (2, 3), to y."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])]
    inputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 3]))
    constants = [numpy_helper.from_array(array, name) for name, array in CONSTANTS.items()]
    whole = helper.make_graph(nodes, "g", inputs, [value("y")], constants)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    return helper.make_model(whole, opset_imports=imports, functions=functions)


def function(name, outputs, nodes):
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["a"], outputs, nodes, imports)


NEGATE = body([node("Neg", ["row"], ["negated"])], ["row"], ["negated"])
GROW = body(  # its state doubles, and is put out
    [
        node("Concat", ["state", "state"], ["grown"], axis=0),
        node("Identity", ["grown"], ["put"]),
        node("Identity", ["going"], ["go"]),
    ],
    ["iteration", "going", "state"],
    ["go", "grown", "put"],
)
KEEP = body(
    [
        node("Neg", ["state"], ["kept"]),
        node("Neg", ["state"], ["put"]),
        node("Identity", ["going"], ["go"]),
    ],
    ["iteration", "going", "state"],
    ["go", "kept", "put"],
)
EMPTY_BRANCH = body([], [], [])


def scan(inputs=("x",), **attributes):
    attributes = {"num_scan_inputs": len(inputs), "body": NEGATE} | attributes
    return node("Scan", inputs, ["y"], "n", **attributes)


REFUSALS = {
    "its then_branch is missing or has too few outputs": [
        node("If", ["true"], ["y"], "n"),
        node("If", ["true"], ["y"], "n", then_branch=EMPTY_BRANCH, else_branch=EMPTY_BRANCH),
    ],
    "its body is missing or has too few outputs": [node("Loop", ["three", "true"], ["y"], "n")],
    "its scan_input_axes has 2 values instead of 1": [scan(scan_input_axes=[0, 0])],
    "its scan_output_axes has 2 values instead of 1": [scan(scan_output_axes=[0, 0])],
    "its body has 1 inputs instead of 2": [scan(("x", "x"))],
    "its body has 3 inputs instead of 2": [
        node("Loop", ["three", "true"], ["y"], "n", body=GROW),
    ],
    "its num_scan_inputs is 3, with 1 inputs": [scan(num_scan_inputs=3)],
    "its num_scan_inputs is 0, with 1 inputs": [scan(num_scan_inputs=0)],
    "its inputs have different lengths: [4, 3]": [scan(("x", "z"), scan_input_axes=[1, 1])],
    "one of its states is left out": [
        node("Loop", ["three", "true", ""], ["y"], "n", body=GROW),
        scan(("", "x"), num_scan_inputs=1),
    ],
    "it scans axis 2 of 2 dimensions": [scan(scan_input_axes=[2])],
    "what its iterations put out has different shapes": [
        node("Loop", ["three", "true", "x"], ["", "y"], "n", body=GROW)
    ],
    "it puts out along axis 2 of 2 dimensions": [scan(scan_output_axes=[2])],
    "it has no iterations: the shape of what they would put out is not known": [
        node("Loop", ["none", "true", "x"], ["", "y"], "n", body=GROW)
    ],
    "its trip count is computed at run time; make it a constant": [
        node("Loop", ["x", "true", "x"], ["", "y"], "n", body=GROW)
    ],
    "its condition is computed at run time; only counted loops are supported": [
        node("Loop", ["three", "x", "x"], ["", "y"], "n", body=GROW)
    ],
    "its condition is computed at run time; only branches that are known when the model is built "
    "are supported": [
        node("If", ["x"], ["y"], "n", then_branch=EMPTY_BRANCH, else_branch=EMPTY_BRANCH)
    ],
    "position 4 does not exist in a sequence of 3": [
        node("SequenceInsert", ["sequence", "x", "four"], ["y"], "n"),
        node("SequenceErase", ["sequence", "four"], ["y"], "n"),
    ],
    "the sequence is empty": [
        node("SequenceErase", ["nothing"], ["y"], "n"),
        node("ConcatFromSequence", ["nothing"], ["y"], "n", axis=0),
    ],
    "it is empty; only optional values that are there are supported": [
        node("OptionalGetElement", [""], ["y"], "n"),
        node("Optional", [], ["y"], "n"),
    ],
    "its position is computed at run time; make it a constant": [
        node("SequenceAt", ["sequence", "x"], ["y"], "n")
    ],
    "is a sequence of tensors where a tensor is wanted": [node("Neg", ["sequence"], ["y"], "n")],
    "values of type complex64 are not supported": [node("Add", ["x", "complex"], ["y"], "n")],
    f"its result of shape ({1 << 20}, {1 << 20}) takes 4398.0 GB, a constant may take 2.1 GB": [
        node("ConstantOfShape", ["huge"], ["y"], "n")
    ],
    "input 0 is no tensor": [
        node("SequenceConstruct", ["sequence"], ["y"], "n"),
        node("SplitToSequence", ["sequence"], ["y"], "n"),
    ],
    "input 1 is no tensor": [node("SequenceInsert", ["sequence", "sequence"], ["y"], "n")],
    "its input is no sequence": [
        node("SequenceLength", ["x"], ["y"], "n"),
        node("SequenceAt", ["x", "three"], ["y"], "n"),
        node("ConcatFromSequence", ["x"], ["y"], "n", axis=0),
    ],
    "no node before it computes its input 'nowhere'": [node("Neg", ["nowhere"], ["y"], "n")],
}


def message(refused, **options):
    with pytest.raises(ModelError) as error:
        convert_graph(refused, "m", **options)
    return str(error.value)


CASES = [
    pytest.param(refused, text, id=f"{refused.op_type}: {text}")
    for text, nodes in REFUSALS.items()
    for refused in nodes
]


@pytest.mark.parametrize(("refused", "text"), CASES)
def test_nodes_are_refused(refused, text):
    nodes = [
        node("SequenceConstruct", ["x", "x", "x"], ["sequence"]),
        node("SequenceEmpty", [], ["nothing"]),
        refused,
    ]
    assert message(model(nodes)) == f"m: node 'n' ({refused.op_type}): {text}"


def nested(depth):
    """Branches within branches."""
    inner = body([node("Neg", ["x"], ["r"])], [], ["r"])
    for level in range(depth, 1, -1):
        result, branches = f"r{level}", {"then_branch": inner, "else_branch": EMPTY_BRANCH}
        inner = body([node("If", ["true"], [result], f"n{level}", **branches)], [], [result])
    return model([node("If", ["true"], ["y"], "n1", then_branch=inner, else_branch=EMPTY_BRANCH)])


def test_graphs_are_nested_so_deep_and_not_deeper():
    convert_graph(nested(16), "m")
    assert message(nested(17)) == "m: node 'n17' (If): graphs are nested more than 16 deep"


def test_a_tensor_whose_bytes_do_not_fit_is_named():
    added = model([node("Add", ["x", "c"], ["y"])])
    added.graph.initializer.append(TensorProto(name="c", data_type=1, dims=[3], raw_data=b"1234"))
    assert message(added).startswith("m: tensor 'c' cannot be read: ")


def test_a_tensor_in_a_branch_is_named_with_its_node():
    branch = body([node("Add", ["x", "c"], ["r"])], [], ["r"])
    branch.initializer.append(TensorProto(name="c", data_type=1, dims=[3], raw_data=b"1234"))
    branches = {"then_branch": branch, "else_branch": EMPTY_BRANCH}
    added = model([node("If", ["true"], ["y"], "n", **branches)])
    assert message(added).startswith("m: node 'n' (If): tensor 'c' cannot be read: ")


def test_tensors_that_there_are_none_of():
    sparse, strings, typed, untyped = (model([node("Neg", ["x"], ["y"])]) for _ in range(4))
    sparse.graph.sparse_initializer.add()
    text = "m: sparse initializers are not supported; store them densely"
    assert message(sparse) == text
    strings.graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [1], [b"a"]))
    assert message(strings) == "m: tensor 's' holds strings, which are not supported"
    typed.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    assert message(typed) == "m: input 'x': tensors of type STRING are not supported"
    untyped.graph.input[0].type.tensor_type.elem_type = 77
    assert message(untyped) == "m: input 'x': has no element type"


def test_scans_had_another_meaning():
    text = "Scan before opset 9 has another meaning; convert the model to a later opset"
    assert message(model([scan()], opset=8)) == f"m: node 'n' (Scan): {text}"


def test_loops_have_so_many_iterations_and_not_more(monkeypatch):
    loop = model([node("Loop", ["three", "true", "x"], ["y", ""], "n", body=KEEP)])
    monkeypatch.setattr(control_flow, "MAX_ITERATIONS", 3)
    convert_graph(loop, "m")
    monkeypatch.setattr(control_flow, "MAX_ITERATIONS", 2)
    text = "loops are unrolled, and this one has more than 2 turns"
    assert message(loop) == f"m: node 'n' (Loop): {text}"
    rows = model([scan(scan_input_axes=[1])])
    text = "scans are unrolled, and this one has more than 2 steps"
    assert message(rows) == f"m: node 'n' (Scan): {text}"
    monkeypatch.setattr(control_flow, "MAX_ITERATIONS", 4)
    convert_graph(rows, "m")
    monkeypatch.setattr(control_flow, "MAX_UNROLLED_NODES", 3)
    text = "loops are unrolled, and become more than 3 nodes here"
    assert message(rows) == f"m: node 'n' (Scan): {text}"


def test_results_that_do_not_fit_into_memory(monkeypatch):
    monkeypatch.setattr(graph, "memory_limit_bytes", lambda: 31)
    text = "its result of shape (2, 4) takes 0.0 GB, this machine has 0.0 GB of memory"
    assert message(model([node("Neg", ["x"], ["y"], "n")])) == f"m: node 'n' (Neg): {text}"
    monkeypatch.setattr(graph, "memory_limit_bytes", lambda: 32)
    convert_graph(model([node("Neg", ["x"], ["y"], "n")]), "m")


def test_shapes_other_than_inferred_ones_are_a_defect():
    text = (
        "became a tensor of shape (2, 4), where ONNX's shape inference finds (4, 2) for 'y': "
        "please report this as a defect of top_tvm"
    )
    negated = model([node("Neg", ["x"], ["y"], "n")])
    assert message(negated, shapes={"y": (4, 2)}) == f"m: node 'n' (Neg): {text}"


def test_names_have_one_value():
    nodes = [node("Neg", ["z"], ["x"], "n"), node("Abs", ["x"], ["y"])]
    assert message(model(nodes)) == "m: node 'n' (Neg): its output 'x' exists already"


def test_functions_compute_what_is_asked_for_and_end():
    void = function("Void", ["b"], [])
    text = "m: node 'n' (Void): its output 'y' is not supported"
    assert message(model([node("Void", ["x"], ["y"], "n", domain="own")], functions=[void])) == text
    endless = function("F", ["b"], [node("F", ["a"], ["b"], "f", domain="own")])
    found = message(model([node("F", ["x"], ["y"], "n", domain="own")], functions=[endless]))
    assert found == f"m: node n/{'f/' * 15}'f' (F): functions are nested more than 16 deep"


def test_what_relax_refuses_is_told_with_the_node():
    concatenated = model([node("Concat", ["x", "z"], ["y"], "n", axis=0)])
    assert message(concatenated).startswith("m: node 'n' (Concat): cannot be converted: ")
