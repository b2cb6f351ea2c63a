"""Let odd reductions of the innermost axis run on whole vectors.

197 tokens are no multiple of any vector, and a chain of 197 dependent additions is what remains.
The axis is extended to whole vectors, whose surplus elements contribute the initial value instead
of a load. All vectors but the last have no surplus, which TVM's ``LoopPartition`` finds out.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from top_tvm.compiler.transform.schedule_contraction import contracted_weights

# Shorter rows gain nothing.
_MIN_EXTENT = 32


def pad_reductions(function: tirx.PrimFunc, lanes: int) -> tirx.PrimFunc:
    """Extend reductions of the innermost axis to a multiple of the lanes of a vector.

    Sums, maxima and minima of at least 32 elements whose number 4 does not divide; others stay.
    """
    extents: dict[Any, Any] = {}

    def extend(realize: Any) -> Any:
        block = realize.block
        if not _reduces_odd_axis(block):
            return realize
        last = block.iter_vars[-1]
        extent, store = int(last.dom.extent), block.body
        dtype = str(last.var.ty.dtype)
        padded = tirx.IntImm(dtype, -(-extent // lanes) * lanes)
        inside = tirx.likely(last.var < tirx.IntImm(dtype, extent))
        term = tirx.if_then_else(inside, store.value.b, block.init.value)
        value = type(store.value)(store.value.a, term)
        domain = tvm.ir.Range.from_min_extent(last.dom.min, padded)
        axes = [*block.iter_vars[:-1], tirx.IterVar(domain, last.var, last.iter_type)]
        extents[realize.iter_values[-1]] = padded
        return s_tir.SBlockRealize(
            realize.iter_values,
            realize.predicate,
            s_tir.SBlock(
                axes,
                block.reads,
                block.writes,
                block.name_hint,
                tirx.BufferStore(store.buffer, value, store.indices),
                block.init,
                block.alloc_buffers,
                block.match_buffers,
                block.annotations,
            ),
        )

    def lengthen(loop: Any) -> Any:
        if loop.loop_var not in extents:
            return loop
        return tirx.For(loop.loop_var, loop.min, extents[loop.loop_var], loop.kind, loop.body)

    callbacks = [(s_tir.SBlockRealize, extend), (tirx.For, lengthen)]
    return function.with_body(tvm_ffi.structural_map(function.body, callbacks))


def _reduces_odd_axis(block: Any) -> bool:
    """Whether a block combines elements that are contiguous along a last axis of odd extent."""
    if not block.iter_vars or block.init is None or not isinstance(block.body, tirx.BufferStore):
        return False
    last, value = block.iter_vars[-1], block.body.value
    if last.iter_type != tirx.IterVar.CommReduce or not isinstance(last.dom.extent, tirx.IntImm):
        return False
    if [axis.iter_type for axis in block.iter_vars].count(tirx.IterVar.CommReduce) != 1:
        return False
    extent = int(last.dom.extent)
    if extent < _MIN_EXTENT or extent % 4 == 0:
        return False
    if contracted_weights(block) is not None:  # schedule_contraction has other vectors
        return False
    contiguous = any(read.region[-1].min.same_as(last.var) for read in block.reads)
    return contiguous and isinstance(value, (tirx.Add, tirx.Max, tirx.Min))
