"""``sum(stack(a, b, ...), axis=0)`` -> ``a + b + ...``.

ONNX ``Sum`` is imported as broadcast, stack and sum: three copies of every residual, on which no
fusion pattern matches.
"""

from __future__ import annotations

from functools import reduce

import tvm
from tvm import relax

from top_tvm.compiler.transform.rewriter import Expr, Rewriter, is_call, shape_of


class _StackSumToAdd(Rewriter):
    def rewrite(self, call: relax.Call, original: relax.Var) -> Expr:
        if is_call(call, "broadcast_to") and shape_of(call.args[0]) == shape_of(original):
            return call.args[0]
        if not is_call(call, "sum") or call.attrs.keepdims or list(call.attrs.axis or []) != [0]:
            return call
        stack = self.source(call.args[0])
        if stack is None or not is_call(stack, "stack") or int(stack.attrs.axis) != 0:
            return call
        return reduce(
            lambda left, right: relax.op.add(self.emit(left), right), stack.args[0].fields
        )

    def emit(self, expr: Expr) -> relax.Var:
        return expr if isinstance(expr, relax.Var) else super().emit(expr)


@tvm.transform.module_pass(opt_level=0, name="StackSumToAdd")
def StackSumToAdd(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Turn the importer's form of ONNX ``Sum`` into additions."""
    return relax.transform.DeadCodeElimination()(_StackSumToAdd()(module))
