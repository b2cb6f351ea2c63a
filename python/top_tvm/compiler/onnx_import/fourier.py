"""Fourier transforms as products with matrices of cosines and sines.

For the lengths that networks use, a product is as fast as it gets: oneDNN executes it. Real and
imaginary parts lie next to each other, so a complex transform is one real product, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np
from tvm import relax

from top_tvm.compiler.onnx_import.node import (
    Array,
    Converted,
    Expr,
    Node,
    constant,
    dtype_of,
)

_MAX_MATRIX_BYTES = 1 << 28


def convert_dft(node: Node) -> Converted:
    """Transform along an axis; the last axis holds real and imaginary parts."""
    shape = node.shape(0)
    rank, parts = len(shape), _parts(node, 0)
    if node.opset < 20:
        axis = int(node.attribute("axis", 1))
    else:
        axis = node.integers(2, "axis")[0] if node.has(2) else -2
    axis = node.axis(axis, rank)
    if axis == rank - 1:
        node.refuse("its axis is that of real and imaginary parts")
    inverse, onesided = bool(node.attribute("inverse", 0)), bool(node.attribute("onesided", 0))
    if onesided and parts != (2 if inverse else 1):
        kind = "complex" if inverse else "real"
        node.refuse(f"a onesided transform in this direction needs {kind} input")
    length = 2 * (shape[axis] - 1) if inverse and onesided else shape[axis]
    if node.has(1):
        length = node.integers(1, "dft_length")[0]
    if length < 1 or 0 in shape:
        node.refuse(f"there is no transform of {length} values of an input of shape {shape}")
    _check_size(node, shape[axis], length)
    if inverse and onesided:
        matrix = _inverse_of_half(shape[axis], length)
    else:
        matrix = _transform(shape[axis], length, parts, inverse, onesided)
    # The rows of the product are all signals; a row is a signal with its parts.
    order = [*(other for other in range(rank - 1) if other != axis), axis, rank - 1]
    rows = [shape[other] for other in order[:-2]]
    data = _wide(node, node.input(0))
    if order != list(range(rank)):
        data = node.emit(relax.op.permute_dims(data, order))
    result = _product(node, data, (prod(rows), shape[axis] * parts), matrix)
    result = node.emit(relax.op.reshape(result, (*rows, *matrix.shape[2:])))
    if order != list(range(rank)):
        result = node.emit(relax.op.permute_dims(result, [order.index(i) for i in range(rank)]))
    return _narrow(node, result)


def convert_stft(node: Node) -> Converted:
    """Transforms of the windows of a signal of shape (batch, positions, parts)."""
    shape, parts = node.shape(0), _parts(node, 0)
    if len(shape) != 3 or 0 in shape:
        node.refuse(f"its signal has shape {shape}; it needs batch, positions and parts")
    step = node.integers(1, "frame_step")[0]
    length = node.shape(2)[0] if node.has(2) else shape[1]
    if node.has(3):
        length = node.integers(3, "frame_length")[0]
    if node.has(2) and node.shape(2) != (length,):
        node.refuse(f"its window has shape {node.shape(2)}, its frames have length {length}")
    if step < 1 or not 0 < length <= shape[1]:
        node.refuse(f"frames of {length} every {step} do not fit a signal of {shape[1]}")
    onesided = bool(node.attribute("onesided", 1)) and parts == 1
    _check_size(node, length, length)
    matrix = _transform(length, length, parts, False, onesided)
    count = 1 + (shape[1] - length) // step
    positions = np.arange(count)[:, None] * step + np.arange(length)
    frames = relax.op.take(_wide(node, node.input(0)), constant(positions), 1)
    frames = node.emit(frames)
    if node.has(2):
        window = node.emit(relax.op.reshape(_wide(node, node.input(2)), (length, 1)))
        frames = node.emit(relax.op.multiply(frames, window))
    result = _product(node, frames, (shape[0] * count, length * parts), matrix)
    return _narrow(node, relax.op.reshape(result, (shape[0], count, *matrix.shape[2:])))


def _parts(node: Node, index: int) -> int:
    """1 for real, 2 for complex numbers."""
    shape = node.shape(index)
    if len(shape) < 2 or shape[-1] not in (1, 2):
        node.refuse(f"the last axis of its input must be 1 or 2 long; its shape is {shape}")
    return shape[-1]


def _check_size(node: Node, positions: int, length: int) -> None:
    if 16 * positions * length > _MAX_MATRIX_BYTES:
        node.refuse(
            f"a transform of {length} values is a product with a matrix, which is too big here"
        )


def _angles(positions: int, frequencies: int, length: int) -> Array:
    turns = np.outer(np.arange(positions), np.arange(frequencies)) % length
    return np.asarray(2 * np.pi * turns / length)


def _transform(positions: int, length: int, parts: int, inverse: bool, onesided: bool) -> Array:
    """Matrix of shape (positions, parts, frequencies, 2); what is behind ``length`` is cut off."""
    angles = _angles(positions, length // 2 + 1 if onesided else length, length)
    cosine, sine = np.cos(angles), np.sin(angles) if inverse else -np.sin(angles)
    matrix = np.stack([cosine, sine], -1)[:, None]
    if parts == 2:
        matrix = np.concatenate([matrix, np.stack([-sine, cosine], -1)[:, None]], 1)
    matrix[length:] = 0
    return np.asarray(matrix / length if inverse else matrix)


def _inverse_of_half(frequencies: int, length: int) -> Array:
    """Matrix of shape (frequencies, 2, positions, 1): the other half is the conjugate."""
    angles = _angles(frequencies, length, length)
    twice = np.full((frequencies, 1), 2.0)
    twice[0] = 1
    twice[length // 2 + 1 :] = 0
    if length % 2 == 0:
        twice[length // 2 : length // 2 + 1] = 1
    parts = np.stack([np.cos(angles), -np.sin(angles)], 1)
    return np.asarray(parts * twice[..., None] / length)[..., None]


def _product(node: Node, data: Expr, shape: tuple[int, int], matrix: Array) -> Expr:
    flat = matrix.reshape(shape[1], -1).astype(np.dtype(dtype_of(data)))
    rows = node.emit(relax.op.reshape(data, shape))
    return node.emit(relax.op.matmul(rows, constant(flat)))


def _wide(node: Node, value: Expr) -> Expr:
    """Of a type to compute in."""
    if dtype_of(value) in ("float32", "float64"):
        return value
    return node.emit(relax.op.astype(value, "float32"))


def _narrow(node: Node, value: Expr) -> Expr:
    value = node.emit(value)
    dtype = node.dtype(0)
    return value if dtype_of(value) == dtype else node.emit(relax.op.astype(value, dtype))


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "DFT": convert_dft,
    "STFT": convert_stft,
}
