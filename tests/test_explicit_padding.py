"""``auto_pad`` written out gives what ONNX Runtime makes of it."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from top_tvm.compiler.explicit_padding import make_padding_explicit


def model(operator, mode, **attributes):
    weights = []
    if operator == "Conv":
        values = np.random.default_rng(0).standard_normal((2, 3, 4, 3)).astype("float32")
        weights = [numpy_helper.from_array(values, "w")]
    else:
        attributes["kernel_shape"] = [4, 3]
    node = helper.make_node(
        operator, ["x", *(w.name for w in weights)], ["y"], auto_pad=mode, **attributes
    )
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 11, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "padding", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(proto):
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    x = np.random.default_rng(1).standard_normal((1, 3, 11, 8)).astype("float32")
    return session.run(None, {"x": x})[0]


def attributes_of(proto):
    return {item.name: helper.get_attribute_value(item) for item in proto.graph.node[0].attribute}


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("Conv", {"strides": [2, 1]}),
        ("MaxPool", {"strides": [3, 2]}),
        ("AveragePool", {"strides": [2, 3], "count_include_pad": 1}),
    ],
)
def test_numbers_stay(operator, attributes, mode):
    proto = model(operator, mode, **attributes)
    expected = run(proto)
    make_padding_explicit(proto)
    assert "auto_pad" not in attributes_of(proto)
    assert len(attributes_of(proto)["pads"]) == 4
    np.testing.assert_allclose(run(proto), expected, rtol=1e-5, atol=1e-5)


def test_dilated_windows_reach_further():
    proto = model("Conv", "SAME_UPPER", dilations=[1, 2])  # which ONNX Runtime refuses
    make_padding_explicit(proto)
    assert attributes_of(proto)["pads"] == [1, 2, 2, 2]


def test_unknown_shapes_stay():
    proto = model("Conv", "SAME_UPPER")
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    before = onnx.ModelProto()
    before.CopyFrom(proto)
    make_padding_explicit(proto)
    assert proto == before
