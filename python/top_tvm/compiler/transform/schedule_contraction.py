"""Schedule convolutions and matrix products that no library takes.

A tile of the result, a few pixels or rows times some vectors of channels or columns, stays in
registers while the reduction runs; the weights are read as they lie, channels innermost. Whatever
is fused behind (bias, residual, activation) is computed from the tile before it is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.target import codegen

_MAX_ROWS, _MAX_VECTORS = 14, 17


@dataclass(frozen=True)
class Registers:
    """Vector registers of a CPU: float32 lanes of one, and how many may accumulate."""

    lanes: int
    accumulators: int

    @classmethod
    def of(cls, target: tvm.target.Target) -> Registers:
        """Those of an LLVM target; some are left for weights and for broadcast data."""
        lanes = max(int(codegen.llvm_get_vector_width(target)) // 32, 4)
        # AVX-512 and NEON have 32 registers, AVX2 has 16.
        return cls(lanes, 12 if lanes == 8 else 24)


@dataclass(frozen=True)
class Tile:
    """Part of the result that stays in registers: rows times vectors of lanes."""

    rows: int
    vectors: int
    lanes: int


def choose_tile(rows: int, columns: int, registers: Registers) -> Tile | None:
    """Tile for a result of so many rows (pixels of a line) and columns (channels of a group).

    Returns
    -------
    Tile or None
        The one with most accumulators, the squarer of equals; None where no vector divides the
        columns.
    """
    lanes = registers.lanes
    while columns % lanes:
        lanes //= 2
    if lanes < 2:
        return None
    candidates = [
        Tile(height, vectors, lanes)
        for height in range(1, min(rows, _MAX_ROWS) + 1)
        for vectors in range(1, min(columns // lanes, _MAX_VECTORS) + 1)
        if rows % height == 0
        and columns // lanes % vectors == 0
        and height * vectors <= registers.accumulators
    ]
    return max(
        candidates,
        key=lambda tile: (tile.rows * tile.vectors, -abs(tile.rows - 3 * tile.vectors)),
    )


def is_contraction(schedule: Schedule, block: Any) -> bool:
    """Whether a block sums products of data and weights that are contiguous in its columns."""
    statement = schedule.get(block)
    value = getattr(statement.body, "value", None)
    if not isinstance(value, tirx.Add) or not isinstance(value.b, tirx.Mul):
        return False
    spatial = [v.var for v in statement.iter_vars if v.iter_type != tirx.IterVar.CommReduce]
    if len(spatial) == len(statement.iter_vars) or len(statement.reads) != 2:
        return False
    return bool(statement.reads[1].region[-1].min.same_as(spatial[-1]))


def schedule_contraction(
    schedule: Schedule, block: Any, epilogue: Any | None, registers: Registers
) -> bool:
    """Schedule a contraction and the elementwise block that reads it, if there is one.

    Returns
    -------
    bool
        False, with nothing changed, where the shape allows no tile.
    """
    statement = schedule.get(block)
    kinds = [v.iter_type == tirx.IterVar.CommReduce for v in statement.iter_vars]
    extents = [int(v.dom.extent) for v in statement.iter_vars]
    spatial = [extent for extent, reduces in zip(extents, kinds, strict=True) if not reduces]
    if len(spatial) < 2 or kinds != sorted(kinds):
        return False
    if epilogue is not None and _extents(schedule, epilogue) != spatial:
        return False
    tile = choose_tile(spatial[-2], _columns_of_a_group(statement, spatial[-1]), registers)
    if tile is None:
        return False
    if epilogue is None:
        epilogue = schedule.cache_write(block, 0, "global")
    *outer, rows, columns = schedule.get_loops(epilogue)
    row, row_lane = schedule.split(rows, [None, tile.rows])
    column, vector, lane = schedule.split(columns, [None, tile.vectors, tile.lanes])
    # Columns outermost: their weights stay in cache while the rows pass by.
    schedule.reorder(column, *outer, row, row_lane, vector, lane)
    schedule.vectorize(lane)
    schedule.unroll(vector)
    schedule.unroll(row_lane)
    schedule.parallel(schedule.fuse(column, *outer) if prod(spatial[:-2]) > 1 else column)
    schedule.compute_at(block, row, preserve_unit_loops=True)
    _schedule_tile(schedule, block, tile, len(spatial), len(extents))
    return True


def _schedule_tile(schedule: Schedule, block: Any, tile: Tile, spatial: int, total: int) -> None:
    """Reduction outside, the unrolled tile inside."""
    loops = schedule.get_loops(block)[-total:]
    reduction = list(loops[spatial:])
    _, vector, lane = schedule.split(loops[spatial - 1], [None, tile.vectors, tile.lanes])
    row = loops[spatial - 2]
    schedule.reorder(*reduction[1:], reduction[0], row, vector, lane)
    schedule.unroll(row)
    schedule.unroll(vector)
    schedule.vectorize(lane)
    first = reduction[1] if len(reduction) > 1 else reduction[0]
    initialise = schedule.decompose_reduction(block, first)
    *_, row, vector, lane = schedule.get_loops(initialise)
    schedule.unroll(row)
    schedule.unroll(vector)
    schedule.vectorize(lane)


def _extents(schedule: Schedule, block: Any) -> list[int]:
    return [int(schedule.get(loop).extent) for loop in schedule.get_loops(block)]


def _columns_of_a_group(statement: Any, columns: int) -> int:
    """Output channels that read the same input channels; all of them in a depthwise one."""
    weights = statement.reads[1].source.shape
    data = statement.reads[0].source.shape
    if len(weights) != 4 or len(data) != 4:
        return columns
    groups = int(data[-1]) // int(weights[-2])
    return columns if groups in (1, columns) else columns // groups


def reads_contraction(schedule: Schedule, block: Any) -> bool:
    """Whether some reader of the block is a contraction, which wants its data in memory."""
    return any(is_contraction(schedule, reader) for reader in schedule.get_consumers(block))
