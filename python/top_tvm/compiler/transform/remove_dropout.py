"""``dropout`` -> its input: inference drops nothing, and the mask is all ones."""

from __future__ import annotations

import tvm
from tvm import relax

from top_tvm.compiler.transform.rewriter import Expr, Rewriter, is_call, shape_of


class _RemoveDropout(Rewriter):
    def rewrite(self, call: relax.Call, original: relax.Var) -> Expr:
        if not is_call(call, "nn.dropout"):
            return call
        data = call.args[0]
        return relax.Tuple([data, self.emit(relax.op.ones(shape_of(data), data.ty.dtype))])


@tvm.transform.module_pass(opt_level=0, name="RemoveDropout")
def RemoveDropout(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Remove dropout, whose tuple result no fusion pattern expects."""
    return relax.transform.DeadCodeElimination()(_RemoveDropout()(module))
