"""Wrap what only renames memory into private functions: reshapes, and slices of leading rows."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import tvm
from tvm import relax

from top_tvm.compiler.transform.dataflow import Dataflow
from top_tvm.compiler.transform.library_function import Match, outline
from top_tvm.compiler.transform.rewriter import is_call, shape_of, variables_in
from top_tvm.plan import ALIGNMENT_BYTES, DTYPE_BYTES

RESHAPES = ("reshape", "squeeze", "expand_dims", "flatten")
_NARROWEST_FLOAT_BYTES = 2  # what a later pass may make of wider ones


@tvm.transform.module_pass(opt_level=0, name="DispatchViews")
def DispatchViews(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Make reshapes and aligned slices views, which need no kernel at all."""
    graph = Dataflow(module)
    returned = _returned(graph, variables_in(module["main"].body.body))
    return outline(module, graph, list(_views(graph, returned)))


def _views(graph: Dataflow, returned: set[Any]) -> Iterable[Match]:
    for binding in graph.bindings:
        call, var = binding.value, binding.var
        name = next((name for name in RESHAPES if is_call(call, name)), None)
        if name is not None:
            yield Match("view", name, [call.args[0]], [var])
        elif is_call(call, "strided_slice") and var not in returned:
            start = _first_element(call, var)
            if start is not None:
                yield Match("view", "slice", [call.args[0]], [var], {"start": [start]})


def _returned(graph: Dataflow, results: Iterable[relax.Var]) -> set[Any]:
    """Results and what they are views of: a result fills a memory of its own."""
    found: set[Any] = set()
    for var in results:
        while var not in found:
            found.add(var)
            call = graph.values.get(var)
            if call is not None and any(is_call(call, name) for name in RESHAPES):
                var = call.args[0]
    return found


def _first_element(call: relax.Call, var: relax.Var) -> int | None:
    """Where a slice starts, if it is one run of elements at an address fit for kernels."""
    data = call.args[0]
    if not isinstance(data, relax.Var) or bool(call.attrs.assume_inbound):
        return None
    source, target = shape_of(data), shape_of(var)
    axes, begins, _, strides = (_integers(argument) for argument in (*call.args[1:], None)[:4])
    if axes is None or begins is None or (strides is not None and set(strides) != {1}):
        return None
    cut = [
        axis for axis, extents in enumerate(zip(source, target, strict=True)) if len({*extents}) > 1
    ]
    if 0 in target or any(extent != 1 for extent in target[: max(cut, default=0)]):
        return None
    start = 0
    for axis, begin in zip(axes, begins, strict=True):
        extent = source[axis % len(source)]
        first = min(max(begin + extent if begin < 0 else begin, 0), extent)
        start += first * prod(source[axis % len(source) + 1 :])
    dtype = str(var.ty.dtype)
    size = DTYPE_BYTES[dtype]
    if dtype == "float32":
        size = _NARROWEST_FLOAT_BYTES
    return start if start * size % ALIGNMENT_BYTES == 0 else None


def _integers(argument: Any) -> list[int] | None:
    fields = getattr(argument, "fields", None)
    if fields is None:
        return None
    return [int(getattr(field, "value", field)) for field in fields]
