"""Activation functions, in the forms that oneDNN's epilogues are recognised by.

All but those that only choose between operands are widened; see
:mod:`~top_tvm.compiler.onnx_import.widening`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tvm import relax

from top_tvm.compiler.onnx_import.node import Converted, Expr, Node, dtype_of
from top_tvm.compiler.onnx_import.widening import cast, is_float, widened

_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875


def number(value: float, like: Expr) -> Expr:
    """A constant of the type of another value."""
    return relax.const(value, dtype_of(like))


def convert_relu(node: Node) -> Converted:
    """max(x, 0)."""
    if is_float(node.dtype(0)):
        return relax.op.nn.relu(node.input(0))
    return relax.op.maximum(node.input(0), node.scalar(0, node.dtype(0)))


def convert_leaky_relu(node: Node) -> Converted:
    """x, and alpha x below zero."""
    return relax.op.nn.leakyrelu(node.input(0), float(node.attribute("alpha", 0.01)))


def convert_prelu(node: Node) -> Converted:
    """x, and slope x below zero; the slope broadcasts to x, before version 7 along the channels."""
    data, slope, rank = node.input(0), node.input(1), node.rank(0)
    shape = node.shape(1)
    if node.opset < 7 and shape not in ((), (1,)):
        shape = (*shape, *(1,) * (rank - 1 - len(shape)))
    shape = (1,) * (rank - len(shape)) + shape
    wide = [axis for axis, extent in enumerate(shape) if extent > 1]
    if is_float(node.dtype(0)) and rank and len(wide) <= 1:
        axis = wide[0] if wide else rank - 1
        vector = relax.op.reshape(slope, (shape[axis],))
        return relax.op.nn.prelu(data, vector, axis)
    product = relax.op.multiply(data, relax.op.reshape(slope, shape) if rank else slope)
    return relax.op.where(relax.op.less(data, node.scalar(0, node.dtype(0))), product, data)


def convert_elu(node: Node) -> Converted:
    """x, and alpha (e^x - 1) below zero."""
    alpha = float(node.attribute("alpha", 1.0))
    return widened(node, lambda x: _elu(x, alpha), node.input(0))


def convert_selu(node: Node) -> Converted:
    """Gamma times ELU."""
    alpha = float(node.attribute("alpha", _SELU_ALPHA))
    gamma = float(node.attribute("gamma", _SELU_GAMMA))

    def compute(x: Expr) -> Expr:
        return relax.op.multiply(_elu(x, alpha), number(gamma, x))

    return widened(node, compute, node.input(0))


def convert_celu(node: Node) -> Converted:
    """x, and alpha (e^(x / alpha) - 1) below zero."""
    alpha = float(node.attribute("alpha", 1.0))
    return widened(node, lambda x: _elu(x, alpha, scale=1 / alpha), node.input(0))


def _elu(x: Expr, alpha: float, scale: float = 1.0) -> Expr:
    """Of parts that are 0 on either side: without a condition, it can be stored in bfloat16."""
    zero = number(0, x)
    below = relax.op.minimum(zero, x)  # in this order NaN stays
    if scale != 1:
        below = relax.op.multiply(below, number(scale, x))
    curve = relax.op.multiply(
        relax.op.subtract(relax.op.exp(below), number(1, x)), number(alpha, x)
    )
    return relax.op.add(relax.op.maximum(zero, x), curve)


def convert_thresholded_relu(node: Node) -> Converted:
    """Keep what is above alpha; the rest is 0."""
    data, dtype = node.input(0), node.dtype(0)
    alpha = node.scalar(float(node.attribute("alpha", 1.0)), dtype)
    return relax.op.where(relax.op.greater(data, alpha), data, node.scalar(0, dtype))


def convert_shrink(node: Node) -> Converted:
    """Move x by a bias towards zero where it is further away than lambda; the rest is 0."""
    data, dtype = node.input(0), node.dtype(0)
    bias, limit = (float(node.attribute(name, default)) for name, default in _SHRINK.items())
    wide = dtype if is_float(dtype) else "float64"
    x = cast(node, data, wide)
    shift, zero = node.scalar(bias, wide), node.scalar(0, wide)
    below = relax.op.where(
        relax.op.less(x, node.scalar(-limit, wide)), relax.op.add(x, shift), zero
    )
    above = relax.op.greater(x, node.scalar(limit, wide))
    return cast(node, relax.op.where(above, relax.op.subtract(x, shift), below), dtype)


_SHRINK = {"bias": 0.0, "lambd": 0.5}


def convert_hard_sigmoid(node: Node) -> Converted:
    """Alpha x + beta, clipped to 0 and 1."""
    x, dtype = node.input(0), node.dtype(0)
    alpha = node.scalar(float(node.attribute("alpha", 0.2)), dtype)
    beta = node.scalar(float(node.attribute("beta", 0.5)), dtype)
    return relax.op.clip(relax.op.add(relax.op.multiply(alpha, x), beta), 0, 1)


def convert_hard_swish(node: Node) -> Converted:
    """Hard sigmoid of slope 1 / 6, times x."""
    x, dtype = node.input(0), node.dtype(0)
    gate = relax.op.clip(relax.op.add(x, node.scalar(3, dtype)), 0, 6)
    return relax.op.multiply(x, relax.op.divide(gate, node.scalar(6, dtype)))


def convert_softplus(node: Node) -> Converted:
    """log(1 + e^x)."""
    return widened(node, softplus, node.input(0))


def convert_softsign(node: Node) -> Converted:
    """Compute x / (1 + abs x)."""
    x = node.input(0)
    return relax.op.divide(x, relax.op.add(node.scalar(1, node.dtype(0)), relax.op.abs(x)))


def convert_mish(node: Node) -> Converted:
    """Compute x tanh(softplus x)."""
    return widened(node, lambda x: relax.op.multiply(x, relax.op.tanh(softplus(x))), node.input(0))


def convert_swish(node: Node) -> Converted:
    """Compute x sigmoid(alpha x)."""
    alpha = float(node.attribute("alpha", 1.0))
    return widened(node, lambda x: swish(x, alpha), node.input(0))


def convert_gelu(node: Node) -> Converted:
    """Normal distribution function times x, or its approximation by tanh."""
    approximation = node.attribute("approximate", "none")
    if approximation not in ("none", "tanh"):
        node.refuse(f"its attribute approximate is {approximation!r}, neither 'none' nor 'tanh'")
    operator = relax.op.nn.gelu_tanh if approximation == "tanh" else relax.op.nn.gelu
    return widened(node, operator, node.input(0))


def softplus(x: Expr) -> Expr:
    """log(1 + e^x) in a form that does not overflow."""
    small = relax.op.exp(relax.op.negative(relax.op.abs(x)))
    rest = relax.op.log(relax.op.add(number(1, x), small))
    return relax.op.add(relax.op.maximum(number(0, x), x), rest)


def swish(x: Expr, alpha: float) -> Expr:
    """Compute x sigmoid(alpha x)."""
    scaled = x if alpha == 1 else relax.op.multiply(x, number(alpha, x))
    return relax.op.multiply(x, relax.op.sigmoid(scaled))


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "Celu": convert_celu,
    "Elu": convert_elu,
    "Gelu": convert_gelu,
    "HardSigmoid": convert_hard_sigmoid,
    "HardSwish": convert_hard_swish,
    "LeakyRelu": convert_leaky_relu,
    "Mish": convert_mish,
    "PRelu": convert_prelu,
    "Relu": convert_relu,
    "Selu": convert_selu,
    "Shrink": convert_shrink,
    "Softplus": convert_softplus,
    "Softsign": convert_softsign,
    "Swish": convert_swish,
    "ThresholdedRelu": convert_thresholded_relu,
}
