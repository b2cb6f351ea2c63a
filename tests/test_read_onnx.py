"""ONNX files that are damaged, newer, or ask for more than there is: what is said of them."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import top_tvm
from small_model import small_model
from top_tvm.compiler.estimate import estimate_build
from top_tvm.compiler.frontend import import_onnx
from top_tvm.device import memory_limit_bytes
from top_tvm.errors import ModelError


def make(nodes, initializers=(), outputs=("y",), shape=(1, 4)):
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in initializers],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def relu(source="x", result="y", name=""):
    return helper.make_node("Relu", [source], [result], name=name)


def add_weight(**fields):
    """A model whose weight has other fields."""
    model = make([helper.make_node("Add", ["x", "w"], ["y"])], [("w", np.float32([[1, 2, 3, 4]]))])
    for name, value in fields.items():
        if isinstance(value, (int, bytes)):
            setattr(model.graph.initializer[0], name, value)
        else:
            del getattr(model.graph.initializer[0], name)[:]
            getattr(model.graph.initializer[0], name).extend(value)
    return model


def with_versions(ir_version=8, opset=17):
    model = make([relu()])
    model.ir_version, model.opset_import[0].version = ir_version, opset
    return model


def twice(member):
    model = make([relu()], [("w", np.float32([1]))])
    field = getattr(model.graph, member)
    field.add().CopyFrom(field[0])
    return model


def sparse():
    model = make([relu()])
    tensors = (
        numpy_helper.from_array(np.float32([1]), "w"),
        numpy_helper.from_array(np.int64([0])),
    )
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(*tensors, [4]))
    return model


def functions(*bodies):
    """Functions f0, f1, ... that call those that are listed."""
    model = make([helper.make_node("f0", ["x"], ["y"], domain="local")])
    model.opset_import.append(helper.make_opsetid("local", 1))
    for index, callees in enumerate(bodies):
        nodes = [helper.make_node(f"f{c}", ["a"], [f"b{i}"], domain="local") for i, c in callees]
        nodes.append(relu("a", "b"))
        function = helper.make_function(
            "local", f"f{index}", ["a"], ["b"], nodes, model.opset_import
        )
        model.functions.append(function)
    return model


def branching(levels):
    return functions(*([(0, i + 1), (1, i + 1)] for i in range(levels)), [])


def with_raw_text():
    """A model with an operator whose name is no UTF-8."""
    data = make([relu()]).SerializeToString().replace(b"Relu", b"Rel\xf5")
    return onnx.ModelProto.FromString(data)


def sequence_input():
    model = make([relu()])
    inner = model.graph.input[0].type
    model.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(inner))
    return model


def sequence_output():
    model = make([helper.make_node("SequenceConstruct", ["x", "x"], ["y"])])
    inner = model.graph.input[0].type
    model.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(inner))
    return model


def nameless(member):
    model = make([relu()], [("w", np.float32([1]))])
    field = getattr(model.graph, member)
    field.add().CopyFrom(field[0])
    field[-1].name = ""
    return model


def huge(op_type, inputs, *initializers):
    nodes = [helper.make_node(op_type, inputs, ["huge"], name="guilty")]
    nodes.append(helper.make_node("ReduceMax", ["huge"], ["y"], keepdims=0))
    return make(nodes, initializers)


MILLION = np.int64([10**6, 10**6])
DAMAGED = {
    "short": (add_weight(raw_data=bytes(12)), "initializer 'w': 12 bytes; its shape has 16"),
    "long": (add_weight(dims=[1, 3]), "initializer 'w': 16 bytes; its shape has 12"),
    "negative": (add_weight(dims=[-1, 4]), r"initializer 'w': \(-1, 4\) is not a shape"),
    "ranks": (add_weight(dims=[1] * 40), "initializer 'w': .* is not a shape"),
    "type": (
        add_weight(data_type=77),
        r"initializer 'w': has no element type that is known \(77\)",
    ),
    "newer ir": (with_versions(ir_version=99), "IR version 99 is newer than .*: upgrade onnx"),
    "newer opset": (with_versions(opset=99), "opset 99 is not one of those .* upgrade onnx"),
    "cycle": (
        make([relu("b", "a", "one"), relu("a", "b")], outputs=["a"]),
        "'one' .* depends on its",
    ),
    "dangling": (make([relu("nobody")]), r"node 'y' \(Relu\): its input 'nobody' does not exist"),
    "no output": (make([relu()], outputs=["z"]), "output 'z' is computed by no node"),
    "two results": (make([relu(), relu()]), "two nodes compute 'y'"),
    "two inputs": (twice("input"), "input 'x' is there more than once"),
    "two weights": (twice("initializer"), "initializer 'w' is there more than once"),
    "omitted": (
        make([helper.make_node("Concat", ["x", ""], ["y"], axis=0)]),
        r"node 'y' \(Concat\): its input 'inputs' is missing",
    ),
    "text": (with_raw_text(), r"the name b'Rel\\xf5' is not valid UTF-8"),
    "attribute": (
        make([helper.make_node("Softmax", ["x"], ["y"], axis="one")]),
        "is not valid: .*axis",
    ),
    "ranks differ": (
        make(
            [helper.make_node("MatMul", ["x", "w"], ["y"])], [("w", np.zeros((5, 2), np.float32))]
        ),
        "is not valid: .*MatMul",
    ),
    "sparse": (sparse(), "initializer 'w' is sparse: store it densely"),
    "sequence": (sequence_input(), "input 'x' is not a tensor"),
    "sequence result": (
        sequence_output(),
        r": 'y' of node 'y' \(SequenceConstruct\): is no tensor, but a sequence_type",
    ),
    "nameless input": (nameless("input"), ": an input has no name"),
    "nameless output": (nameless("output"), ": an output has no name"),
    "nameless weight": (nameless("initializer"), ": an initializer has no name"),
    "recursion": (functions([(0, 1)], [(0, 0)]), "function 'f0' calls itself"),
    "deep functions": (
        functions(*([(0, i + 1)] for i in range(102)), []),
        "functions call each other more than 100 levels deep",
    ),
    "explosion": (branching(40), "nodes; at most 100000 are supported"),
    "ConstantOfShape": (
        huge("ConstantOfShape", ["s"], ("s", MILLION)),
        r"needs 4e\+03 GB of memory .* largest is 'huge' of node 'guilty' \(ConstantOfShape\) of "
        r"shape \(1000000, 1000000\) with 4e\+03 GB",
    ),
    "Expand": (
        huge("Expand", ["x", "s"], ("s", np.int64([10**12, 4]))),
        r"'huge' of node 'guilty' \(Expand\) of shape \(1000000000000, 4\) with 1.6e\+04 GB",
    ),
    "Tile": (huge("Tile", ["x", "s"], ("s", MILLION)), r"node 'guilty' \(Tile\)"),
    "Pad": (huge("Pad", ["x", "s"], ("s", np.int64([0, 0, 10**6, 10**9]))), r"'guilty' \(Pad\)"),
}


@pytest.mark.parametrize(("model", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_what_is_said_of_damaged_models(model, message):
    with pytest.raises(ModelError, match=message):
        import_onnx(model)
    with pytest.raises(ModelError, match=message):
        top_tvm.estimate_memory(model.SerializeToString())


def test_nodes_out_of_order_are_sorted():
    model = make([relu("a", "y"), relu("x", "a")])
    assert import_onnx(model).outputs == ("y",)


EXTERNAL = {
    "parent": ({"location": "../../../etc/passwd"}, "cannot read its data"),
    "absolute": ({"location": "/etc/passwd"}, "cannot read its data"),
    "device": ({"location": "zero"}, "cannot read its data"),
    "absent": ({"location": "absent.bin"}, "cannot read its data"),
    "offset": ({"offset": str(2**40)}, "cannot read its data: .*offset"),
    "length": ({"length": str(2**40)}, f"{2**40} bytes in another file; its shape has 16"),
    "negative": ({"offset": "-4"}, "cannot read its data: .*offset"),
    "no number": ({"offset": "x"}, "cannot read its data"),
}


@pytest.mark.parametrize(("changes", "message"), EXTERNAL.values(), ids=EXTERNAL.keys())
def test_weights_in_another_file(tmp_path, changes, message):
    path = tmp_path / "model.onnx"
    onnx.save(add_weight(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert import_onnx(path).outputs == ("y",)
    (tmp_path / "zero").symlink_to("/dev/zero")
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = changes.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=rf"model\.onnx: initializer 'w': {message}"):
        import_onnx(path)
    with pytest.raises(ModelError, match="its data is in another file: give the model's path"):
        import_onnx(path.read_bytes())


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="no such model file"):
        import_onnx(tmp_path / "model.onnx")


def test_the_estimate_grows_with_weights_and_batches():
    small = estimate_build(small_model("n"), None, [1])
    assert 5e8 < small < 1e9
    assert estimate_build(small_model("n"), None, [1, 4096]) > small
    large = make(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], [("w", np.zeros((4, 10**6), np.float32))]
    )
    assert estimate_build(large, None, [None]) - small > 6 * 16e6


def test_a_build_beyond_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr("top_tvm.compiler.estimate.memory_limit_bytes", lambda: 10**8)
    message = (
        r"small: a build takes about 0.7 GB of memory .* this machine has 0.1 GB: build it for"
    )
    with pytest.raises(ModelError, match=message):
        top_tvm.build(small_model())


def test_the_limit_is_that_of_control_group_or_address_space(tmp_path, monkeypatch):
    usual = memory_limit_bytes()
    assert 10**8 < usual < 2**63
    groups = tmp_path / "cgroup"
    (groups / "a" / "b").mkdir(parents=True)
    (groups / "a" / "memory.max").write_text("123456\n")
    (groups / "a" / "b" / "memory.max").write_text("max\n")
    process = tmp_path / "proc" / "self"
    process.mkdir(parents=True)
    (process / "cgroup").write_text("0::/a/b\n")
    monkeypatch.setattr("top_tvm.device._CGROUPS", groups)
    monkeypatch.setattr("top_tvm.device._PROC", Path(tmp_path / "proc"))
    assert memory_limit_bytes() == 123456
    (process / "cgroup").write_text("4:memory,cpu:/m\n1:cpu:/\n")
    (groups / "memory" / "m").mkdir(parents=True)
    (groups / "memory" / "m" / "memory.limit_in_bytes").write_text("654321\n")
    assert memory_limit_bytes() == 654321
    (process / "cgroup").unlink()
    monkeypatch.setattr("resource.getrlimit", lambda _: (7_000, 7_000))
    assert memory_limit_bytes() == 7_000


def test_a_shape_that_only_the_importer_knows_is_checked():
    nodes = [
        helper.make_node("Tile", ["one", "repeats"], ["huge"]),  # of another rank: not inferred
        helper.make_node("ReduceMax", ["huge"], ["most"], keepdims=0),
        helper.make_node("Add", ["x", "most"], ["y"]),
    ]
    values = [("half", np.int64([2**60, 2**61])), ("one", np.float32(1))]
    double = helper.make_node("Add", ["half", "half"], ["repeats"])
    with pytest.raises(
        ModelError, match=rf"'huge' \(Tile\): its result of shape \({2**61}, {2**62}\)"
    ):
        import_onnx(make([double, *nodes], values))
