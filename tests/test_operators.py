"""Random operators with random epilogues give the numbers of ONNX Runtime."""

import math

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from top_tvm.compiler.build import compile_model, make_plan
from top_tvm.compiler.partition import PARTITIONERS
from top_tvm.compiler.partition.problem import OpCost, PartitionProblem
from top_tvm.weights import aligned

CHANNELS = (1, 3, 8, 16, 17)
EXAMPLES = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


class Graph:
    """Nodes of a model under construction; ``apply`` returns the name of a result."""

    def __init__(self, shape):
        self.shape = shape
        self.nodes, self.weights = [], []
        self.random = np.random.default_rng(0)

    def apply(self, operator, *inputs, **attributes):
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, values):
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def shape_constant(self, extents):
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(extents, np.int64), name))
        return name

    def weight(self, *shape, low=None):
        values = self.random.standard_normal(shape) if low is None else self.random.random(shape)
        return self.constant(values + (low or 0))

    def model(self, result):
        graph = helper.make_graph(
            self.nodes,
            "operators",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def gelu(graph, x):
    error = graph.apply("Erf", graph.apply("Div", x, graph.constant(math.sqrt(2))))
    whole = graph.apply("Mul", x, graph.apply("Add", error, graph.constant(1)))
    return graph.apply("Mul", whole, graph.constant(0.5))


def gelu_by_tanh(graph, x):
    cube = graph.apply("Mul", x, graph.apply("Mul", x, x))
    inner = graph.apply("Add", x, graph.apply("Mul", cube, graph.constant(0.044715)))
    tanh = graph.apply("Tanh", graph.apply("Mul", inner, graph.constant(math.sqrt(2 / math.pi))))
    half = graph.apply("Mul", x, graph.constant(0.5))
    return graph.apply("Mul", half, graph.apply("Add", tanh, graph.constant(1)))


ACTIVATIONS = {
    "none": lambda graph, x: x,
    "relu": lambda graph, x: graph.apply("Relu", x),
    "leaky relu": lambda graph, x: graph.apply("LeakyRelu", x, alpha=0.1),
    "relu6": lambda graph, x: graph.apply("Clip", x, graph.constant(0), graph.constant(6)),
    "lower bound": lambda graph, x: graph.apply("Clip", x, graph.constant(-0.25)),
    "sigmoid": lambda graph, x: graph.apply("Sigmoid", x),
    "tanh": lambda graph, x: graph.apply("Tanh", x),
    "gelu": gelu,
    "gelu by tanh": gelu_by_tanh,
    "silu": lambda graph, x: graph.apply("Mul", x, graph.apply("Sigmoid", x)),
    "hard swish": lambda graph, x: graph.apply("HardSwish", x),
    "hard sigmoid": lambda graph, x: graph.apply("HardSigmoid", x, alpha=0.2, beta=0.5),
    "elu": lambda graph, x: graph.apply("Elu", x),  # which no primitive has
}


@st.composite
def epilogues(draw):
    """Where a residual is added and which activation follows."""
    return draw(st.sampled_from(["none", "before", "after"])), draw(st.sampled_from([*ACTIVATIONS]))


def finish(graph, product, epilogue):
    """The epilogue on ``product()``, whose second call gives the residual."""
    residual, activation = epilogue
    result = product()
    if residual == "before":
        result = graph.apply("Add", result, product())
    result = ACTIVATIONS[activation](graph, result)
    return graph.apply("Add", product(), result) if residual == "after" else result


@st.composite
def windows(draw, rank):
    """Attributes of convolutions and pools: window, strides, dilations and paddings."""

    def each(values):
        return [draw(values) for _ in range(rank)]

    kernel = each(st.integers(1, 4))
    attributes = {"kernel_shape": kernel, "strides": each(st.integers(1, 4))}
    automatic = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if automatic == "NOTSET":
        pads = [draw(st.integers(0, size - 1)) for size in kernel + kernel]
        return {**attributes, "pads": pads, "dilations": each(st.integers(1, 2))}
    # ONNX Runtime computes a negative padding where windows leave out elements.
    strides = [min(pair) for pair in zip(attributes["strides"], kernel, strict=True)]
    return {**attributes, "strides": strides, "auto_pad": automatic}


@st.composite
def convolutions(draw):
    rank = draw(st.sampled_from([1, 2, 2]))
    attributes = draw(windows(rank))
    transposed = draw(st.booleans())
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    inputs, outputs = (draw(st.sampled_from(CHANNELS)) * groups for _ in range(2))
    if draw(st.booleans()) and not transposed:  # depthwise
        groups = inputs = outputs
    if transposed:
        attributes.pop("auto_pad", None)  # of which the importer knows nothing
        attributes["pads"] = [
            draw(st.integers(0, (size - 1) // 2)) for size in attributes["kernel_shape"] * 2
        ]
        attributes.pop("dilations", None)
    shape = (draw(st.integers(1, 2)), inputs, *(draw(st.integers(7, 12)) for _ in range(rank)))
    first, second = (inputs, outputs) if transposed else (outputs, inputs)
    graph = Graph(shape)
    has_bias = draw(st.booleans())

    def product():
        weights = [graph.weight(first, second // groups, *attributes["kernel_shape"])]
        if has_bias:
            weights.append(graph.weight(outputs))
        operator = "ConvTranspose" if transposed else "Conv"
        return graph.apply(operator, "x", *weights, group=groups, **attributes)

    return graph.model(finish(graph, product, draw(epilogues()))), shape


@st.composite
def matrix_products(draw):
    batch = draw(st.sampled_from([(), (3,), (2, 3)]))
    rows, inner, columns = (draw(st.sampled_from([1, 3, 8, 17])) for _ in range(3))
    shape = (*batch, rows, inner)
    graph = Graph(shape)
    other = draw(st.sampled_from(["constant", "constant batches", "input"]))
    scale, bias = draw(st.sampled_from([1, 0.125])), draw(st.booleans())

    def product():
        if other == "input":  # x times its own transpose
            order = [*range(len(batch)), len(batch) + 1, len(batch)]
            result = graph.apply("MatMul", "x", graph.apply("Transpose", "x", perm=order))
        else:
            batches = batch[-1:] if other == "constant batches" else ()
            result = graph.apply("MatMul", "x", graph.weight(*batches, inner, columns))
        if scale != 1:
            result = graph.apply("Mul", result, graph.constant(scale))
        width = rows if other == "input" else columns
        return graph.apply("Add", result, graph.weight(width)) if bias else result

    return graph.model(finish(graph, product, draw(epilogues()))), shape


def pool(draw, graph, data, rank):
    attributes = draw(windows(rank))
    operator = draw(st.sampled_from(["MaxPool", "AveragePool", "GlobalAveragePool"]))
    if operator == "GlobalAveragePool":
        return graph.apply(operator, data)
    if operator == "AveragePool":
        attributes.pop("dilations", None)
        attributes["count_include_pad"] = draw(st.integers(0, 1))
    elif draw(st.booleans()) and "pads" in attributes:
        attributes["ceil_mode"] = 1
    return graph.apply(operator, data, **attributes)


def normalisation(draw, graph, data, channels):
    operator = draw(st.sampled_from(["LRN", "Softmax", "LayerNormalization"]))
    if operator == "LRN":
        size = draw(st.sampled_from([3, 5]))
        return graph.apply(operator, data, size=size, alpha=0.5, beta=0.75, bias=1.5)
    rows = graph.apply("Transpose", data, perm=[0, 2, 3, 1])
    if operator == "Softmax":
        return graph.apply(operator, rows, axis=-1)
    return graph.apply(operator, rows, graph.weight(channels), graph.weight(channels), axis=-1)


@st.composite
def pools_and_normalisations(draw):
    rank = draw(st.sampled_from([1, 2, 2]))
    channels = draw(st.sampled_from(CHANNELS))
    shape = (draw(st.integers(1, 2)), 3, *(draw(st.integers(8, 12)) for _ in range(rank)))
    graph = Graph(shape)
    weight = graph.weight(channels, 3, *[1] * rank)
    data = graph.apply("Conv", "x", weight, kernel_shape=[1] * rank)
    if rank == 1 or draw(st.booleans()):
        return graph.model(pool(draw, graph, data, rank)), shape
    return graph.model(normalisation(draw, graph, data, channels)), shape


def linear(graph, x, inputs, outputs):
    weight = graph.constant(graph.random.standard_normal((inputs, outputs)) / math.sqrt(inputs))
    return graph.apply("Add", graph.apply("MatMul", x, weight), graph.weight(outputs))


def layer_norm(graph, x, columns):
    """Of parts, as PyTorch's exporter writes it before opset 17."""
    centred = graph.apply("Sub", x, graph.apply("ReduceMean", x, axes=[-1]))
    square = graph.apply("Pow", centred, graph.constant(2))
    variance = graph.apply("ReduceMean", square, axes=[-1])
    deviation = graph.apply("Sqrt", graph.apply("Add", variance, graph.constant(1e-5)))
    y = graph.apply("Mul", graph.apply("Div", centred, deviation), graph.weight(columns, low=0.5))
    return graph.apply("Add", y, graph.weight(columns))


def transformer_block(batch, rows, heads, width):
    columns = heads * width
    shape = (batch, rows, columns)
    graph = Graph(shape)

    def head(order):
        split = graph.shape_constant([batch, rows, heads, width])
        y = graph.apply("Reshape", linear(graph, "x", columns, columns), split)
        return graph.apply("Transpose", y, perm=order)

    query, key, value = head([0, 2, 1, 3]), head([0, 2, 3, 1]), head([0, 2, 1, 3])
    scores = graph.apply("MatMul", query, key)
    scores = graph.apply("Div", scores, graph.constant(math.sqrt(width)))
    mixed = graph.apply("MatMul", graph.apply("Softmax", scores, axis=-1), value)
    mixed = graph.apply("Transpose", mixed, perm=[0, 2, 1, 3])
    merged = graph.apply("Reshape", mixed, graph.shape_constant(shape))
    attended = graph.apply("Add", linear(graph, merged, columns, columns), "x")
    x = layer_norm(graph, attended, columns)
    inner = gelu(graph, linear(graph, x, columns, 2 * columns))
    y = graph.apply("Add", linear(graph, inner, 2 * columns, columns), x)
    return graph.model(layer_norm(graph, y, columns)), shape


def check(case, partitioner, gang_is_faster):
    model, shape = case
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = aligned(np.random.default_rng(1).standard_normal(shape).astype("float32"))
    (expected,) = session.run(None, {"x": x})
    compilation = compile_model(model)
    (compiled,) = compilation.graphs
    graph = compiled.extracted.graph
    gang_us = 2.0 if gang_is_faster else 100.0
    costs = tuple(
        OpCost(10.0, gang_us=gang_us if op.kernel.moldable else math.inf) for op in graph.ops
    )
    problem = PartitionProblem(tuple(graph.edges()), costs, compilation.device)
    plan = make_plan(compiled, problem, partitioner, PARTITIONERS[partitioner](problem))
    executor = compilation.session.executor(plan)
    scale = float(np.abs(expected).max())
    for _ in range(2):
        (output,) = executor.run([x])
        np.testing.assert_allclose(output, expected, rtol=1e-3, atol=2e-5 * scale + 1e-6)
    return graph


partitioners = st.sampled_from(["sequential", "greedy", "ios"])


@EXAMPLES
@given(convolutions(), partitioners, st.booleans())
def test_convolutions(case, partitioner, gang_is_faster):
    check(case, partitioner, gang_is_faster)


@EXAMPLES
@given(matrix_products(), partitioners, st.booleans())
def test_matrix_products(case, partitioner, gang_is_faster):
    check(case, partitioner, gang_is_faster)


@EXAMPLES
@given(pools_and_normalisations(), partitioners, st.booleans())
def test_pools_and_normalisations(case, partitioner, gang_is_faster):
    check(case, partitioner, gang_is_faster)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("partitioner", ["sequential", "ios"])
def test_transformer_block_consists_of_primitives(batch, partitioner):
    graph = check(transformer_block(batch, 9, 3, 8), partitioner, partitioner == "sequential")
    origins = sorted(op.origin.partition(" ")[2] for op in graph.ops)
    assert origins == [
        "24->24 + bias",
        "24->24 + bias",
        "24->24 + bias",
        "24->24 + bias + residual",
        "24->48 + bias + gelu_erf",
        "48->24 + bias + residual",
        "8->9 + linear",
        "9->8",
        "of 9",
        "over 24",
        "over 24",
    ]
