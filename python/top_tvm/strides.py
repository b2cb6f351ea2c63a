"""Rows of strided tensors.

The parts of a concatenation lie side by side in the memory of the whole: seen as a matrix whose
rows are as long as the whole's, a part is a range of columns. ``Rows`` is that view of a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rows:
    """A tensor as ``count`` runs of ``width`` adjacent elements, ``pitch`` elements apart."""

    count: int
    width: int
    pitch: int

    @property
    def extent(self) -> int:
        """Elements from the first to the last, both included, gaps too."""
        return (self.count - 1) * self.pitch + self.width if self.count and self.width else 0


def rows_of(shape: Sequence[int], strides: Sequence[int]) -> Rows:
    """Find the rows of a tensor.

    Parameters
    ----------
    shape : sequence of int
        Extent of every axis.
    strides : sequence of int
        Elements from one index to the next, per axis; empty for a contiguous tensor, which is one
        row.

    Raises
    ------
    ValueError
        If the strides are not those of rows at one distance.
    """
    size = math.prod(shape)
    if not strides:
        return Rows(1, size, size)
    if len(strides) != len(shape):
        raise ValueError(f"{len(strides)} strides for {len(shape)} axes")
    width, axis = 1, len(shape)
    while axis and (shape[axis - 1] == 1 or strides[axis - 1] == width):
        axis -= 1
        width *= shape[axis]
    pitch = strides[axis - 1] if axis else size
    if axis and pitch < width:
        raise ValueError(f"rows of {width} elements, but {pitch} from one to the next")
    count = 1
    while axis:
        axis -= 1
        if shape[axis] != 1 and strides[axis] != count * pitch:
            raise ValueError(f"stride {strides[axis]} of axis {axis}, expected {count * pitch}")
        count *= shape[axis]
    return Rows(count, width, pitch)


def row_strides(shape: Sequence[int], rows: int, pitch: int) -> tuple[int, ...] | None:
    """Strides of a tensor whose memory is ``rows`` equal runs, ``pitch`` elements apart.

    Returns
    -------
    tuple of int or None
        One stride per axis; None when no axis of the shape begins where the rows do.
    """
    strides, stride = [0] * len(shape), 1
    width = math.prod(shape) // rows if rows else 0
    for axis in reversed(range(len(shape))):
        if stride == width:
            stride = pitch
        strides[axis] = stride
        stride *= shape[axis]
    # The rows begin at an axis if and only if the strides are those of so many rows.
    try:
        found = rows_of(shape, strides)
    except ValueError:
        return None
    return tuple(strides) if rows == 1 or found == Rows(rows, width, pitch) else None
