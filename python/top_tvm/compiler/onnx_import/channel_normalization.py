"""Normalisations of images: by batch, instance, group of channels, neighbours, and by a norm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tvm import relax

from top_tvm.compiler.onnx_import.node import (
    Converted,
    Expr,
    Node,
    constant,
    constant_of,
    dtype_of,
    shape_of,
)
from top_tvm.compiler.onnx_import.pools import raise_magnitude, take_root


def convert_batch_normalization(node: Node) -> Converted:
    """``BatchNormalization``: of inference; in training mode also the new statistics."""
    if node.opset < 9 and not node.attribute("spatial", 1):
        node.refuse("spatial=0, statistics for every element, is not supported")
    if node.opset < 7 and not node.attribute("is_test", 0):
        node.refuse("training mode (is_test=0) is not supported before opset 14")
    if node.rank(0) < 1:
        node.refuse("data of rank 0 has no channels")
    training = node.opset >= 14 and bool(node.attribute("training_mode", 0))
    if not training and any(node.wants(index) for index in range(1, 5)):
        node.refuse("the statistics of its training mode are no results of inference")
    dtype = node.dtype(0)
    parameters = [node.input(index) for index in range(1, 5)]
    if training:
        return _train(node, parameters)
    uniform = all(dtype_of(value) == dtype for value in parameters)
    known = all(constant_of(value) is not None for value in parameters)
    if uniform and known and node.rank(0) > 1:  # a scale and a shift, later
        whole = relax.op.nn.batch_norm(
            node.input(0), *parameters, axis=1, epsilon=float(node.attribute("epsilon", 1e-5))
        )
        return relax.TupleGetItem(node.emit(whole), 0)
    compute = _wide(dtype, *parameters)
    data = _cast(node, node.input(0), compute)
    scale, shift, mean, variance = (
        _channels(node, _cast(node, value, compute), node.rank(0)) for value in parameters
    )
    return _cast(node, _apply(node, data, scale, shift, mean, variance), dtype)


def convert_instance_normalization(node: Node) -> Converted:
    """``InstanceNormalization``: every channel of every instance by its own statistics."""
    rank, dtype = node.rank(0), node.dtype(0)
    if rank < 3:
        node.refuse(f"data of {rank} dimensions has no spatial ones")
    _check_statistics(node)
    data = _cast(node, node.input(0), _wide(dtype))
    result = _normalise(node, data, list(range(2, rank)), float(node.attribute("epsilon", 1e-5)))
    result = _cast(node, result, dtype)
    return _scale_and_shift(node, result, node.input(1), node.input(2))


def convert_group_normalization(node: Node) -> Converted:
    """``GroupNormalization``: scale and shift per group before opset 21, per channel from then."""
    shape, dtype = node.shape(0), node.dtype(0)
    groups = int(node.attribute("num_groups", 0))
    if len(shape) < 3 or groups < 1 or shape[1] % groups:
        node.refuse(f"data of shape {list(shape)} has no {groups} groups of channels")
    _check_statistics(node)
    data = _cast(node, node.input(0), _wide(dtype))
    split = [shape[0], groups, shape[1] // groups, *shape[2:]]
    grouped = node.emit(relax.op.reshape(data, split))
    axes = list(range(2, len(split)))
    normal = _normalise(node, grouped, axes, float(node.attribute("epsilon", 1e-5)))
    normal = _cast(node, normal, dtype)
    if node.opset < 21:
        normal = node.emit(_scale_and_shift(node, normal, node.input(1), node.input(2)))
        return relax.op.reshape(normal, shape)
    whole = node.emit(relax.op.reshape(normal, shape))
    return _scale_and_shift(node, whole, node.input(1), node.input(2))


def convert_lrn(node: Node) -> Converted:
    """``LRN``: by the squares of neighbouring channels."""
    shape, dtype = node.shape(0), node.dtype(0)
    size = int(node.attribute("size", 0))
    if len(shape) < 3 or size < 1 or 0 in shape:
        node.refuse(f"data of shape {list(shape)} has no windows of {size} channels")
    if len(shape) == 4:
        return _lrn(node, node.input(0), size)
    flat = [*shape[:2], 1, -1]
    data = node.emit(relax.op.reshape(node.input(0), flat))
    if dtype == "float16":  # squares soon leave its range
        data = _cast(node, data, "float32")
    result = node.emit(_lrn(node, data, size))
    return relax.op.reshape(_cast(node, result, dtype), shape)


def convert_lp_normalization(node: Node) -> Converted:
    """``LpNormalization``: vectors of zeros stay zeros."""
    data, dtype = node.input(0), node.dtype(0)
    axis = node.axis(int(node.attribute("axis", -1)), node.rank(0))
    power = int(node.attribute("p", 2))
    if power not in (1, 2):
        node.refuse(f"p={power} is not supported, but 1 and 2")
    raised = node.emit(raise_magnitude(node, data, power))
    total = node.emit(relax.op.sum(raised, axis=[axis], keepdims=True))
    norm = node.emit(take_root(node, total, power))
    none = node.emit(relax.op.equal(norm, node.scalar(0, dtype)))
    divisor = node.emit(relax.op.where(none, node.scalar(1, dtype), norm))
    return relax.op.divide(data, divisor)


def _lrn(node: Node, data: Expr, size: int) -> Expr:
    """Of four dimensions, in the form that oneDNN's primitive is recognised by."""
    dtype = dtype_of(data)
    square = node.emit(relax.op.multiply(data, data))
    expanded = node.emit(relax.op.expand_dims(square, axis=1))
    average = relax.op.nn.avg_pool3d(
        expanded,
        pool_size=(size, 1, 1),
        strides=(1, 1, 1),
        padding=((size - 1) // 2, 0, 0, size // 2, 0, 0),
        count_include_pad=True,
    )
    mean = node.emit(relax.op.squeeze(node.emit(average), axis=[1]))
    alpha = node.scalar(float(node.attribute("alpha", 1e-4)), dtype)
    bias = node.scalar(float(node.attribute("bias", 1.0)), dtype)
    beta = node.scalar(float(node.attribute("beta", 0.75)), dtype)
    scaled = node.emit(relax.op.add(node.emit(relax.op.multiply(mean, alpha)), bias))
    return relax.op.divide(data, node.emit(relax.op.power(scaled, beta)))


def _train(node: Node, parameters: Sequence[Expr]) -> list[Expr]:
    """Normalise by the statistics of the batch; they move the running ones."""
    rank, dtype = node.rank(0), node.dtype(0)
    compute = _wide(dtype, *parameters)
    data = _cast(node, node.input(0), compute)
    axes = [axis for axis in range(rank) if axis != 1]
    mean = node.emit(relax.op.mean(data, axis=axes, keepdims=True))
    centred = node.emit(relax.op.subtract(data, mean))
    square = node.emit(relax.op.multiply(centred, centred))
    variance = node.emit(relax.op.mean(square, axis=axes, keepdims=True))
    scale, shift = (_channels(node, _cast(node, value, compute), rank) for value in parameters[:2])
    results = [_cast(node, _apply(node, data, scale, shift, mean, variance), dtype)]
    momentum = float(node.attribute("momentum", 0.9))
    for value, found in zip(parameters[2:], (mean, variance), strict=True):
        vector = node.emit(relax.op.reshape(found, shape_of(value)))
        kept = relax.op.multiply(_cast(node, value, compute), node.scalar(momentum, compute))
        moved = relax.op.multiply(vector, node.scalar(1 - momentum, compute))
        total = node.emit(relax.op.add(node.emit(kept), node.emit(moved)))
        results.append(_cast(node, total, dtype_of(value)))
    return results


def _apply(node: Node, data: Expr, scale: Expr, shift: Expr, mean: Expr, variance: Expr) -> Expr:
    epsilon = node.scalar(float(node.attribute("epsilon", 1e-5)), dtype_of(variance))
    deviation = node.emit(relax.op.sqrt(node.emit(relax.op.add(variance, epsilon))))
    factor = node.emit(relax.op.divide(scale, deviation))
    centred = node.emit(relax.op.subtract(data, mean))
    return node.emit(relax.op.add(node.emit(relax.op.multiply(centred, factor)), shift))


def _check_statistics(node: Node) -> None:
    if 0 in node.shape(0):
        node.refuse("statistics of empty tensors do not exist")


def _normalise(node: Node, data: Expr, axes: Sequence[int], epsilon: float) -> Expr:
    """Mean 0 and variance 1 over the axes."""
    mean = node.emit(relax.op.mean(data, axis=list(axes), keepdims=True))
    centred = node.emit(relax.op.subtract(data, mean))
    square = node.emit(relax.op.multiply(centred, centred))
    variance = node.emit(relax.op.mean(square, axis=list(axes), keepdims=True))
    total = node.emit(relax.op.add(variance, node.scalar(epsilon, dtype_of(data))))
    return node.emit(relax.op.divide(centred, node.emit(relax.op.sqrt(total))))


def _scale_and_shift(node: Node, data: Expr, scale: Expr, shift: Expr) -> Expr:
    rank = len(shape_of(data))
    scaled = node.emit(relax.op.multiply(data, _channels(node, scale, rank)))
    return relax.op.add(scaled, _channels(node, shift, rank))


def _channels(node: Node, vector: Expr, rank: int) -> Expr:
    """A vector turned along axis 1."""
    shape = [1, -1, *[1] * (rank - 2)] if rank > 1 else [1]
    known = constant_of(vector)
    if known is not None:
        return constant(known.reshape(shape))
    return node.emit(relax.op.reshape(vector, shape))


def _wide(dtype: str, *others: Expr) -> str:
    """Type to compute statistics in: half precision is not enough."""
    types = {dtype, *(dtype_of(other) for other in others)}
    return "float64" if "float64" in types else "float32"


def _cast(node: Node, value: Expr, dtype: str) -> Expr:
    if dtype_of(value) == dtype:
        return value
    known = constant_of(value)
    if known is not None:
        return constant(known.astype(dtype))
    return node.emit(relax.op.astype(value, dtype))


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "BatchNormalization": convert_batch_normalization,
    "GroupNormalization": convert_group_normalization,
    "InstanceNormalization": convert_instance_normalization,
    "LRN": convert_lrn,
    "LpNormalization": convert_lp_normalization,
}
