"""Activations, softmax and losses in all types and versions."""

import math

import numpy as np
import pytest
from node_batch import NodeBatch
from onnx import helper

from top_tvm.compiler.build import compile_model
from top_tvm.errors import ModelError

FLOATS = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-12}
POINTS = np.concatenate([np.linspace(-9, 9, 37), [-80, -0.5, 0.5, 80, 700]])
SELU_ALPHA, SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875
erf = np.vectorize(math.erf, otypes=[float])


def check(batch, expected, rtol=0.0):
    batch.check(dict(zip(batch.outputs, expected, strict=True)), rtol)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.logaddexp(0, x)


def elu(x, alpha):
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


ACTIVATIONS = [
    ("Celu", {"alpha": 2.0}, lambda x: np.where(x < 0, 2 * np.expm1(np.minimum(x, 0) / 2), x)),
    ("Elu", {"alpha": 1.5}, lambda x: elu(x, 1.5)),
    ("Gelu", {}, lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2)))),
    (
        "Gelu",
        {"approximate": "tanh"},
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    ("HardSigmoid", {"alpha": 0.25, "beta": 0.5}, lambda x: np.clip(0.25 * x + 0.5, 0, 1)),
    ("HardSwish", {}, lambda x: x * np.clip(x + 3, 0, 6) / 6),
    ("LeakyRelu", {"alpha": 0.25}, lambda x: np.where(x < 0, 0.25 * x, x)),
    ("Mish", {}, lambda x: x * np.tanh(softplus(x))),
    ("Relu", {}, lambda x: np.maximum(x, 0)),
    ("Selu", {}, lambda x: SELU_GAMMA * elu(x, SELU_ALPHA)),
    ("Selu", {"alpha": 2.0, "gamma": 0.5}, lambda x: 0.5 * elu(x, 2.0)),
    (
        "Shrink",
        {"bias": 1.5, "lambd": 2.0},
        lambda x: np.where(x < -2, x + 1.5, np.where(x > 2, x - 1.5, 0)),
    ),
    ("Softplus", {}, softplus),
    ("Softsign", {}, lambda x: x / (1 + np.abs(x))),
    ("ThresholdedRelu", {"alpha": 2.0}, lambda x: np.where(x > 2, x, 0)),
]


@pytest.mark.parametrize("dtype", FLOATS)
def test_activations(dtype):
    data = POINTS.astype(dtype).reshape(2, 3, 7)
    batch, expected = NodeBatch(opset=22), []
    x = batch.given(data)
    with np.errstate(all="ignore"):
        for operator, attributes, function in ACTIVATIONS:
            if operator == "Celu" and dtype != "float32":
                continue  # which came later
            batch.add(operator, x, **attributes)
            expected.append(function(data.astype("float64")).astype(dtype))
    check(batch, expected, FLOATS[dtype])


def test_activations_keep_nan():
    data = np.array([np.nan, 1], "float32")
    batch = NodeBatch(opset=20)
    x = batch.given(data)
    for operator in ("Elu", "Selu", "LeakyRelu", "Sigmoid", "Softplus", "Softsign", "Gelu"):
        batch.add(operator, x)
    for name, result in batch.run().items():
        assert np.isnan(result).tolist() == [True, False], name


def test_swish_came_with_version_24():
    data = POINTS.astype("float32")
    batch = NodeBatch(opset=24)
    x = batch.given(data)
    batch.add("Swish", x)
    batch.add("Swish", x, alpha=1.5)
    wide = data.astype("float64")
    with np.errstate(over="ignore"):
        expected = [wide * sigmoid(wide), wide * sigmoid(1.5 * wide)]
    check(batch, [values.astype("float32") for values in expected], 3e-6)


def test_slopes_broadcast():
    data = np.linspace(-3, 3, 24, dtype="float32").reshape(2, 3, 4)
    slopes = [
        np.array(0.5),
        np.array([0.25]),
        np.array([0.1, 0.2, 0.3, 0.4]),
        np.array([[0.1], [0.2], [0.3]]),
        np.arange(12).reshape(3, 4) / 10,
        np.arange(24).reshape(2, 3, 4) / 10,
    ]
    batch, expected = NodeBatch(opset=16), []
    x = batch.given(data)
    for slope in slopes:
        batch.add("PRelu", x, slope.astype("float32"))
        batch.add("PRelu", x, batch.given(slope.astype("float32")))
        expected += [np.where(data < 0, data * slope.astype("float32"), data)] * 2
    whole = np.arange(-3, 3, dtype="int32")
    batch.add("PRelu", batch.given(whole), np.array([2], "int32"))
    batch.add("Relu", batch.given(whole))
    check(batch, [*expected, np.where(whole < 0, 2 * whole, whole), np.maximum(whole, 0)], 1e-6)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax", "Hardmax"])
def test_softmax_changed_its_axes(operator, opset):
    data = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype("float32")
    batch = NodeBatch(opset=opset)
    x = batch.given(data)
    for axis in (-4, -1, 0, 1, 2, 3):
        batch.add(operator, x, axis=axis)
    batch.add(operator, x)
    batch.check(rtol=1e-5)


def test_softmax_of_extremes_and_half_precision():
    data = np.array([[1e4, 0, -1e4], [3e38, 3e38, 1]], "float32")
    half = np.array([[6e4, 5e4, 1], [1, 2, 3]], "float16")
    batch = NodeBatch(opset=13)
    x, y = batch.given(data), batch.given(half)
    batch.add("Softmax", x)
    batch.add("LogSoftmax", x)
    batch.add("Softmax", y)
    wide = half.astype("float64")
    powers = np.exp(wide - wide.max(-1, keepdims=True))
    check(
        batch,
        [
            np.array([[1, 0, 0], [0.5, 0.5, 0]], "float32"),
            np.array([[0, -1e4, -2e4], [-math.log(2), -math.log(2), -3e38]], "float32"),
            (powers / powers.sum(-1, keepdims=True)).astype("float16"),
        ],
        1e-3,
    )


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_labels_that_are_no_classes_have_no_loss(reduction):
    random = np.random.default_rng(0)
    scores = random.standard_normal((3, 4, 2)).astype("float32")
    labels = np.array([[0, 3], [-7, 2], [99, 1]], "int64")
    weights = np.array([1, 2, 3, 4], "float32")
    batch = NodeBatch(opset=13)
    x, target = batch.given(scores), batch.given(labels)
    batch.add("SoftmaxCrossEntropyLoss", x, target, weights, reduction=reduction, results=2)
    batch.add("NegativeLogLikelihoodLoss", x, target, reduction=reduction, ignore_index=2)
    logarithms = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    known = (labels >= 0) & (labels < 4)
    safe = np.where(known, labels, 0)[:, None]

    def reduced(values, weight):
        loss = np.where(known, -np.take_along_axis(values, safe, 1)[:, 0], 0) * weight
        total = loss.sum() / weight.sum() if reduction == "mean" else loss.sum()
        return loss if reduction == "none" else total.astype("float32")

    weight = np.where(known, weights[safe[:, 0]], 0).astype("float32")
    counted = (labels != 2).astype("float32")
    check(batch, [reduced(logarithms, weight), logarithms, reduced(scores, counted)], 1e-5)


class ContribBatch(NodeBatch):
    """Nodes of ONNX Runtime's own domain."""

    def add(self, operator, *operands, domain="com.microsoft", **attributes):
        return super().add(operator, *operands, domain=domain, **attributes)


def test_contrib_operators():
    random = np.random.default_rng(0)

    def normal(*shape):
        return random.standard_normal(shape).astype("float32")

    batch = ContribBatch(opset=16)
    x, y = batch.given(normal(2, 3, 8)), batch.given(normal(2, 3, 8))
    batch.add("Gelu", x)
    batch.add("FastGelu", x)
    batch.add("FastGelu", x, normal(8))
    batch.add("BiasGelu", x, normal(8))
    batch.add("QuickGelu", x)
    batch.add("QuickGelu", x, alpha=1.0)
    batch.add("FusedMatMul", x, y, transB=1, alpha=0.5)
    batch.add("FusedMatMul", x, y, transA=1)
    scale, shift, bias = normal(8), normal(8), normal(8)
    total = batch.add("SkipLayerNormalization", x, y, scale, shift, bias, epsilon=1e-5)
    batch.add("SkipLayerNormalization", *total, y, scale)
    batch.add("SkipSimplifiedLayerNormalization", x, y, scale, bias)
    batch.check(rtol=1e-4)


def test_layer_normalisations_older_than_the_standards():
    data = np.random.default_rng(0).standard_normal((2, 3, 8)).astype("float32")
    scale, shift = data[0, 0], data[0, 1]
    batch = NodeBatch(opset=16)
    x = batch.given(data)
    batch.add("SimplifiedLayerNormalization", x, scale, axis=-1, epsilon=1e-5)
    batch.add("LayerNormalization", x, scale, shift, axis=-1, epsilon=1e-5)
    batch.check(rtol=1e-4)


def test_sums_of_skip_layer_normalisations_are_outputs():
    data = np.linspace(-1, 1, 24, dtype="float32").reshape(1, 3, 8)
    scale = np.ones(8, "float32")
    batch = ContribBatch(opset=16)
    x = batch.given(data)
    operands = [x, x, batch.constant(scale)]
    node = helper.make_node(
        "SkipLayerNormalization", operands, ["y", "", "", "sum"], domain="com.microsoft"
    )
    batch.nodes.append(node)
    batch.outputs += ["y", "sum"]
    results, expected = batch.run(), batch.expected()
    for name in batch.outputs:
        np.testing.assert_allclose(results[name], expected[name], rtol=1e-4, atol=1e-5)


def test_unknown_domains_are_named():
    batch = ContribBatch(opset=16)
    batch.add("NoSuchOperator", batch.given(np.zeros(3, "float32")))
    with pytest.raises(ModelError, match=r"unsupported operators: com\.microsoft\.NoSuchOperator"):
        compile_model(batch.model())
