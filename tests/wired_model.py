"""A large network of randomly wired cells, as RandWire and NASNet have, for what must scale."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def wired_model(cells=34, nodes=18, channels=16, size=8, seed=0):
    """``cells`` cells of ``nodes`` randomly wired 1x1 or 3x3 convolutions, each behind the last.

    A node convolves the sum of one to three earlier nodes of its cell (Xie et al., "Exploring
    Randomly Wired Neural Networks", ICCV 2019); a cell ends in the sum of what no node has read.
    Input ``data`` (1, channels, size, size), output ``features`` of the same shape.
    """
    random = np.random.default_rng(seed)
    onnx_nodes, weights = [], []

    def add(kind, inputs, output, **attributes):
        onnx_nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def total(names, output):
        for index, name in enumerate(names[1:]):
            names[0] = add("Add", [names[0], name], f"{output}_add{index}")
        return names[0]

    source = "data"
    for cell in range(cells):
        values, unread = [source], {source}
        for node in range(nodes):
            name = f"cell{cell}_node{node}"
            recent = values[-6:]
            count = min(len(recent), int(random.integers(1, 4)))
            chosen = [str(value) for value in random.choice(recent, count, replace=False)]
            unread -= set(chosen)
            kernel = int(random.choice([1, 3]))
            shape = (channels, channels, kernel, kernel)
            weight = random.standard_normal(shape) / np.sqrt(channels * kernel * kernel)
            weights.append(numpy_helper.from_array(weight.astype("float32"), f"{name}_w"))
            inputs = [total(chosen, name), f"{name}_w"]
            values.append(add("Conv", inputs, name, pads=[kernel // 2] * 4))
            unread.add(name)
        # The sums of a deep network must not grow.
        summed = total([value for value in values if value in unread], f"cell{cell}_sum")
        source = add("Tanh", [summed], f"cell{cell}" if cell < cells - 1 else "features")
    shape = [1, channels, size, size]
    graph = helper.make_graph(
        onnx_nodes,
        "wired",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model
