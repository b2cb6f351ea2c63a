"""Operators that change the shape of a tensor, or ask for it; elements stay what they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from tvm import relax

from top_tvm.compiler.onnx_import.node import Converted, Node, constant


def convert_shape(node: Node) -> Converted:
    """All shapes are static: this one, and all that is computed from it, is a constant."""
    shape = node.shape(0)
    begin, end = node.attribute("start", 0), node.attribute("end", len(shape))
    return constant(np.asarray(shape[slice(begin, end)], np.int64))


def convert_size(node: Node) -> Converted:
    """Number of elements."""
    return constant(np.asarray(math.prod(node.shape(0)), np.int64))


def convert_reshape(node: Node) -> Converted:
    """Reshape: 0 keeps an extent (unless ``allowzero``), -1 is what is left."""
    shape, wanted = node.shape(0), node.integers(1, "shape")
    extents = []
    for axis, extent in enumerate(wanted):
        if extent == 0 and not node.attribute("allowzero", 0):
            if axis >= len(shape):
                node.refuse(f"its shape {wanted} keeps axis {axis} of a tensor of shape {shape}")
            extent = shape[axis]
        extents.append(extent)
    if extents.count(-1) == 1:
        known = -math.prod(extents)
        extents[extents.index(-1)] = math.prod(shape) // known if known else 0
    if any(extent < 0 for extent in extents) or math.prod(extents) != math.prod(shape):
        node.refuse(f"a tensor of shape {shape} cannot have the shape {wanted}")
    return relax.op.reshape(node.input(0), extents)


def convert_flatten(node: Node) -> Converted:
    """A matrix: the axes before ``axis`` are its rows, the others its columns."""
    shape, axis = node.shape(0), int(node.attribute("axis", 1))
    if not -len(shape) <= axis <= len(shape):
        node.refuse(f"axis {axis} does not exist in {len(shape)} dimensions")
    axis += len(shape) if axis < 0 else 0
    extents = [math.prod(shape[:axis]), math.prod(shape[axis:])]
    return relax.op.reshape(node.input(0), extents)


def convert_squeeze(node: Node) -> Converted:
    """Remove axes of extent 1; all of them by default."""
    shape = node.shape(0)
    axes = [axis for axis, extent in enumerate(shape) if extent == 1]
    given = _axes(node)
    if given is not None:
        axes = node.axes(given, len(shape))
        for axis in axes:
            if shape[axis] != 1:
                node.refuse(f"axis {axis} of a tensor of shape {shape} is not of extent 1")
    return relax.op.squeeze(node.input(0), axes) if axes else node.input(0)


def convert_unsqueeze(node: Node) -> Converted:
    """Insert axes of extent 1: ``axes`` are those of the result."""
    given = _axes(node)
    if given is None:
        node.refuse("its axes are missing")
    axes = node.axes(given, node.rank(0) + len(given))
    if len(set(axes)) < len(axes):
        node.refuse(f"an axis is twice among its axes {given}")
    return relax.op.expand_dims(node.input(0), sorted(axes)) if axes else node.input(0)


def _axes(node: Node) -> list[int] | None:
    """An attribute before opset 13, an input since then."""
    if node.opset >= 13:
        return node.integers(1, "axes") if node.has(1) else None
    axes: list[int] | None = node.attribute("axes")
    return axes


def convert_transpose(node: Node) -> Converted:
    """Permute axes; by default in reverse order."""
    rank = node.rank(0)
    order = [int(axis) for axis in node.attribute("perm", range(rank)[::-1])]
    if sorted(order) != list(range(rank)):
        node.refuse(f"its perm {order} is no permutation of {rank} axes")
    return relax.op.permute_dims(node.input(0), order) if rank else node.input(0)


def convert_expand(node: Node) -> Converted:
    """Broadcast with a shape, in both directions."""
    shape, wanted = node.shape(0), node.integers(1, "shape")
    try:
        extents = np.broadcast_shapes(shape, tuple(wanted))
    except ValueError:
        node.refuse(f"the shapes {shape} and {wanted} do not broadcast")
    return relax.op.broadcast_to(node.input(0), extents) if extents != shape else node.input(0)


def convert_tile(node: Node) -> Converted:
    """Repeat along every axis."""
    repeats = node.integers(1, "repeats")
    if len(repeats) != node.rank(0) or any(count < 0 for count in repeats):
        node.refuse(f"its repeats {repeats} do not fit a tensor of {node.rank(0)} dimensions")
    return relax.op.tile(node.input(0), repeats) if repeats else node.input(0)


def convert_identity(node: Node) -> Converted:
    """The same tensor."""
    return node.input(0)


def convert_depth_to_space(node: Node) -> Converted:
    """Channels become blocks of pixels: depth first (DCR) or column first (CRD)."""
    size, mode = int(node.attribute("blocksize")), node.attribute("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        node.refuse(f"there is no mode {mode!r}")
    batch, channels, height, width = _image(node)
    depth = channels // max(size, 1) ** 2
    if size < 1 or depth * size**2 != channels:
        node.refuse(f"{channels} channels cannot become blocks of {size} x {size}")
    if mode == "DCR":
        split, order = [batch, size, size, depth, height, width], [0, 3, 4, 1, 5, 2]
    else:
        split, order = [batch, depth, size, size, height, width], [0, 1, 4, 2, 5, 3]
    blocks = node.emit(relax.op.reshape(node.input(0), split))
    moved = node.emit(relax.op.permute_dims(blocks, order))
    return relax.op.reshape(moved, [batch, depth, height * size, width * size])


def convert_space_to_depth(node: Node) -> Converted:
    """Blocks of pixels become channels; the inverse of DepthToSpace."""
    size, mode = int(node.attribute("blocksize")), node.attribute("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        node.refuse(f"there is no mode {mode!r}")
    batch, depth, height, width = _image(node)
    rows, columns = height // max(size, 1), width // max(size, 1)
    if size < 1 or (rows * size, columns * size) != (height, width):
        node.refuse(f"an image of {height} x {width} has no blocks of {size} x {size}")
    order = [0, 3, 5, 1, 2, 4] if mode == "DCR" else [0, 1, 3, 5, 2, 4]
    blocks = node.emit(relax.op.reshape(node.input(0), [batch, depth, rows, size, columns, size]))
    moved = node.emit(relax.op.permute_dims(blocks, order))
    return relax.op.reshape(moved, [batch, depth * size**2, rows, columns])


def _image(node: Node) -> tuple[int, int, int, int]:
    shape = node.shape(0)
    if len(shape) != 4:
        node.refuse(f"it wants a tensor of 4 dimensions, not the shape {shape}")
    return shape[0], shape[1], shape[2], shape[3]


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "DepthToSpace": convert_depth_to_space,
    "Expand": convert_expand,
    "Flatten": convert_flatten,
    "Identity": convert_identity,
    "Reshape": convert_reshape,
    "Shape": convert_shape,
    "Size": convert_size,
    "SpaceToDepth": convert_space_to_depth,
    "Squeeze": convert_squeeze,
    "Tile": convert_tile,
    "Transpose": convert_transpose,
    "Unsqueeze": convert_unsqueeze,
}
