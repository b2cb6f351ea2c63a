"""Inline the blocks of a kernel into each other, where that saves a buffer and repeats little.

``FuseTIR`` gives every operator of a kernel a block and a buffer of its own. Inlined, a chain of
elementwise operators is one expression in one loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm.ir import TensorLoad
from tvm.s_tir import Schedule
from tvm.s_tir.dlight.analysis import SBlockInfo
from tvm.s_tir.schedule import ScheduleError

from top_tvm.compiler.transform.expand_math import is_transcendental
from top_tvm.compiler.transform.schedule_contraction import reads_contraction

# Loads that an expression may have because what it reads was inlined more than once. LLVM finds
# copies and computes them once, but all passes before look at each: x + x, 25 times over, would be
# 2**25 loads.
MAX_REPEATED_LOADS = 32
# Transcendental functions within each other. ``expand_math`` binds variables in each, and when LLVM
# code is generated, TVM puts the values of all of them into each other: four levels take seconds.
MAX_NESTED_CALLS = 3


def inline_blocks(schedule: Schedule, blocks: Sequence[SBlockInfo]) -> list[SBlockInfo]:
    """Inline what can be, except where that repeats or prevents vector work."""
    left = list(blocks)
    changed = True
    while changed:
        changed = False
        for block in list(left):
            if _worth_a_buffer(schedule, block.block_rv):
                continue
            for inline in (schedule.compute_inline, schedule.reverse_compute_inline):
                if inline == schedule.reverse_compute_inline and not _may_join_producer(
                    schedule, block.block_rv
                ):
                    continue
                try:
                    inline(block.block_rv)
                except ScheduleError:
                    continue
                left.remove(block)
                changed = True
                break
    return left


def _may_join_producer(schedule: Schedule, block: Any) -> bool:
    """Whether inlining a block into what it reads is right, which TVM does not check itself.

    It would inline it into each step of a trivial reduction, and take a buffer away that other
    blocks read, too.
    """
    return all(
        schedule.get(producer).init is None
        and len(schedule.get_consumers(producer)) == 1
        and not _grows_much(schedule, producer)
        for producer in schedule.get_producers(block)
    )


def _worth_a_buffer(schedule: Schedule, block: Any) -> bool:
    """Whether readers should load the results of a block rather than compute them again."""
    statement = schedule.get(block)
    if len(schedule.get_consumers(block)) > 1 and _transcendental(statement.body):
        return True
    if _grows_much(schedule, block):
        return True
    if not schedule.get_consumers(block) or len(statement.reads) != 1:
        return False
    if reads_contraction(schedule, block):
        return True
    # Padding of the innermost axis: its condition would differ from lane to lane.
    source, target = statement.reads[0].source.shape, statement.writes[0].source.shape
    value = getattr(statement.body, "value", None)
    conditional = (
        isinstance(value, tvm.ir.Call) and getattr(value.op, "name", "") == "prim.if_then_else"
    )
    return conditional and len(source) == len(target) and int(source[-1]) < int(target[-1])


def _grows_much(schedule: Schedule, block: Any) -> bool:
    """Whether inlining a block into its readers makes expressions that take long to compile."""
    written = [region.source for region in schedule.get(block).writes]
    inner = _loads(schedule, block)
    depth = max((load.depth for load in inner), default=0)
    readers = [_loads(schedule, reader) for reader in schedule.get_consumers(block)]
    copies = [[load for load in found if load.is_of(written)] for found in readers]
    if any(depth and load.depth + depth > MAX_NESTED_CALLS for loads in copies for load in loads):
        return True
    return sum(map(len, copies)) > 1 and any(
        len(found) + len(loads) * (len(inner) - 1) > MAX_REPEATED_LOADS
        for found, loads in zip(readers, copies, strict=True)
    )


@dataclass(frozen=True)
class _Load:
    """A load, and how many transcendental functions are around it."""

    source: Any
    depth: int

    def is_of(self, sources: Sequence[Any]) -> bool:
        return any(map(self.source.same_as, sources))


def _loads(schedule: Schedule, block: Any) -> list[_Load]:
    found: list[_Load] = []
    depth = 0

    def enter(call: Any, visitor: Any) -> None:
        nonlocal depth
        costly = is_transcendental(call)
        depth += costly
        visitor.default_visit(call)
        depth -= costly

    def load(value: Any, visitor: Any) -> None:
        found.append(_Load(value.source, depth))
        visitor.default_visit(value)

    callbacks = [(tvm.ir.Call, enter), (TensorLoad, load)]
    tvm_ffi.structural_visit(schedule.get(block).body, callbacks)
    return found


def _transcendental(body: Any) -> bool:
    found = []
    tvm_ffi.structural_walk(body, (tvm.ir.Call, lambda call: found.append(is_transcendental(call))))
    return any(found)
