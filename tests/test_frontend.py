"""Reading models: shapes, batches, and what is refused with which words."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from top_tvm.compiler.frontend import import_onnx
from top_tvm.errors import ModelError


def make(nodes, inputs, outputs, initializers=(), opset=17):
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def tensor(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def relu(shape=("n", 4)):
    node = helper.make_node("Relu", ["x"], ["y"])
    return make([node], [tensor("x", shape)], [tensor("y", shape)])


def shape_of(imported):
    return tuple(int(extent) for extent in imported.module["main"].params[0].ty.shape)


def test_symbolic_batch_is_one_by_default_and_what_is_asked_for_otherwise():
    assert shape_of(import_onnx(relu())) == (1, 4)
    assert shape_of(import_onnx(relu(), batch=3)) == (3, 4)
    assert import_onnx(relu(), batch=3).batch == 3


def test_the_given_model_is_not_changed():
    model = relu()
    before = model.SerializeToString()
    import_onnx(model, batch=2)
    assert model.SerializeToString() == before


def test_path_bytes_and_external_data(tmp_path):
    weight = numpy_helper.from_array(np.arange(4096, dtype=np.float32).reshape(64, 64), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = make([node], [tensor("x", (1, 64))], [tensor("y", (1, 64))], [weight])
    assert import_onnx(model.SerializeToString()).inputs == ("x",)
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=16)
    assert import_onnx(path).outputs == ("y",)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"m\.onnx: initializer 'w': cannot read its data"):
        import_onnx(path)


def test_open_dimension_names_input_and_dimension():
    with pytest.raises(
        ModelError, match=r"dimension 1 \('width'\) of input 'x' has no fixed size.*--shape x="
    ):
        import_onnx(relu(("n", "width")))
    assert shape_of(import_onnx(relu(("n", "width")), shapes={"x": (2, 8)})) == (2, 8)


@pytest.mark.parametrize(
    ("shapes", "batch", "message"),
    [
        ({"z": (1, 4)}, None, "no input 'z'; the inputs are: x"),
        ({"x": (1, 4, 4)}, None, "has 2 dimensions, the shape given has 3"),
        ({"x": (1, 5)}, None, "dimension 1 of input 'x' is fixed at 4 in the model, not 5"),
        ({"x": (0, 4)}, None, "must be positive, not 0"),
    ],
)
def test_impossible_shapes_are_refused(shapes, batch, message):
    with pytest.raises(ModelError, match=message):
        import_onnx(relu(), shapes, batch)


@pytest.mark.parametrize("shapes", [None, {"x": (2, 4)}])
def test_inputs_without_elements_are_refused(shapes):
    for shape, position in ((0, 4), 0), (("n", 0), 1):
        with pytest.raises(ModelError) as caught:
            import_onnx(relu(shape), shapes)
        assert str(caught.value) == (
            f"tiny: dimension {position} of input 'x' is 0: inputs without elements are not "
            "supported; if 0 was to mean any size, give the dimension a name (dim_param) instead"
        )


def test_batch_against_a_fixed_one_is_refused():
    with pytest.raises(
        ModelError, match="fixes its batch size at 2, so it cannot be built for batch 4"
    ):
        import_onnx(relu((2, 4)), batch=4)


def test_all_unsupported_operators_are_named_at_once():
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("StringNormalizer", ["a"], ["b"], name="first"),
        helper.make_node("Mystery", ["b"], ["c"], name="second", domain="com.example"),
        helper.make_node("StringNormalizer", ["c"], ["y"], name="third"),
    ]
    model = make(nodes, [tensor("x", (1,))], [tensor("y", (1,))])
    with pytest.raises(ModelError) as caught:
        import_onnx(model)
    message = str(caught.value)
    assert "StringNormalizer (2 nodes: first, third)" in message
    assert "com.example.Mystery (1 node: second)" in message


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 64])
def test_files_that_are_no_models(tmp_path, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.onnx"):
        import_onnx(path)


def test_missing_file(tmp_path):
    with pytest.raises(ModelError, match="no such model file"):
        import_onnx(tmp_path / "none.onnx")


def test_shape_arithmetic_is_folded():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["n1"]),
        helper.make_node("Concat", ["n1", "minus"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    initializers = [
        numpy_helper.from_array(np.int64(0), "zero"),
        numpy_helper.from_array(np.int64([0]), "axis"),
        numpy_helper.from_array(np.int64([-1]), "minus"),
    ]
    model = make(nodes, [tensor("x", ("n", 3, 4))], [tensor("y", ("n", 12))], initializers)
    imported = import_onnx(model, batch=5)
    assert tuple(int(d) for d in imported.module["main"].ret_ty.shape) == (5, 12)
