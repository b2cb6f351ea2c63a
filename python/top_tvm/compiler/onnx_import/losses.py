"""Losses of classification: negative log likelihood, and cross entropy of a softmax.

Classes are compared with the labels rather than looked up, so no label can lead out of bounds: one
that is no class has the loss 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from tvm import relax

from top_tvm.compiler.onnx_import.node import Converted, Expr, Node, constant, dtype_of, shape_of
from top_tvm.compiler.onnx_import.widening import cast


def convert_negative_log_likelihood_loss(node: Node) -> Converted:
    """Minus the log probability of the label, weighted, and reduced over all elements."""
    wide = _wide(node.dtype(0))
    return cast(node, _loss(node, cast(node, node.input(0), wide)), node.dtype(0))


def convert_softmax_cross_entropy_loss(node: Node) -> Converted:
    """The same of scores, whose softmax the probabilities are; its second output is their log."""
    wide = _wide(node.dtype(0))
    scores = cast(node, node.input(0), wide)
    logarithms = node.emit(relax.op.nn.log_softmax(scores, 1))
    loss = cast(node, _loss(node, logarithms), node.dtype(0))
    return [loss, cast(node, logarithms, node.dtype(0)) if node.wants(1) else None]


def _wide(dtype: str) -> str:
    return "float64" if dtype == "float64" else "float32"


def _loss(node: Node, logarithms: Expr) -> Expr:
    shape, dtype = shape_of(logarithms), dtype_of(logarithms)
    if len(shape) < 2 or node.shape(1) != (shape[0], *shape[2:]):
        node.refuse(f"its labels of shape {node.shape(1)} do not fit its classes of shape {shape}")
    classes, zero = (shape[1], *(1,) * (len(shape) - 2)), node.scalar(0, dtype)
    labels = cast(node, node.input(1), "int64")
    ignored = node.attribute("ignore_index")
    counted = None
    if ignored is not None:
        counted = relax.op.not_equal(labels, node.scalar(int(ignored), "int64"))
    numbers = constant(np.arange(shape[1], dtype="int64").reshape(classes))
    hit = node.emit(relax.op.equal(relax.op.expand_dims(labels, 1), numbers))

    def chosen(values: Expr) -> Expr:
        """The value of the label."""
        return node.emit(relax.op.sum(relax.op.where(hit, values, zero), 1))

    weight = None
    if node.has(2):
        weight = chosen(relax.op.reshape(cast(node, node.input(2), dtype), classes))
    if counted is not None:
        ones = constant(np.ones(node.shape(1), dtype))
        weight = node.emit(relax.op.where(counted, ones if weight is None else weight, zero))
    loss = relax.op.negative(chosen(logarithms))
    if weight is not None:
        loss = relax.op.multiply(loss, weight)
    return _reduced(node, loss, weight)


def _reduced(node: Node, loss: Expr, weight: Expr | None) -> Expr:
    reduction = node.attribute("reduction", "mean")
    if reduction == "none":
        return loss
    if reduction == "sum":
        return relax.op.sum(loss)
    if reduction != "mean":
        node.refuse(f"its reduction is {reduction!r}, none of 'none', 'sum' and 'mean'")
    if weight is None:
        return relax.op.mean(loss)
    return relax.op.divide(relax.op.sum(loss), relax.op.sum(weight))


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "NegativeLogLikelihoodLoss": convert_negative_log_likelihood_loss,
    "SoftmaxCrossEntropyLoss": convert_softmax_cross_entropy_loss,
}
