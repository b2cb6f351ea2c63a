"""Kernels that the importer writes for ONNX ``Clip`` -> ``maximum`` and ``minimum``.

The importer skips the operators and emits TIR right away, which neither moves to NHWC nor fuses
into a convolution: ReLU6 would cost two transposes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.ir import TensorLoad
from tvm.s_tir import SBlockRealize

from top_tvm.compiler.transform.rewriter import Expr, Rewriter, as_constant, is_call, shape_of

_OPERATORS = {tirx.Max: relax.op.maximum, tirx.Min: relax.op.minimum}


class _RestoreClip(Rewriter):
    def __init__(self, module: tvm.IRModule) -> None:
        super().__init__()
        self.module = module

    def rewrite(self, call: relax.Call, original: relax.Var) -> Expr:
        if not is_call(call, "call_tir") or not isinstance(original.ty, relax.TensorType):
            return call
        fields = list(call.args[1].fields)
        value = _stored_value(self.module[call.args[0].name_hint].body)
        if type(value) not in _OPERATORS or not isinstance(value.a, TensorLoad):
            return call
        if shape_of(fields[0]) != shape_of(original):
            return call
        if isinstance(value.b, tirx.FloatImm) and len(fields) == 1:
            bound = as_constant(np.asarray(float(value.b.value), str(original.ty.dtype)))
        elif isinstance(value.b, TensorLoad) and len(fields) == 2 and not shape_of(fields[1]):
            bound = fields[1]
        else:
            return call
        return _OPERATORS[type(value)](fields[0], bound)


def _stored_value(statement: Any) -> Any:
    """What an elementwise kernel of one block stores; None for any other kernel."""
    while not isinstance(statement, tirx.BufferStore):
        if isinstance(statement, tirx.For):
            statement = statement.body
        elif isinstance(statement, SBlockRealize):
            statement = statement.block.body
        else:
            return None
    return statement.value


@tvm.transform.module_pass(opt_level=0, name="RestoreClip")
def RestoreClip(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Turn the importer's kernels for ``Clip`` back into operators."""
    return relax.transform.DeadCodeElimination()(_RestoreClip(module)(module))
