"""A small branching network, for tests that need a whole model but not a big one."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def small_model(batch=1, size=16, seed=0):
    """Stem, two branches, concatenation, pooling, classifier; ``batch`` may be a symbol.

    Input ``data`` (batch, 3, size, size), output ``scores`` (batch, 10).
    """
    random = np.random.default_rng(seed)
    weights = []

    def weight(name, *shape):
        values = random.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
        weights.append(numpy_helper.from_array(values.astype("float32"), name))
        return name

    nodes = [
        _conv("data", weight("stem_w", 16, 3, 3, 3), "stem", pads=1),
        helper.make_node("Relu", ["stem"], ["stem_relu"]),
        _conv("stem_relu", weight("left_w", 16, 16, 1, 1), "left", pads=0),
        _conv("stem_relu", weight("right_w", 24, 16, 3, 3), "right", pads=1),
        helper.make_node("Relu", ["right"], ["right_relu"]),
        helper.make_node("Concat", ["left", "right_relu"], ["joined"], axis=1),
        helper.make_node("GlobalAveragePool", ["joined"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node(
            "Gemm", ["flat", weight("fc_w", 10, 40), weight("fc_b", 10)], ["scores"], transB=1
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 10])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def _conv(data, weight, output, pads):
    return helper.make_node("Conv", [data, weight], [output], pads=[pads] * 4)
