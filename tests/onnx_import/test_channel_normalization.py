"""Normalisations of images and dropout, over opsets, ranks and types."""

import numpy as np
import pytest
from node_batch import NodeBatch
from onnx import TensorProto, helper

from top_tvm.compiler.frontend import import_onnx
from top_tvm.errors import ModelError


def numbers(*shape, dtype="float32"):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(dtype)


def statistics(channels, dtype="float32"):
    scale, shift, mean = numbers(4, channels, dtype=dtype)[:3]
    return scale, shift, mean, np.abs(numbers(channels, dtype=dtype)) + 1


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
def test_batch_normalization(opset):
    batch = NodeBatch(opset)
    for shape in ((2, 3), (2, 3, 5), (2, 3, 5, 4), (2, 3, 2, 3, 2)):
        x = batch.given(numbers(*shape))
        batch.add("BatchNormalization", x, *statistics(3), epsilon=1e-3)
        computed = [batch.given(values) for values in statistics(3)]
        batch.add("BatchNormalization", x, *computed)
    batch.check(rtol=1e-4)


def test_batch_normalization_in_training_mode():
    batch = NodeBatch(15)
    x = batch.given(numbers(4, 3, 5, 2))
    batch.add("BatchNormalization", x, *statistics(3), results=3, training_mode=1, momentum=0.7)
    batch.check(batch.reference(), rtol=1e-4)


def test_batch_normalization_of_half_precision():
    batch = NodeBatch(15)
    x = batch.given(numbers(2, 3, 4, 4, dtype="float16"))
    batch.add("BatchNormalization", x, *statistics(3))
    batch.check(batch.reference(), rtol=4e-3)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_instance_and_group_normalization(rank):
    shape = (2, 6, *(5, 4, 3)[:rank])
    instance = NodeBatch(17)
    x = instance.given(numbers(*shape) + 3)
    instance.add("InstanceNormalization", x, numbers(6), numbers(6), epsilon=1e-3)
    instance.add("InstanceNormalization", x, instance.given(numbers(6)), instance.given(numbers(6)))
    instance.check(rtol=1e-4)
    batch = NodeBatch(21)
    scale, shift = numbers(6), numbers(2, 6)[0]
    batch.add("GroupNormalization", batch.given(numbers(*shape) + 3), scale, shift, num_groups=3)
    grouped = batch.inputs["x0"].reshape(2, 3, -1).astype("float64")
    mean, variance = grouped.mean(-1, keepdims=True), grouped.var(-1, keepdims=True)
    normal = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(shape)
    scales = [values.reshape(6, *[1] * rank) for values in (scale, shift)]
    expected = normal * scales[0] + scales[1]
    batch.check({"y0": expected.astype("float32")}, rtol=1e-4)


def test_local_response_normalization():
    batch = NodeBatch(17)
    for shape in ((2, 7, 5, 4), (2, 7, 5), (1, 7, 2, 3, 2)):
        x = batch.given(numbers(*shape))
        for size in (3, 4) if len(shape) != 4 else (1, 3, 5):
            batch.add("LRN", x, size=size, alpha=0.3, beta=0.6, bias=1.5)
    expected = {
        name: local_response(batch.inputs[node.input[0]], node.attribute)
        for node in batch.nodes
        for name in node.output
    }
    batch.check(expected, rtol=1e-4)


def local_response(data, attributes):
    values = {item.name: helper.get_attribute_value(item) for item in attributes}
    square, total, size = data.astype("float64") ** 2, np.zeros(data.shape), values["size"]
    for channel in range(data.shape[1]):
        begin = max(channel - (size - 1) // 2, 0)
        total[:, channel] = square[:, begin : channel + size // 2 + 1].sum(1)
    scaled = values["bias"] + values["alpha"] / size * total
    return (data / scaled ** values["beta"]).astype(data.dtype)


def test_norms():
    batch = NodeBatch(17)
    x = batch.given(np.concatenate([numbers(1, 3, 4), np.zeros((1, 3, 4), "float32")]))
    for axis, p in ((0, 1), (1, 2), (-1, 1), (-1, 2)):
        batch.add("LpNormalization", x, axis=axis, p=p)
    batch.add("MeanVarianceNormalization", batch.given(numbers(2, 3, 4, 5)))
    batch.add("MeanVarianceNormalization", batch.given(numbers(2, 3, 4, 5)), axes=[1, 2])
    batch.check(rtol=1e-4)


@pytest.mark.parametrize(("opset", "mask"), [(7, "float32"), (10, "bool"), (12, "bool")])
def test_dropout_is_the_identity(opset, mask):
    batch = NodeBatch(opset)
    x = batch.given(numbers(2, 3))
    value, ones = batch.add("Dropout", x, results=2)
    batch.add("Relu", value)
    batch.outputs.remove(value)
    results = batch.run()
    assert results[ones].dtype == mask
    assert results[ones].all()
    np.testing.assert_array_equal(results["y2"], np.maximum(batch.inputs[x], 0))


def model_of(operator, inputs, opset=17, outputs=1, **attributes):
    infos = [helper.make_tensor_value_info(n, kind, shape) for n, kind, shape in inputs]
    names = [f"y{index}" for index in range(outputs)]
    node = helper.make_node(operator, [i.name for i in infos], names, name="first", **attributes)
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    graph = helper.make_graph([node], "refused", infos, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


X = ("x", TensorProto.FLOAT, (2, 3, 4))
VECTORS = [(name, TensorProto.FLOAT, (3,)) for name in "abcd"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (model_of("BatchNormalization", [X, *VECTORS], 8, spatial=0), "spatial=0"),
        (model_of("BatchNormalization", [X, *VECTORS], 9, outputs=5), "no results of inference"),
        (model_of("BatchNormalization", [X, *VECTORS], 6), r"training mode \(is_test=0\)"),
        (model_of("LpNormalization", [X], p=3), "p=3 is not supported, but 1 and 2"),
        (model_of("GroupNormalization", [X, *VECTORS[:2]], 21, num_groups=2), "no 2 groups"),
        (model_of("RandomNormalLike", [X]), "results are random.*make them inputs of the model"),
        (
            model_of("Dropout", [X, ("r", 1, ()), ("t", TensorProto.BOOL, ())]),
            "training_mode is computed at run time",
        ),
    ],
)
def test_refusals(model, message):
    with pytest.raises(ModelError, match=rf"node 'first' \(\w+\): .*{message}"):
        import_onnx(model)
