"""Where to draw the ops of a graph: in layers, with few crossings (Sugiyama et al., 1981).

Every op stands one layer behind the last of its predecessors. A result that is read further on runs
along one *lane* through the layers in between, however many ops read it. The order within layers
comes from sweeps of the barycentre heuristic; the positions are those nearest to the neighbours'
that keep order and distance, by isotonic regression.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_ORDER_SWEEPS = 8
_POSITION_SWEEPS = 8
# Distance between centres, in heights of an op with its margin.
_OP, _LANE = 0.5, 0.14
# Beyond so many bends of lanes nobody follows a line any more: the longest ones go straight.
_MAX_BENDS = 8000


@dataclass(frozen=True)
class Layout:
    """Places of ops and of the lines between them.

    Attributes
    ----------
    layers : tuple of int
        Layer of every op.
    positions : tuple of float
        Position of every op within its layer; ops of a layer are at least 1 apart.
    lanes : tuple of tuple of float
        For every op, positions of its lane in the layers after its own; empty where all its readers
        are in the next layer, or where the line goes straight.
    """

    layers: tuple[int, ...]
    positions: tuple[float, ...]
    lanes: tuple[tuple[float, ...], ...]


def layered_layout(sources: Sequence[Sequence[int]]) -> Layout:
    """Lay out a graph.

    Parameters
    ----------
    sources : sequence of sequence of int
        For every op its predecessors, which have smaller numbers.
    """
    layers = _layers(sources)
    lengths = _lane_lengths(sources, layers)
    rows, before, after, first_bend = _rows(sources, layers, lengths)
    _order(rows, before, after)
    positions = _positions(rows, before, after, len(sources))
    lanes = tuple(
        tuple(positions[bend] for bend in range(first, first + length))
        for first, length in zip(first_bend, lengths, strict=True)
    )
    return Layout(tuple(layers), tuple(positions[: len(sources)]), lanes)


def _layers(sources: Sequence[Sequence[int]]) -> list[int]:
    layers: list[int] = []
    for predecessors in sources:
        layers.append(1 + max((layers[source] for source in predecessors), default=-1))
    nearest = [len(layers)] * len(layers)
    for op, predecessors in enumerate(sources):
        for source in predecessors:
            nearest[source] = min(nearest[source], layers[op])
    # What reads no other op may as well stand next to its first reader.
    for op, predecessors in enumerate(sources):
        if not predecessors and nearest[op] < len(layers):
            layers[op] = nearest[op] - 1
    return layers


def _lane_lengths(sources: Sequence[Sequence[int]], layers: Sequence[int]) -> list[int]:
    lengths = [0] * len(layers)
    for op, predecessors in enumerate(sources):
        for source in predecessors:
            lengths[source] = max(lengths[source], layers[op] - layers[source] - 1)
    longest = sorted(range(len(lengths)), key=lengths.__getitem__)
    while longest and sum(lengths[op] for op in longest) > _MAX_BENDS:
        lengths[longest.pop()] = 0
    return lengths


def _rows(
    sources: Sequence[Sequence[int]], layers: Sequence[int], lengths: Sequence[int]
) -> tuple[list[list[int]], list[list[int]], list[list[int]], list[int]]:
    """Nodes (ops, then bends of lanes) by layer, and their neighbours one layer before and after.

    The last list has the first bend of every op's lane.
    """
    count = len(sources)
    total = count + sum(lengths)
    before: list[list[int]] = [[] for _ in range(total)]
    after: list[list[int]] = [[] for _ in range(total)]
    rows: list[list[int]] = [[] for _ in range(max(layers, default=-1) + 1)]
    first_bend, bend = [], count
    for length in lengths:
        first_bend.append(bend)
        bend += length

    def connect(left: int, right: int) -> None:
        after[left].append(right)
        before[right].append(left)

    for op, predecessors in enumerate(sources):
        rows[layers[op]].append(op)
        for source in predecessors:
            steps = layers[op] - layers[source] - 1
            if steps <= lengths[source]:
                connect(first_bend[source] + steps - 1 if steps else source, op)
    for op, length in enumerate(lengths):
        for step in range(length):
            node = first_bend[op] + step
            rows[layers[op] + 1 + step].append(node)
            connect(node - 1 if step else op, node)
    return rows, before, after, first_bend


def _order(rows: list[list[int]], before: list[list[int]], after: list[list[int]]) -> None:
    """Order every row in place, by sweeps to and fro, and keep the order with fewest crossings."""
    best, fewest = [list(row) for row in rows], _crossings(rows, after)
    for sweep in range(_ORDER_SWEEPS):
        forward = sweep % 2 == 0
        place = [0.0] * len(before)
        for row in rows if forward else reversed(rows):
            neighbours = before if forward else after
            own = {node: float(index) for index, node in enumerate(row)}
            means = {
                node: sum(place[other] for other in neighbours[node]) / len(neighbours[node])
                if neighbours[node]
                else own[node]
                for node in row
            }
            row.sort(key=means.__getitem__)
            for index, node in enumerate(row):
                place[node] = float(index)
        crossings = _crossings(rows, after)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    rows[:] = best


def _crossings(rows: Sequence[Sequence[int]], after: Sequence[Sequence[int]]) -> int:
    total = 0
    for row, following in pairwise(rows):
        place = {node: index for index, node in enumerate(following)}
        seen: list[int] = []
        for node in row:
            ends = sorted(place[other] for other in after[node])
            total += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return total


def _positions(
    rows: Sequence[Sequence[int]],
    before: Sequence[Sequence[int]],
    after: Sequence[Sequence[int]],
    count: int,
) -> list[float]:
    """Positions of nodes, of which the first ``count`` are ops."""
    positions = [0.0] * len(before)
    for row in rows:
        for node, place in zip(row, _spaced(row, [0.0] * len(row), count), strict=True):
            positions[node] = place
    for sweep in range(_POSITION_SWEEPS):
        forward = sweep % 2 == 0
        for row in rows if forward else reversed(rows):
            wishes = []
            for node in row:
                first, second = before[node], after[node]
                # To and fro, then between both sides.
                near = first if forward else second
                if sweep >= _POSITION_SWEEPS - 2 or not near:
                    near = [*first, *second]
                others = [positions[other] for other in near]
                wishes.append(sum(others) / len(others) if others else positions[node])
            for node, place in zip(row, _spaced(row, wishes, count), strict=True):
                positions[node] = place
    return positions


def _spaced(row: Sequence[int], wishes: Sequence[float], count: int) -> list[float]:
    """Nearest positions to the wishes, in least squares, that keep order and distances.

    With the distances taken off, that is isotonic regression: pool adjacent violators.
    """
    shifts, shift = [], 0.0
    for index, node in enumerate(row):
        if index:
            shift += _half(row[index - 1], count) + _half(node, count)
        shifts.append(shift)
    pools: list[tuple[float, int]] = []  # sum and number
    for wish, shift in zip(wishes, shifts, strict=True):
        total, number = wish - shift, 1
        while pools and pools[-1][0] / pools[-1][1] > total / number:
            other = pools.pop()
            total, number = total + other[0], number + other[1]
        pools.append((total, number))
    level = [total / number for total, number in pools for _ in range(number)]
    return [place + shift for place, shift in zip(level, shifts, strict=True)]


def _half(node: int, count: int) -> float:
    return _OP if node < count else _LANE
