"""Schedule every TIR kernel for the CPU: inline, parallelise outer loops, vectorise the inner one.

``FuseTIR`` only puts loops next to each other; unscheduled, a fused ``add + relu`` allocates its
intermediate and runs scalar. Three shapes of kernel are told apart: elementwise (all loops
spatial), reductions over outer axes such as channels-last pooling (the innermost spatial axis
becomes the vector and stays inside the reduction), and the rest, which is only parallelised.
"""

from __future__ import annotations

import tvm
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.s_tir.dlight.analysis import SBlockInfo, normalize_prim_func
from tvm.s_tir.dlight.base import try_inline

from top_tvm.compiler.transform.rewriter import is_call

VECTOR_LANES = 16
_SCHEDULED = "tirx.is_scheduled"


def schedule_prim_func(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Scheduled form of a PrimFunc; one that has no block structure comes back unchanged."""
    if function.attrs and function.attrs.get(_SCHEDULED):
        return function
    schedule = Schedule(tvm.IRModule({"main": function}))
    blocks = normalize_prim_func(schedule)
    if blocks is None:
        return function
    for block in try_inline(schedule, blocks):
        _schedule_block(schedule, block)
    return schedule.mod["main"].with_attr(_SCHEDULED, True)


def _schedule_block(schedule: Schedule, block: SBlockInfo) -> None:
    loops = schedule.get_loops(block.block_rv)
    kinds = [iteration.kind for iteration in block.iters]
    extents = [int(schedule.get(loop).extent) for loop in loops]
    if not loops or len(loops) != len(kinds):
        return
    spatial = [index for index, kind in enumerate(kinds) if kind == "S"]
    reduction = [index for index, kind in enumerate(kinds) if kind == "R"]
    if len(spatial) + len(reduction) != len(loops) or not spatial:
        return
    wide = [index for index in spatial if extents[index] > 1]
    inner = wide[-1] if wide else spatial[-1]
    outer = [index for index in spatial if index != inner]
    if not reduction:
        _vectorise(schedule, loops[inner], extents[inner])
        _parallelise(schedule, [loops[index] for index in outer], loops[inner], extents[inner])
        return
    if extents[inner] % VECTOR_LANES:
        _parallelise(schedule, [loops[index] for index in spatial], None, 0)
        return
    chunk, lane = schedule.split(loops[inner], [None, VECTOR_LANES])
    order = [
        *(loops[index] for index in outer),
        chunk,
        *(loops[index] for index in reduction),
        lane,
    ]
    schedule.reorder(*order)
    schedule.vectorize(lane)
    schedule.parallel(schedule.fuse(*(loops[index] for index in outer), chunk))
    initialise = schedule.decompose_reduction(block.block_rv, loops[reduction[0]])
    schedule.vectorize(schedule.get_loops(initialise)[-1])


def _vectorise(schedule: Schedule, loop: object, extent: int) -> None:
    """Explicit vectors where they divide the loop; elsewhere LLVM's loop vectoriser decides."""
    if extent % VECTOR_LANES == 0:
        _, lane = schedule.split(loop, [None, VECTOR_LANES])
        schedule.vectorize(lane)


def _parallelise(
    schedule: Schedule, outer: list[object], inner: object | None, extent: int
) -> None:
    if outer:
        schedule.parallel(schedule.fuse(*outer) if len(outer) > 1 else outer[0])
    elif inner is not None and extent % VECTOR_LANES != 0 and extent > 1:
        schedule.parallel(inner)


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
