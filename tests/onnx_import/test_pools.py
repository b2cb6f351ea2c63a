"""Pools of all kinds, against ONNX Runtime and plain NumPy."""

import itertools

import numpy as np
import pytest
from node_batch import NodeBatch
from onnx import TensorProto, helper

from top_tvm.compiler.frontend import import_onnx
from top_tvm.errors import ModelError

EXTENTS, WINDOW = (9, 8, 7), (3, 2, 3)


def numbers(*shape, dtype="float32"):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(dtype)


def attributes_of(rank):
    """Windows, strides, paddings, in many combinations."""
    strides, pads = [2, 1, 3][:rank], [1, 0, 2, 0, 1, 1][: 2 * rank]
    window = {"kernel_shape": list(WINDOW[:rank])}
    yield window
    yield {**window, "strides": strides, "pads": pads}
    for ceil in (0, 1):
        yield {**window, "strides": [4, 3, 2][:rank], "pads": [1] * 2 * rank, "ceil_mode": ceil}
    for mode in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        yield {**window, "strides": strides, "auto_pad": mode}
    yield {"kernel_shape": [2] * rank, "strides": [3] * rank, "ceil_mode": 1, "pads": [0, 1] * rank}


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_max_pool(rank):
    batch = NodeBatch(22)
    x = batch.given(numbers(2, 3, *EXTENTS[:rank]))
    for attributes in attributes_of(rank):
        batch.add("MaxPool", x, **attributes)
        batch.add("MaxPool", x, results=2, **attributes)
    window = {"kernel_shape": list(WINDOW[:rank]), "dilations": [2, 3, 2][:rank]}
    batch.add("MaxPool", x, **window, pads=[1] * 2 * rank)
    batch.add("MaxPool", x, results=2, **window, storage_order=1, strides=[2] * rank)
    batch.check()


def test_max_pool_takes_the_first_of_equal_values():
    batch = NodeBatch(17)
    ties = np.random.default_rng(0).integers(0, 2, (1, 2, 6, 6))
    for dtype in ("float32", "float64", "int8", "uint8"):
        x = batch.given(ties.astype(dtype))
        batch.add("MaxPool", x, results=2, kernel_shape=[3, 3], pads=[1] * 4)
    batch.check()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_average_pool(rank):
    batch = NodeBatch(22)
    data = numbers(2, 3, *EXTENTS[:rank])
    x = batch.given(data)
    expected = {}
    dilated = {"kernel_shape": [3] * rank, "dilations": [2] * rank, "pads": [1, 2] * rank}
    for attributes, include in itertools.product([*attributes_of(rank), dilated], (0, 1)):
        (name,) = batch.add("AveragePool", x, count_include_pad=include, **attributes)
        expected[name] = average(data, batch.nodes[-1])
    batch.check(expected, rtol=1e-5)


def average(data, node):
    """The definition, element by element; padding counts where it is asked for, not beyond it."""
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    window = attributes["kernel_shape"]
    rank = len(window)
    strides = attributes.get("strides", [1] * rank)
    dilations = attributes.get("dilations", [1] * rank)
    pads = attributes.get("pads", [0] * 2 * rank)
    mode = attributes.get("auto_pad", b"NOTSET").decode()
    lines = []
    for axis, extent in enumerate(data.shape[2:]):
        span = (window[axis] - 1) * dilations[axis] + 1
        begin, end = pads[axis], pads[rank + axis]
        count = (extent + begin + end - span) / strides[axis] + 1
        count = int(np.ceil(count) if attributes.get("ceil_mode") else np.floor(count))
        if mode.startswith("SAME"):
            count = -(-extent // strides[axis])
            total = max((count - 1) * strides[axis] + span - extent, 0)
            begin = total // 2 if mode == "SAME_UPPER" else total - total // 2
            end = total - begin
        elif (count - 1) * strides[axis] >= extent + begin:
            count -= 1
        low, high = (-begin, extent + end) if attributes["count_include_pad"] else (0, extent)
        starts = [index * strides[axis] - begin for index in range(count)]
        places = [[start + i * dilations[axis] for i in range(window[axis])] for start in starts]
        lines.append([[place for place in spot if low <= place < high] for spot in places])
    result = np.zeros((*data.shape[:2], *[len(line) for line in lines]), "float64")
    for index in itertools.product(*[range(len(line)) for line in lines]):
        spots = list(itertools.product(*[lines[axis][i] for axis, i in enumerate(index)]))
        for spot in spots:
            if all(0 <= place < extent for place, extent in zip(spot, data.shape[2:], strict=True)):
                result[(..., *index)] += data[(..., *spot)]
        result[(..., *index)] /= len(spots)
    return result.astype(data.dtype)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_lp_and_global_pools(rank):
    batch = NodeBatch(18)
    x = batch.given(numbers(2, 3, *EXTENTS[:rank]))
    for p in (1, 2, 3):
        batch.add("LpPool", x, kernel_shape=list(WINDOW[:rank]), p=p, pads=[1] * 2 * rank)
        batch.add("GlobalLpPool", x, p=p)
    batch.add("LpPool", x, kernel_shape=[2] * rank, auto_pad="SAME_UPPER", strides=[2] * rank)
    batch.add("GlobalAveragePool", x)
    batch.add("GlobalMaxPool", x)
    batch.check(rtol=1e-5)


def test_max_unpool():
    batch = NodeBatch(17)
    x = batch.given(numbers(2, 3, 8, 6))
    values, indices = batch.add("MaxPool", x, results=2, kernel_shape=[2, 2], strides=[2, 2])
    batch.add("MaxUnpool", values, indices, kernel_shape=[2, 2], strides=[2, 2])
    batch.check()


def test_max_unpool_writes_within_its_output():
    batch = NodeBatch(17)
    values = batch.given(np.asarray([[[[1.0, 2.0]]]], "float32"))
    batch.add("MaxUnpool", values, batch.given([[[[-7, 10**12]]]]), kernel_shape=[2, 2])
    (result,) = batch.run().values()
    np.testing.assert_array_equal(result.ravel(), [1, 0, 0, 0, 0, 2])


@pytest.mark.parametrize(
    ("shape", "attributes", "message"),
    [
        ((1, 1, 3, 3, 3, 3), {"kernel_shape": [1] * 4}, "pools of 4 spatial dimensions"),
        ((1, 1, 5), {"kernel_shape": [2], "pads": [2, 0]}, "hold padding only"),
        ((1, 1, 5), {"kernel_shape": [6]}, "is larger than the padded data of 5"),
    ],
)
def test_refusals(shape, attributes, message):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("MaxPool", ["x"], ["y"], name="first", **attributes)
    model = helper.make_model(helper.make_graph([node], "refused", [x], [y]))
    with pytest.raises(ModelError, match=rf"node 'first' \(MaxPool\): .*{message}"):
        import_onnx(model)
