"""Operators of ONNX Runtime that its optimiser and some exporters write.

They are of the domain ``com.microsoft``. Layer normalisations in the standard domain that are older
than the standard's are moved there when a model is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from tvm import relax

from top_tvm.compiler.onnx_import.activations import convert_gelu, swish
from top_tvm.compiler.onnx_import.layer_normalization import convert_layer_normalization
from top_tvm.compiler.onnx_import.node import Converted, Expr, Node, constant, dtype_of
from top_tvm.compiler.onnx_import.products import matmul, scaled, transposed
from top_tvm.compiler.onnx_import.widening import cast, widened

_DOMAIN = "com.microsoft"


def convert_biased_gelu(node: Node) -> Converted:
    """Gelu of x plus a bias."""
    return widened(node, relax.op.nn.gelu, _biased(node))


def convert_fast_gelu(node: Node) -> Converted:
    """Gelu by tanh of x, plus a bias where there is one."""
    return widened(node, relax.op.nn.gelu_tanh, _biased(node))


def _biased(node: Node) -> Expr:
    data = node.input(0)
    return node.emit(relax.op.add(data, node.input(1))) if node.has(1) else data


def convert_quick_gelu(node: Node) -> Converted:
    """Compute x sigmoid(alpha x)."""
    alpha = float(node.attribute("alpha", 1.702))
    return widened(node, lambda x: swish(x, alpha), node.input(0))


def convert_fused_matmul(node: Node) -> Converted:
    """Alpha A B, of which the last two axes of A and B may be swapped."""
    operands = [node.input(0), node.input(1)]
    for index, name in enumerate("AB"):
        if node.attribute(f"transBatch{name}", 0):
            node.refuse(f"its attribute transBatch{name} is not supported")
        if node.attribute(f"trans{name}", 0) and node.rank(index) > 1:
            operands[index] = transposed(node, operands[index])
    return scaled(node, node.emit(matmul(node, *operands)), "alpha")


def convert_skip_layer_normalization(node: Node) -> Converted:
    """Layer normalisation of a sum over the last axis; the sum is the fourth output."""
    total, dtype = _sum(node, bias=4), node.dtype(0)
    if node.wants(1) or node.wants(2):
        node.refuse("its outputs mean and inv_std_var are not supported")
    zeros = constant(np.zeros(node.shape(2), dtype))
    shift = node.input(3) if node.has(3) else zeros
    epsilon = float(node.attribute("epsilon", 1e-12))

    def compute(x: Expr, scale: Expr, shift: Expr) -> Expr:
        return relax.op.nn.layer_norm(x, scale, shift, [-1], epsilon)

    return [widened(node, compute, total, node.input(2), shift), None, None, total]


def convert_skip_simplified_layer_normalization(node: Node) -> Converted:
    """The same by the root of the mean square, without a shift."""
    total = _sum(node, bias=3)
    if node.wants(1) or node.wants(2):
        node.refuse("its outputs mean and inv_std_var are not supported")
    return [_simplified(node, total, node.input(2), [-1])[0], None, None, total]


def convert_simplified_layer_normalization(node: Node) -> Converted:
    """``x / sqrt(mean(x ** 2) + epsilon) * scale``, and the inverse root on demand."""
    rank = node.rank(0)
    axis = node.axis(int(node.attribute("axis", -1)), rank)
    normalised, inverse = _simplified(node, node.input(0), node.input(1), [*range(axis, rank)])
    return [normalised, inverse]


def _sum(node: Node, bias: int) -> Expr:
    total = node.emit(relax.op.add(node.input(0), node.input(1)))
    return node.emit(relax.op.add(total, node.input(bias))) if node.has(bias) else total


def _simplified(node: Node, data: Expr, scale: Expr, axes: list[int]) -> tuple[Expr, Expr]:
    dtype = dtype_of(data)
    wide = "float64" if dtype == "float64" else "float32"
    x = cast(node, data, wide)
    square = relax.op.mean(relax.op.multiply(x, x), axes, keepdims=True)
    epsilon = node.scalar(float(node.attribute("epsilon", 1e-5)), wide)
    one = node.scalar(1, wide)
    inverse = node.emit(relax.op.divide(one, relax.op.sqrt(relax.op.add(square, epsilon))))
    normalised = cast(node, relax.op.multiply(x, inverse), dtype_of(scale))
    return node.emit(relax.op.multiply(normalised, scale)), inverse


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    f"{_DOMAIN}.BiasGelu": convert_biased_gelu,
    f"{_DOMAIN}.FastGelu": convert_fast_gelu,
    f"{_DOMAIN}.FusedMatMul": convert_fused_matmul,
    f"{_DOMAIN}.Gelu": convert_gelu,
    f"{_DOMAIN}.LayerNormalization": convert_layer_normalization,
    f"{_DOMAIN}.QuickGelu": convert_quick_gelu,
    f"{_DOMAIN}.SimplifiedLayerNormalization": convert_simplified_layer_normalization,
    f"{_DOMAIN}.SkipLayerNormalization": convert_skip_layer_normalization,
    f"{_DOMAIN}.SkipSimplifiedLayerNormalization": convert_skip_simplified_layer_normalization,
}
