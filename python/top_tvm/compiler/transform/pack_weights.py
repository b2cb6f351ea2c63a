"""Turn the weights of channels-last convolutions so that output channels are innermost.

oneDNN packs weights itself; kernels that TVM generates read them as they lie, a vector of output
channels at a time.
"""

from __future__ import annotations

import tvm
from tvm import relax

from top_tvm.compiler.transform.rewriter import Expr, Rewriter, is_call

_OIHW_TO_HWIO = (2, 3, 1, 0)


class _PackWeights(Rewriter):
    def rewrite(self, call: relax.Call, original: relax.Var) -> Expr:
        attributes = call.attrs
        if not is_call(call, "nn.conv2d") or attributes.data_layout != "NHWC":
            return call
        if attributes.kernel_layout != "OIHW":
            return call
        weights = self.emit(relax.op.permute_dims(call.args[1], list(_OIHW_TO_HWIO)))
        return relax.op.nn.conv2d(
            call.args[0],
            weights,
            strides=list(attributes.strides),
            padding=list(attributes.padding),
            dilation=list(attributes.dilation),
            groups=int(attributes.groups),
            data_layout="NHWC",
            kernel_layout="HWIO",
            out_dtype=attributes.out_dtype,
        )


@tvm.transform.module_pass(opt_level=0, name="PackWeights")
def PackWeights(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Give NHWC convolutions weights in HWIO; constants are folded afterwards."""
    return _PackWeights()(module)
