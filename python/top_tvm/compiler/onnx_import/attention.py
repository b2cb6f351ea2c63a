"""Scaled dot-product attention.

The standard defines it by some sixty nodes, with factors on both operands and a bias that is added
even where it is zero. Here it is two products, which take the factor and a mask along, and a
softmax. Types of 16 bits are computed in float32 and rounded at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import helper
from tvm import relax

from top_tvm.compiler.onnx_import.node import (
    Array,
    Converted,
    Expr,
    Node,
    constant,
    constant_of,
    dtype_of,
    shape_of,
)

# Instead of -inf: a row of that gives NaN in a softmax, even where the row is replaced afterwards.
_MASKED = -1e38
_RAW, _CAPPED, _BIASED, _SOFTMAX = range(4)


def convert_attention(node: Node) -> Converted:
    """Attention of 3-D or 4-D queries, keys and values."""
    if node.has(4) != node.has(5):
        node.refuse("past_key and past_value must be given together")
    if node.has(6) and node.has(4):
        node.refuse("nonpad_kv_seqlen cannot be combined with past_key and past_value")
    rank, dtype = node.rank(0), node.dtype(0)
    query = _heads(node, 0, "q_num_heads")
    key = _with_past(node, _heads(node, 1, "kv_num_heads"), 4)
    value = _with_past(node, _heads(node, 2, "kv_num_heads"), 5)
    present = [_cast(node, key, node.dtype(1)), _cast(node, value, node.dtype(2))]
    wide = "float64" if dtype == "float64" else "float32"
    query, key, value = (_cast(node, operand, wide) for operand in (query, key, value))
    batch, _, length, _ = shape_of(query)
    scores = _Scores(node, wide, batch, length, shape_of(key)[2])
    weights, kept = scores.softmax(_product_with_keys(node, query, key))
    result = _product_with_values(node, weights, value)
    if scores.dead_rows is not None:
        zero = node.scalar(0, wide)
        result = node.emit(relax.op.where(scores.dead_rows, zero, result))
    if rank == 3:
        batch, heads, length, size = shape_of(result)
        result = node.emit(relax.op.permute_dims(result, [0, 2, 1, 3]))
        result = node.emit(relax.op.reshape(result, (batch, length, heads * size)))
    return [
        _cast(node, result, dtype),
        *present,
        None if kept is None else _cast(node, kept, dtype),
    ]


def _heads(node: Node, index: int, attribute: str) -> Expr:
    """An operand as (batch, heads, length, size)."""
    shape = node.shape(index)
    if len(shape) == 4:
        return node.input(index)
    count = int(node.attribute(attribute, 0))
    if len(shape) != 3 or count <= 0 or shape[2] % count:
        node.refuse(f"input {index} of shape {shape} has no {attribute}={count} heads")
    split = relax.op.reshape(node.input(index), (*shape[:2], count, shape[2] // count))
    return node.emit(relax.op.permute_dims(node.emit(split), [0, 2, 1, 3]))


def _with_past(node: Node, now: Expr, index: int) -> Expr:
    if not node.has(index) or node.shape(index)[2] == 0:
        return now
    return node.emit(relax.op.concat([node.input(index), now], 2))


def _grouped(node: Node, query: Expr, key: Expr) -> Expr:
    """Queries that share keys, (batch, key heads, queries of all their heads, size)."""
    (batch, heads, length, size), key_heads = shape_of(query), shape_of(key)[1]
    if heads == key_heads:
        return query
    if heads % key_heads:
        node.refuse(f"{heads} heads of queries cannot share {key_heads} heads of keys")
    rows = heads // key_heads * length
    return node.emit(relax.op.reshape(query, (batch, key_heads, rows, size)))


def _product_with_keys(node: Node, query: Expr, key: Expr) -> Expr:
    """Scaled scores, (batch, heads, queries, keys)."""
    size = shape_of(query)[3]
    scale = float(node.attribute("scale", 0) or 1 / math.sqrt(size))
    grouped = _grouped(node, query, key)
    keys = node.emit(relax.op.permute_dims(key, [0, 1, 3, 2]))
    product = node.emit(relax.op.matmul(grouped, keys))
    scaled = node.emit(relax.op.multiply(product, node.scalar(scale, dtype_of(query))))
    return node.emit(relax.op.reshape(scaled, (*shape_of(query)[:3], shape_of(key)[2])))


def _product_with_values(node: Node, weights: Expr, value: Expr) -> Expr:
    grouped = _grouped(node, weights, value)
    result = node.emit(relax.op.matmul(grouped, value))
    return node.emit(relax.op.reshape(result, (*shape_of(weights)[:3], shape_of(value)[3])))


@dataclass
class _Scores:
    """From scores to weights: cap, bias, softmax.

    ``dead_rows`` says, after :meth:`softmax`, which rows have no key that they may attend, or is
    None where there is no such row: their results are zero.
    """

    node: Node
    dtype: str
    batch: int
    queries: int
    keys: int
    dead_rows: Expr | None = None

    def softmax(self, scores: Expr) -> tuple[Expr, Expr | None]:
        """Weights, and what the node's fourth output wants."""
        node, mode = self.node, int(self.node.attribute("qk_matmul_output_mode", 0))
        kept = {_RAW: scores}
        cap = float(node.attribute("softcap", 0))
        if cap > 0:
            limit = node.scalar(cap, self.dtype)
            ratio = node.emit(relax.op.tanh(node.emit(relax.op.divide(scores, limit))))
            scores = node.emit(relax.op.multiply(ratio, limit))
        kept[_CAPPED] = kept[_BIASED] = scores
        bias = self._bias()
        if bias is not None:
            if mode == _BIASED and node.wants(3):
                kept[_BIASED] = node.emit(relax.op.add(scores, bias))
            scores = node.emit(relax.op.add(scores, self._finite(bias)))
        weights = self._in_precision(scores)
        kept[_SOFTMAX] = weights
        if mode == _SOFTMAX and node.wants(3) and self.dead_rows is not None:
            zero = node.scalar(0, self.dtype)
            kept[_SOFTMAX] = node.emit(relax.op.where(self.dead_rows, zero, weights))
        if mode not in kept:
            node.refuse(f"qk_matmul_output_mode={mode} does not exist")
        return weights, kept[mode] if node.wants(3) else None

    def _in_precision(self, scores: Expr) -> Expr:
        """Softmax in the type that the node names."""
        node, number = self.node, int(self.node.attribute("softmax_precision", 0))
        name = self.dtype if not number else helper.tensor_dtype_to_np_dtype(number).name
        if name not in ("float16", "bfloat16", "float32", "float64"):
            node.refuse(f"softmax_precision={number} is no floating point type")
        if name == "float64" or self.dtype == "float64":
            scores = _cast(node, _cast(node, scores, name), "float64")
        elif name != "float32" and node.dtype(0) == "float32":
            scores = _cast(node, _cast(node, scores, name), "float32")
        return _cast(node, node.emit(relax.op.nn.softmax(scores, -1)), self.dtype)

    def _finite(self, bias: Expr) -> Expr:
        """The bias with a lowest value; finds the rows that consist of it."""
        node, known = self.node, constant_of(bias)
        if known is not None:
            dead = np.all(np.isneginf(known), -1, keepdims=True)
            self.dead_rows = constant(dead) if dead.any() else None
            return constant(np.maximum(known, _MASKED).astype(known.dtype))
        bias = node.emit(relax.op.maximum(bias, node.scalar(_MASKED, self.dtype)))
        highest = node.emit(relax.op.max(bias, -1, keepdims=True))
        self.dead_rows = node.emit(relax.op.less_equal(highest, node.scalar(_MASKED, self.dtype)))
        return bias

    def _bias(self) -> Expr | None:
        """Sum of all masks, which broadcasts to the scores; None where there is none."""
        biases = (self._mask(), self._positions(), self._padding())
        found = [bias for bias in biases if bias is not None]
        if not found:
            return None
        total = found[0]
        for bias in found[1:]:
            total = self._sum(total, bias)
        return total

    def _sum(self, one: Expr, other: Expr) -> Expr:
        known = constant_of(one), constant_of(other)
        if known[0] is not None and known[1] is not None:
            return constant(known[0] + known[1])
        return self.node.emit(relax.op.add(one, other))

    def _mask(self) -> Expr | None:
        """The mask of the node as something to add, as long as the keys."""
        node = self.node
        if not node.has(3):
            return None
        mask = node.input(3)
        boolean = node.dtype(3) == "bool"
        missing = self.keys - node.shape(3)[-1]
        if missing > 0:
            fill = np.full((*node.shape(3)[:-1], missing), False if boolean else -np.inf)
            rest = constant(fill.astype(np.bool_) if boolean else fill.astype(np.float32))
            rest = rest if boolean else _cast(node, rest, node.dtype(3))
            mask = node.emit(relax.op.concat([mask, rest], -1))
        known = constant_of(node.input(3))
        if known is not None and missing <= 0:
            if boolean:
                return self._allowed(known)
            return constant(known.astype(self.dtype))
        return self._where(mask) if boolean else _cast(node, mask, self.dtype)

    def _allowed(self, allowed: Array) -> Expr:
        return constant(np.where(allowed, 0, -np.inf).astype(self.dtype))

    def _where(self, allowed: Expr) -> Expr:
        zero, masked = self.node.scalar(0, self.dtype), self.node.scalar(-np.inf, self.dtype)
        return self.node.emit(relax.op.where(allowed, zero, masked))

    def _positions(self) -> Expr | None:
        """Bias of what the distance between query and key rules out."""
        node = self.node
        left = int(node.attribute("left_window_size", -1))
        right = int(node.attribute("right_window_size", -1))
        if node.attribute("is_causal", 0):
            right = 0
        if left < 0 and right < 0:
            return None
        past = node.shape(4)[2] if node.has(4) else 0
        distance = np.arange(self.queries)[:, None] + past - np.arange(self.keys)[None, :]
        if not node.has(6):
            allowed = np.ones_like(distance, np.bool_)
            if left >= 0:
                allowed &= distance <= left
            if right >= 0:
                allowed &= -distance <= right
            return self._allowed(allowed)
        # The last of the queries is at the last key that is no padding, in each sample.
        lengths = node.emit(relax.op.reshape(self._lengths(), (self.batch, 1, 1, 1)))
        distances = constant(distance[None, None] - self.queries)
        distances = node.emit(relax.op.add(lengths, distances))
        bias = None
        if left >= 0:
            bias = self._where(relax.op.less_equal(distances, node.scalar(left, "int64")))
        if right >= 0:
            limit = node.scalar(-right, "int64")
            behind = self._where(relax.op.greater_equal(distances, limit))
            bias = behind if bias is None else self._sum(bias, behind)
        return bias

    def _lengths(self) -> Expr:
        return _cast(self.node, self.node.input(6), "int64")

    def _padding(self) -> Expr | None:
        """Bias of keys behind the length of their sample."""
        node = self.node
        if not node.has(6):
            return None
        lengths = node.emit(relax.op.reshape(self._lengths(), (self.batch, 1, 1, 1)))
        return self._where(relax.op.less(constant(np.arange(self.keys)), lengths))


def _cast(node: Node, value: Expr, dtype: str) -> Expr:
    if dtype_of(value) == dtype:
        return value
    known = constant_of(value)
    if known is None:
        return node.emit(relax.op.astype(value, dtype))
    return constant(known.astype(np.dtype(dtype)))


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {"Attention": convert_attention}
