"""Schedule every TIR kernel for the CPU: inline, parallelise outer loops, vectorise the inner one.

``FuseTIR`` only puts loops next to each other; unscheduled, a fused ``add + relu`` allocates its
intermediate and runs scalar. A kernel of one block is elementwise (the innermost loop becomes the
vector), a transpose (tiled), a reduction over outer axes such as channels-last pooling (the
innermost spatial axis becomes the vector and stays inside the reduction), or a reduction over the
innermost axis (one vector accumulator, reduced at the end). A kernel of several blocks with common
rows, such as softmax, runs row by row, so that the blocks meet in cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.s_tir.analysis import estimate_tir_flops
from tvm.s_tir.dlight.analysis import SBlockInfo, normalize_prim_func
from tvm.s_tir.schedule import ScheduleError

from top_tvm.compiler.kernel_library import host_target
from top_tvm.compiler.transform.expand_math import expand_math
from top_tvm.compiler.transform.inline_blocks import inline_blocks
from top_tvm.compiler.transform.pad_reductions import pad_reductions
from top_tvm.compiler.transform.rewriter import is_call
from top_tvm.compiler.transform.schedule_contraction import (
    Registers,
    is_contraction,
    schedule_contraction,
)

# Widest first; narrower vectors serve extents that the wide one does not divide.
VECTOR_LANES = (16, 8, 4)
_TILE = 16
# Elements that one iteration of a parallel loop should have at least when an axis is cut for it.
_GRAIN = 1024
_SCHEDULED = "tirx.is_scheduled"
# Arithmetic operations of a scheduled kernel.
FLOPS_ATTRIBUTE = "top_tvm.flops"


def schedule_prim_func(
    function: tirx.PrimFunc, target: tvm.target.Target | None = None
) -> tirx.PrimFunc:
    """Schedule a PrimFunc for a CPU, by default :func:`host_target`.

    One that is scheduled already, or has no block structure, comes back unchanged.
    """
    if function.attrs and function.attrs.get(_SCHEDULED):
        return function
    padded = pad_reductions(function, VECTOR_LANES[0])
    schedule = Schedule(tvm.IRModule({"main": padded}))
    blocks = normalize_prim_func(schedule)
    if blocks is None:
        return function
    nests = [_nest(schedule, block) for block in inline_blocks(schedule, blocks)]
    nests = _schedule_contractions(schedule, nests, Registers.of(target or host_target()))
    rows = _common_rows(schedule, nests)
    if rows:
        _schedule_rows(schedule, nests, rows)
    else:
        for nest in nests:
            if nest is not None:
                _schedule_nest(schedule, nest)
    # Counted here: TVM's counter knows the functions, but not what they expand to.
    flops = int(estimate_tir_flops(schedule.mod))
    attributes = {_SCHEDULED: True, FLOPS_ATTRIBUTE: flops}
    return expand_math(schedule.mod["main"]).with_attrs(attributes)


def _schedule_contractions(
    schedule: Schedule, nests: Sequence[_Nest | None], registers: Registers
) -> list[_Nest | None]:
    """Schedule convolutions and matrix products; return what is left."""
    left = list(nests)
    for nest in nests:
        if nest is None or not is_contraction(schedule, nest.block):
            continue
        readers = [schedule.get(reader) for reader in schedule.get_consumers(nest.block)]
        others = [other for other in nests if other is not None and other is not nest]
        behind = [other for other in others if schedule.get(other.block) in readers]
        if len(readers) != len(behind) or len(behind) > 1:
            continue
        epilogue = behind[0].block if behind else None
        if schedule_contraction(schedule, nest.block, epilogue, registers):
            left = [other for other in left if other is not nest and other not in behind]
    return left


@dataclass(frozen=True)
class _Nest:
    """A block with its loops, outermost first."""

    block: Any
    loops: tuple[Any, ...]
    kinds: str  # of each loop: S for spatial, R for reduction
    extents: tuple[int, ...]

    def where(self, kind: str) -> list[int]:
        return [index for index, found in enumerate(self.kinds) if found == kind]

    @property
    def inner(self) -> int:
        """The innermost spatial loop that loops at all."""
        spatial = self.where("S")
        wide = [index for index in spatial if self.extents[index] > 1]
        return wide[-1] if wide else spatial[-1]


def _nest(schedule: Schedule, block: SBlockInfo) -> _Nest | None:
    """Loops of a block; None where they do not correspond to its iterations one by one."""
    loops = schedule.get_loops(block.block_rv)
    kinds = "".join(iteration.kind for iteration in block.iters)
    if not loops or len(loops) != len(kinds) or set(kinds) - {"S", "R"} or "S" not in kinds:
        return None
    extents = [schedule.get(loop).extent for loop in loops]
    if not all(isinstance(extent, tirx.IntImm) for extent in extents):
        return None
    return _Nest(block.block_rv, tuple(loops), kinds, tuple(int(extent) for extent in extents))


def _common_rows(schedule: Schedule, nests: Sequence[_Nest | None]) -> int:
    """Number of leading spatial loops that all blocks share, when there are several blocks."""
    if len(nests) < 2 or any(nest is None for nest in nests):
        return 0
    known = [nest for nest in nests if nest is not None]
    results = list(schedule.mod["main"].params)
    written = [schedule.get(nest.block).writes[0].source for nest in known[:-1]]
    if any(result.same_as(source) for source in written for result in results):
        return 0  # several results: TVM computes none of them inside the loops of another
    count = 0
    for kinds, extents in zip(
        zip(*(nest.kinds for nest in known), strict=False),
        zip(*(nest.extents for nest in known), strict=False),
        strict=True,
    ):
        if set(kinds) != {"S"} or len(set(extents)) != 1:
            break
        count += 1
    # The innermost axis stays the vector of each row, unless all that a row does is reduce it.
    reducing = [_reduces_rows(schedule, nest) for nest in known if "R" in nest.kinds]
    return min(count, len(known[-1].loops) - (not reducing or not all(reducing)))


def _schedule_rows(schedule: Schedule, nests: Sequence[_Nest | None], rows: int) -> None:
    """Compute all blocks row by row, the rows in parallel."""
    *producers, last = [nest for nest in nests if nest is not None]
    row = _fuse(schedule, last.loops[:rows])
    if prod(last.extents[:rows]) > 1:
        schedule.parallel(row)
    _vectorise_row(schedule, last.block)
    blocks = []
    for nest in producers:
        blocks.extend(_split_reduction(schedule, nest))
    for block in reversed(blocks):
        schedule.compute_at(block, row, preserve_unit_loops=True)
    for block in blocks:
        _vectorise_row(schedule, block)


def _split_reduction(schedule: Schedule, nest: _Nest) -> list[Any]:
    """Blocks of a reduction: into a vector accumulator, where that is possible, and of that."""
    if nest.kinds[-1] != "R" or nest.kinds.count("R") != 1 or not _lanes(nest.extents[-1]):
        return [nest.block]
    chunk, lane = schedule.split(nest.loops[-1], [None, _lanes(nest.extents[-1])])
    schedule.annotate(chunk, "pragma_loop_partition_hint", True)  # see pad_reductions
    try:
        partial = schedule.rfactor(lane, len(nest.where("S")))
    except ScheduleError:  # a reduction that TVM cannot take apart
        return [nest.block]
    return [partial, nest.block]


def _vectorise_row(schedule: Schedule, block: Any) -> None:
    """Vectorise the innermost spatial loop of a block within a row."""
    kinds = list(zip(schedule.get_loops(block), _loop_kinds(schedule, block), strict=True))[1:]
    spatial = [loop for loop, kind in kinds if kind == "S" and int(schedule.get(loop).extent) > 1]
    reduction = [loop for loop, kind in kinds if kind == "R"]
    if not spatial:
        return
    extent = int(schedule.get(spatial[-1]).extent)
    if not reduction:
        _vectorise(schedule, spatial[-1], extent)
        return
    _vectorise_reduction(schedule, block, spatial[-1], reduction, extent)


def _loop_kinds(schedule: Schedule, block: Any) -> list[str]:
    """Kind of each loop around a block, by the iterations that it drives."""
    realize = _realize(schedule, block)
    kinds: dict[Any, str] = {}
    for iteration, value in zip(realize.block.iter_vars, realize.iter_values, strict=True):
        kind = "R" if iteration.iter_type == tirx.IterVar.CommReduce else "S"
        tvm_ffi.structural_walk(
            value, (tirx.Var, lambda var, kind=kind: kinds.__setitem__(var, kind))
        )
    return [kinds.get(schedule.get(loop).loop_var, "S") for loop in schedule.get_loops(block)]


def _realize(schedule: Schedule, block: Any) -> Any:
    return tvm_ffi.get_global_func("s_tir.schedule.GetSBlockRealize")(schedule, block)


def _schedule_nest(schedule: Schedule, nest: _Nest) -> None:
    reduction = [nest.loops[index] for index in nest.where("R")]
    outer = [nest.loops[index] for index in nest.where("S") if index != nest.inner]
    inner, extent = nest.loops[nest.inner], nest.extents[nest.inner]
    if not reduction:
        read = _contiguous_read(schedule, nest)
        if read is not None and read != nest.inner:
            _schedule_transpose(schedule, nest, read)
            return
        rows = prod(nest.extents[index] for index in nest.where("S") if index != nest.inner)
        if rows < _GRAIN and extent >= 2 * _GRAIN and extent % _GRAIN == 0:
            chunk, inner = schedule.split(inner, [None, _GRAIN])
            outer, extent = [*outer, chunk], _GRAIN
        _vectorise(schedule, inner, extent)
        if outer:
            schedule.parallel(_fuse(schedule, outer))
        return
    _schedule_reduction(schedule, nest, outer)


def _schedule_reduction(schedule: Schedule, nest: _Nest, outer: list[Any]) -> None:
    inner, extent = nest.loops[nest.inner], nest.extents[nest.inner]
    reduction = [nest.loops[index] for index in nest.where("R")]
    if _reduces_rows(schedule, nest):
        _schedule_row_reduction(schedule, nest)
        return
    lanes = _lanes(extent)
    if lanes and extent > lanes:
        chunk, inner = schedule.split(inner, [None, lanes])
        outer, extent = [*outer, chunk], lanes
    schedule.reorder(*outer, *reduction, inner)
    if outer:
        schedule.parallel(_fuse(schedule, outer))
    _vectorise_reduction(schedule, nest.block, inner, reduction, extent)


def _vectorise_reduction(
    schedule: Schedule, block: Any, inner: Any, reduction: list[Any], extent: int
) -> None:
    """Make the spatial loop inside the reduction the vector, for the initial value, too."""
    schedule.reorder(*reduction, inner)
    _vectorise(schedule, inner, extent)
    initialise = schedule.decompose_reduction(block, reduction[0])
    loop = schedule.get_loops(initialise)[-1]
    if schedule.get(loop).kind == tirx.ForKind.SERIAL:
        _vectorise(schedule, loop, int(schedule.get(loop).extent))


def _reduces_rows(schedule: Schedule, nest: _Nest) -> bool:
    """Whether the innermost loop is a reduction along contiguous memory."""
    return nest.kinds[-1] == "R" and _contiguous_read(schedule, nest) == len(nest.loops) - 1


def _schedule_row_reduction(schedule: Schedule, nest: _Nest) -> None:
    """Reduce the contiguous axis: a vector accumulator for each row, then over its lanes."""
    blocks = _split_reduction(schedule, nest)
    spatial = len(nest.where("S"))
    row = _fuse(schedule, schedule.get_loops(nest.block)[:spatial])
    if prod(nest.extents[index] for index in nest.where("S")) > 1:
        schedule.parallel(row)
    for block in blocks[:-1]:
        schedule.compute_at(block, row, preserve_unit_loops=True)
        _vectorise_row(schedule, block)


def _schedule_transpose(schedule: Schedule, nest: _Nest, read: int) -> None:
    """Tile the axes that are contiguous on either side, so that cache lines are used up."""
    source, target = nest.loops[read], nest.loops[nest.inner]
    outer = [loop for index, loop in enumerate(nest.loops) if index not in (read, nest.inner)]
    if nest.extents[nest.inner] <= _TILE // 2:
        # Few runs next to each other (channel shuffle, RGB): LLVM interleaves their vectors.
        schedule.reorder(*outer, source, target)
        schedule.unroll(target)
        if outer and prod(nest.extents) // nest.extents[read] > nest.extents[nest.inner]:
            schedule.parallel(_fuse(schedule, outer))
        return
    source_tile, source = schedule.split(source, [None, _tile(nest.extents[read])])
    target_tile, target = schedule.split(target, [None, _tile(nest.extents[nest.inner])])
    schedule.reorder(*outer, target_tile, source_tile, source, target)
    schedule.parallel(_fuse(schedule, [*outer, target_tile]))


def _tile(extent: int) -> int:
    return _lanes(extent) or min(extent, _TILE)


def _contiguous_read(schedule: Schedule, nest: _Nest) -> int | None:
    """Loop along which the block reads its largest input contiguously, or None if unclear."""
    statement = schedule.get(nest.block)
    reads = [r for r in statement.reads if r.source not in {w.source for w in statement.writes}]
    if not reads:
        return None
    largest = max(reads, key=lambda region: prod(int(extent) for extent in region.source.shape))
    variables = [iteration.var for iteration in statement.iter_vars]
    for axis in reversed(range(len(largest.region))):
        if int(largest.source.shape[axis]) == 1:
            continue
        index = largest.region[axis].min
        for position, variable in enumerate(variables):
            if index.same_as(variable):
                return position
        return None
    return None


def _fuse(schedule: Schedule, loops: Sequence[Any]) -> Any:
    return schedule.fuse(*loops) if len(loops) > 1 else loops[0]


def _lanes(extent: int) -> int:
    """Widest vector that divides the extent, or 0."""
    return next((lanes for lanes in VECTOR_LANES if extent % lanes == 0), 0)


def _vectorise(schedule: Schedule, loop: Any, extent: int) -> None:
    """Explicit vectors where they divide the loop; elsewhere LLVM's loop vectoriser decides."""
    lanes = _lanes(extent)
    if lanes:
        _, lane = schedule.split(loop, [None, lanes])
        schedule.vectorize(lane)


@tvm.transform.module_pass(opt_level=0, name="ScheduleCPU")
def ScheduleCPU(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Schedule the PrimFuncs that ``main`` calls; those inside library functions never run."""
    module = module.clone()
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            if is_call(binding.value, "call_tir"):
                name = binding.value.args[0]
                module.update_func(name, schedule_prim_func(module[name]))
    return module
