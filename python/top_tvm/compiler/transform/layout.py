"""Arithmetic of layouts: where the axes of a tensor lie once it is stored in another order.

A layout is a tuple of axes: its k-th entry is the original axis that the k-th stored axis holds.
The identity is the original layout, ``(0, 2, 3, 1)`` is NHWC. Axes of extent one may lie anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

Layout = tuple[int, ...]


def identity(rank: int) -> Layout:
    """Layout of a tensor that is stored as it is declared."""
    return tuple(range(rank))


def same_order(shape: Sequence[int], left: Layout, right: Layout) -> bool:
    """Whether two layouts store the elements in the same order."""
    return [a for a in left if shape[a] != 1] == [a for a in right if shape[a] != 1]


def reduced(layout: Layout, axes: Iterable[int]) -> Layout:
    """Layout after the given original axes have been removed."""
    gone = set(axes)
    kept = sorted(set(layout) - gone)
    return tuple(kept.index(axis) for axis in layout if axis not in gone)


@dataclass(frozen=True)
class _Group:
    """Axes of a reshape that turn into each other: equal extents, whatever the others do."""

    sources: tuple[int, ...]
    targets: tuple[int, ...]


def _groups(source: Sequence[int], target: Sequence[int]) -> list[_Group]:
    """Finest grouping of the axes of a reshape, in order."""
    groups = []
    i = j = 0
    while i < len(source) or j < len(target):
        begin_i, begin_j = i, j
        i, j = min(i + 1, len(source)), min(j + 1, len(target))
        while prod(source[begin_i:i]) != prod(target[begin_j:j]):
            if prod(source[begin_i:i]) < prod(target[begin_j:j]):
                i += 1
            else:
                j += 1
        groups.append(_Group(tuple(range(begin_i, i)), tuple(range(begin_j, j))))
    return groups


def reshape_layouts(
    source: Sequence[int], target: Sequence[int], layout: Layout
) -> tuple[Layout, Layout]:
    """Let a reshape act on a stored tensor.

    Axes that are merged or split must be stored next to each other, in order; a group of such axes
    takes the place of its last stored axis, which keeps channels innermost.

    Parameters
    ----------
    source, target : sequence of int
        Original shapes before and after, of equally many elements, at least one.
    layout : tuple of int
        How the source is stored.

    Returns
    -------
    needed : tuple of int
        How the source must be stored; in the same order as ``layout`` if nothing has to move.
    result : tuple of int
        How the result is stored then.
    """
    blocks: list[tuple[int, list[int], list[int]]] = [(-1, [], [])]
    for group in _groups(source, target):
        places = [layout.index(axis) for axis in group.sources if source[axis] != 1]
        if places:
            blocks.append((max(places), [], []))
        # Axes of extent one go wherever the axes before them went.
        blocks[-1][1].extend(group.sources)
        blocks[-1][2].extend(group.targets)
    blocks.sort(key=lambda block: block[0])
    needed = tuple(axis for _, sources, _ in blocks for axis in sources)
    return needed, tuple(axis for _, _, targets in blocks for axis in targets)
