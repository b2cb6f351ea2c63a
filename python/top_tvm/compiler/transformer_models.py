"""Two transformers as PyTorch exports them, with seeded random weights.

BERT-small (4 layers, hidden size 512, 8 heads; Turc et al., 2019, arXiv:1908.08962) and ViT-S/16
(12 layers, hidden size 384, 6 heads; Touvron et al., 2021, arXiv:2012.12877) are written node by
node as ``torch.onnx.export`` writes them at opset 17: linear layers as MatMul and Add with the bias
first, GELU by Erf, attention with the scale on queries and keys, shapes computed from the symbolic
batch. Weights have the variance of Glorot and Bengio (2010), so that outputs depend on all inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from top_tvm.errors import ModelError

Array = npt.NDArray[Any]

BERT_TOKENS, BERT_VOCABULARY = 128, 30522
VIT_IMAGE, VIT_PATCH, VIT_CLASSES = 224, 16, 1000


def transformer_model(
    name: str, batch: int | str = "batch", layers: int | None = None, seed: int = 0
) -> onnx.ModelProto:
    """Build a transformer.

    Parameters
    ----------
    name : {"bert_small", "vit_small"}
        BERT takes ``input_ids`` and ``attention_mask``, int64 of shape (batch, 128), and gives
        ``last_hidden_state`` and ``pooler_output``; ViT takes ``pixel_values``, float32 of shape
        (batch, 3, 224, 224), and gives ``logits``.
    batch : int or str
        Size of the leading dimension, or its name where it is left open.
    layers : int, optional
        Fewer encoder layers than the real model has, for tests.
    seed : int
        Seed of the weights.

    Raises
    ------
    ModelError
        If there is no such model.
    """
    if name not in _BUILDERS:
        raise ModelError(f"no transformer {name!r}; there are: {', '.join(_BUILDERS)}")
    model = _BUILDERS[name](_Graph(seed), batch, layers)
    onnx.checker.check_model(model)
    return model


def _bert_small(graph: _Graph, batch: int | str, layers: int | None) -> onnx.ModelProto:
    tokens, hidden, heads = BERT_TOKENS, 512, 8
    ids, mask = "input_ids", "attention_mask"
    words = graph.node("Gather", graph.normal((BERT_VOCABULARY, hidden)), ids)
    segments = graph.node("Add", words, graph.normal((1, 1, hidden)))
    x = graph.layer_norm(graph.node("Add", segments, graph.normal((1, tokens, hidden))), hidden)
    # 0 where a token may be seen and -10000 where not, as in the original BERT.
    seen = graph.node("Unsqueeze", mask, graph.integers(1))
    seen = graph.node(
        "Cast", graph.node("Unsqueeze", seen, graph.integers(2)), to=TensorProto.FLOAT
    )
    bias = graph.node("Mul", graph.node("Sub", graph.scalar(1.0), seen), graph.scalar(-1e4))
    for _ in range(layers or 4):
        attended = graph.attention(x, tokens, hidden, heads, bias)
        x = graph.layer_norm(graph.node("Add", attended, x), hidden)
        x = graph.layer_norm(graph.node("Add", graph.feed_forward(x, hidden), x), hidden)
    first = graph.node("Gather", x, graph.index(0), axis=1)
    pooled = graph.node("Tanh", graph.classifier(first, hidden, hidden))
    return graph.model(
        "bert_small",
        {ids: (TensorProto.INT64, (batch, tokens)), mask: (TensorProto.INT64, (batch, tokens))},
        {
            "last_hidden_state": (x, (batch, tokens, hidden)),
            "pooler_output": (pooled, (batch, hidden)),
        },
    )


def _vit_small(graph: _Graph, batch: int | str, layers: int | None) -> onnx.ModelProto:
    hidden, heads, side = 384, 6, VIT_IMAGE // VIT_PATCH
    image, tokens = "pixel_values", side * side + 1
    kernel = graph.weight((hidden, 3, VIT_PATCH, VIT_PATCH), 3 * VIT_PATCH**2, hidden)
    steps = [VIT_PATCH, VIT_PATCH]
    patches = graph.node(
        "Conv", image, kernel, graph.bias(hidden), kernel_shape=steps, strides=steps
    )
    patches = graph.node("Reshape", patches, graph.shape(image, hidden, side * side))
    patches = graph.node("Transpose", patches, perm=[0, 2, 1])
    label = graph.node("Expand", graph.normal((1, 1, hidden)), graph.shape(image, 1, hidden))
    x = graph.node("Concat", label, patches, axis=1)
    x = graph.node("Add", x, graph.normal((1, tokens, hidden)))
    for _ in range(layers or 12):
        attended = graph.attention(graph.layer_norm(x, hidden), tokens, hidden, heads)
        x = graph.node("Add", attended, x)
        x = graph.node("Add", graph.feed_forward(graph.layer_norm(x, hidden), hidden), x)
    first = graph.node("Gather", graph.layer_norm(x, hidden), graph.index(0), axis=1)
    logits = graph.classifier(first, hidden, VIT_CLASSES)
    shape = (batch, 3, VIT_IMAGE, VIT_IMAGE)
    return graph.model(
        "vit_small",
        {image: (TensorProto.FLOAT, shape)},
        {"logits": (logits, (batch, VIT_CLASSES))},
    )


class _Graph:
    """Nodes and initializers that have been added so far; values are passed by their names."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op_type}_{len(self._nodes)}"
        output = f"{name}_output_0"
        self._nodes.append(helper.make_node(op_type, inputs, [output], name, **attributes))
        return output

    def constant(self, value: Array) -> str:
        name = f"weight_{len(self._initializers)}"
        self._initializers.append(numpy_helper.from_array(value, name))
        return name

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def index(self, value: int) -> str:
        return self.constant(np.array(value, np.int64))

    def normal(self, shape: tuple[int, ...], scale: float = 1.0) -> str:
        noise = self._generator.standard_normal(shape, dtype=np.float32)
        return self.constant(noise * np.float32(scale))

    def weight(self, shape: tuple[int, ...], fan_in: int, fan_out: int) -> str:
        return self.normal(shape, float(np.sqrt(2.0 / (fan_in + fan_out))))

    def bias(self, size: int) -> str:
        return self.normal((size,), 0.05)

    def shape(self, source: str, *sizes: int) -> str:
        """Batch size of ``source``, followed by the sizes given."""
        batch = self.node("Gather", self.node("Shape", source), self.index(0), axis=0)
        batch = self.node("Unsqueeze", batch, self.integers(0))
        return self.node("Concat", batch, *(self.integers(size) for size in sizes), axis=0)

    def linear(self, x: str, fan_in: int, fan_out: int) -> str:
        product = self.node("MatMul", x, self.weight((fan_in, fan_out), fan_in, fan_out))
        return self.node("Add", self.bias(fan_out), product)

    def classifier(self, x: str, fan_in: int, fan_out: int) -> str:
        weight = self.weight((fan_out, fan_in), fan_in, fan_out)
        return self.node("Gemm", x, weight, self.bias(fan_out), transB=1)

    def layer_norm(self, x: str, hidden: int) -> str:
        noise = self._generator.standard_normal(hidden, dtype=np.float32)
        scale = self.constant(np.float32(1.0) + np.float32(0.1) * noise)
        inputs = (x, scale, self.bias(hidden))
        return self.node("LayerNormalization", *inputs, axis=-1, epsilon=1e-5)

    def gelu(self, x: str) -> str:
        erf = self.node("Erf", self.node("Div", x, self.scalar(float(np.sqrt(2.0)))))
        product = self.node("Mul", x, self.node("Add", erf, self.scalar(1.0)))
        return self.node("Mul", product, self.scalar(0.5))

    def feed_forward(self, x: str, hidden: int) -> str:
        return self.linear(self.gelu(self.linear(x, hidden, 4 * hidden)), 4 * hidden, hidden)

    def attention(
        self, x: str, tokens: int, hidden: int, heads: int, bias: str | None = None
    ) -> str:
        size = hidden // heads
        scale = self.scalar(size**-0.25)

        def split(perm: list[int]) -> str:
            projected = self.linear(x, hidden, hidden)
            shape = self.shape(x, tokens, heads, size)
            return self.node("Transpose", self.node("Reshape", projected, shape), perm=perm)

        query = self.node("Mul", split([0, 2, 1, 3]), scale)
        key = self.node("Mul", split([0, 2, 3, 1]), scale)
        value = split([0, 2, 1, 3])
        scores = self.node("MatMul", query, key)
        if bias is not None:
            scores = self.node("Add", scores, bias)
        mixed = self.node("MatMul", self.node("Softmax", scores, axis=-1), value)
        mixed = self.node("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = self.node("Reshape", mixed, self.shape(mixed, tokens, hidden))
        return self.linear(mixed, hidden, hidden)

    def model(
        self,
        name: str,
        inputs: dict[str, tuple[int, tuple[int | str, ...]]],
        outputs: dict[str, tuple[str, tuple[int | str, ...]]],
    ) -> onnx.ModelProto:
        given = [helper.make_tensor_value_info(key, *value) for key, value in inputs.items()]
        results = []
        for key, (value, shape) in outputs.items():
            self._nodes.append(helper.make_node("Identity", [value], [key]))
            results.append(helper.make_tensor_value_info(key, TensorProto.FLOAT, shape))
        graph = helper.make_graph(self._nodes, name, given, results, self._initializers)
        opsets = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


_BUILDERS: dict[str, Callable[[_Graph, int | str, int | None], onnx.ModelProto]] = {
    "bert_small": _bert_small,
    "vit_small": _vit_small,
}
TRANSFORMER_MODELS = tuple(_BUILDERS)
