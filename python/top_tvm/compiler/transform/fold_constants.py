"""Evaluate calls whose arguments are all constant, in NumPy.

Relax's own ``FoldConstant`` compiles and runs a TVM kernel per call: 10 to 40 s on bigger models
for reshapes and transposes that NumPy does in microseconds. Operators outside the table stay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax

from top_tvm.compiler.transform.rewriter import (
    Array,
    Expr,
    Rewriter,
    as_constant,
    constant,
    shape_of,
)

_UNARY: dict[str, Callable[[Array], Any]] = {
    "relax.sqrt": np.sqrt,
    "relax.exp": np.exp,
    "relax.negative": np.negative,
    "relax.abs": np.abs,
    "relax.isnan": np.isnan,
}
_BINARY: dict[str, Callable[[Array, Array], Any]] = {
    "relax.add": np.add,
    "relax.subtract": np.subtract,
    "relax.multiply": np.multiply,
    "relax.divide": np.divide,
    "relax.power": np.power,
    "relax.maximum": np.maximum,
    "relax.minimum": np.minimum,
}
_RESHAPES = {"relax.reshape", "relax.squeeze", "relax.expand_dims", "relax.flatten"}


def evaluate(call: relax.Call, shape: tuple[int, ...]) -> Array | None:
    """Value of a call with constant arguments, or None when the operator is not in the table."""
    if not isinstance(call.op, tvm.ir.Op):
        return None
    name = call.op.name
    tensors = [argument for argument in call.args if not isinstance(argument, relax.ShapeExpr)]
    values = [constant(argument) for argument in tensors]
    first = values[0] if values else None
    if first is None or any(value is None for value in values):
        return None
    if name in _RESHAPES:
        return first.reshape(shape)
    if name == "relax.permute_dims":
        return np.transpose(
            first, [int(axis) for axis in call.attrs.axes] if call.attrs.axes else None
        )
    if name == "relax.broadcast_to":
        return np.broadcast_to(first, shape)
    if name == "relax.astype":
        return first.astype(str(call.attrs.dtype))
    if name in _UNARY:
        return np.asarray(_UNARY[name](first))
    if name == "relax.where":
        condition, yes, no = (np.asarray(value) for value in values)
        return np.where(condition, yes, no)
    second = values[1] if len(values) == 2 else None
    # Integer division truncates in ONNX and floors in NumPy: leave it to the kernel.
    if name in _BINARY and second is not None and first.dtype.kind == "f":
        return np.asarray(_BINARY[name](first, second))
    return None


class _FoldConstants(Rewriter):
    def rewrite(self, call: relax.Call, original: relax.Var) -> Expr:
        value = evaluate(call, shape_of(original)) if _one_tensor(original) else None
        return call if value is None else as_constant(value)


def _one_tensor(var: relax.Var) -> bool:
    return isinstance(var.ty, relax.TensorType)


@tvm.transform.module_pass(opt_level=0, name="FoldConstants")
def FoldConstants(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Fold constant reshapes, transposes, casts and arithmetic."""
    return _FoldConstants()(module)
