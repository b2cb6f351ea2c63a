"""What the walk over a graph, control flow and sequences refuse: each text, and what it names."""

import re

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from top_tvm.compiler.onnx_import.graph import convert_graph
from top_tvm.errors import ModelError

node = helper.make_node
CONSTANTS = {"true": np.asarray(True), "three": np.asarray(3, np.int64)}


def value(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def body(nodes, inputs, outputs):
    return helper.make_graph(nodes, "body", [value(n) for n in inputs], [value(n) for n in outputs])


def model(nodes):
    """From x of shape (2, 4) and, where they want it, z of shape (2, 3), to y."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])]
    inputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 3]))
    constants = [numpy_helper.from_array(array, name) for name, array in CONSTANTS.items()]
    graph = helper.make_graph(nodes, "g", inputs, [value("y")], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


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


CASES = [
    pytest.param(refused, text, id=f"{refused.op_type}: {text}")
    for text, nodes in REFUSALS.items()
    for refused in nodes
]


@pytest.mark.parametrize(("refused", "text"), CASES)
def test_nodes_are_refused(refused, text):
    nodes = [node("SequenceConstruct", ["x", "x"], ["sequence"]), refused]
    with pytest.raises(ModelError) as error:
        convert_graph(model(nodes), "m")
    assert str(error.value) == f"m: node 'n' ({refused.op_type}): {text}"


def nested(depth):
    """Branches within branches."""
    inner = body([node("Neg", ["x"], ["r"])], [], ["r"])
    for level in range(depth, 1, -1):
        result, branches = f"r{level}", {"then_branch": inner, "else_branch": EMPTY_BRANCH}
        inner = body([node("If", ["true"], [result], f"n{level}", **branches)], [], [result])
    return model([node("If", ["true"], ["y"], "n1", then_branch=inner, else_branch=EMPTY_BRANCH)])


def test_graphs_are_nested_so_deep_and_not_deeper():
    convert_graph(nested(16), "m")
    with pytest.raises(ModelError) as error:
        convert_graph(nested(17), "m")
    assert str(error.value) == "m: node 'n17' (If): graphs are nested more than 16 deep"


def test_a_tensor_whose_bytes_do_not_fit_is_named():
    graph = model([node("Add", ["x", "c"], ["y"])])
    graph.graph.initializer.append(TensorProto(name="c", data_type=1, dims=[3], raw_data=b"1234"))
    with pytest.raises(ModelError, match=r"^m: tensor 'c' cannot be read: .*reshape"):
        convert_graph(graph, "m")


def test_a_tensor_in_a_branch_is_named_with_its_node():
    branch = body([node("Add", ["x", "c"], ["r"])], [], ["r"])
    branch.initializer.append(TensorProto(name="c", data_type=1, dims=[3], raw_data=b"1234"))
    branches = {"then_branch": branch, "else_branch": EMPTY_BRANCH}
    place = re.escape("m: node 'n' (If): tensor 'c' cannot be read: ")
    with pytest.raises(ModelError, match=f"^{place}"):
        convert_graph(model([node("If", ["true"], ["y"], "n", **branches)]), "m")
