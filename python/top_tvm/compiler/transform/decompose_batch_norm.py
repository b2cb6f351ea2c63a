"""Inference ``batch_norm`` with constant statistics -> ``x * scale + shift``.

``scale = gamma / sqrt(variance + epsilon)`` and ``shift = beta - mean * scale`` per channel
(Ioffe and Szegedy, 2015, arXiv:1502.03167), computed in float64.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from top_tvm.compiler.transform.rewriter import (
    Array,
    Expr,
    Rewriter,
    as_constant,
    constant,
    is_call,
    shape_of,
)


class _DecomposeBatchNorm(Rewriter):
    def rewrite(self, call: relax.Call, original: relax.Var) -> Expr:
        if not is_call(call, "nn.batch_norm"):
            return call
        gamma, beta, mean, variance = (constant(argument) for argument in call.args[1:5])
        if gamma is None or beta is None or mean is None or variance is None:
            return call
        attributes = call.attrs
        deviation = np.sqrt(variance.astype(np.float64) + float(attributes.epsilon))
        scale = (gamma if attributes.scale else np.ones_like(gamma)) / deviation
        shift = (beta if attributes.center else np.zeros_like(beta)) - mean * scale
        rank = len(shape_of(call.args[0]))
        axis = int(attributes.axis) % rank
        dtype = gamma.dtype

        def aligned(vector: Array) -> Expr:
            shape = [1] * rank
            shape[axis] = -1
            return as_constant(vector.astype(dtype).reshape(shape))

        scaled = self.emit(relax.op.multiply(call.args[0], aligned(scale)))
        result = self.emit(relax.op.add(scaled, aligned(shift)))
        # The running statistics are results of the Relax operator that inference never reads.
        return relax.Tuple([result, call.args[3], call.args[4]])


@tvm.transform.module_pass(opt_level=0, name="DecomposeBatchNorm")
def DecomposeBatchNorm(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Turn inference batch normalisation into a scale and a shift."""
    return _DecomposeBatchNorm()(module)
