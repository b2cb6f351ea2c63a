"""Memory that running a Relax module takes, as ``check_onnx`` says it of an ONNX graph."""

from __future__ import annotations

from math import prod
from typing import Any

import tvm
from tvm import relax
from tvm.ir import GenericConst

from top_tvm.compiler.check_onnx import GraphMemory
from top_tvm.plan import DTYPE_BYTES


def relax_memory(module: tvm.IRModule) -> GraphMemory:
    """Memory of a module that :func:`~top_tvm.compiler.import_relax.import_relax` made."""
    main = module["main"]
    constants: dict[GenericConst, int] = {}

    def visit(expr: Any) -> None:
        if isinstance(expr, GenericConst):
            constants[expr] = _bytes(expr.ty)

    relax.analysis.post_order_visit(main.body, visit)
    bindings = [binding for block in main.body.blocks for binding in block.bindings]
    last_use = {var: len(bindings) for var in relax.analysis.free_vars(main.body.body)}
    for index in reversed(range(len(bindings))):
        for var in relax.analysis.free_vars(bindings[index].value):
            last_use.setdefault(var, index)
    alive = most = sum(_bytes(param.ty) for param in main.params)
    largest_bytes, largest = 0, ""
    dying: dict[int, int] = {}
    for index, binding in enumerate(bindings):
        size = _bytes(binding.var.ty)
        alive += size
        most = max(most, alive)
        if size > largest_bytes:
            largest_bytes, largest = size, repr(str(binding.var.name))
        end = last_use.get(binding.var, index)
        dying[end] = dying.get(end, 0) + size
        alive -= dying.pop(index, 0)
    shapes = {
        str(var.name): tuple(int(extent) for extent in var.ty.shape)
        for var in (*main.params, *(binding.var for binding in bindings))
        if isinstance(var.ty, relax.TensorType)
    }
    return GraphMemory(sum(constants.values()), most, largest_bytes, largest, shapes)


def _bytes(type_: Any) -> int:
    if isinstance(type_, relax.TupleType):
        return sum(_bytes(field) for field in type_.fields)
    if not isinstance(type_, relax.TensorType):
        return 0
    return int(prod(int(extent) for extent in type_.shape) * DTYPE_BYTES[str(type_.dtype)])
