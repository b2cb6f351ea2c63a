"""Merge per-channel scales and shifts, and fold them into the convolution that feeds them.

With per-channel constants, ``conv(x, w) * s = conv(x, w * s)`` and ``(y + b) * s = y * s + b * s``.
Applied in order of the bindings, a chain of batch normalisation and Caffe-style scale-shift behind
a convolution ends as one convolution with one bias, a pre-activation chain as one multiply-add.
"""

from __future__ import annotations

import tvm
from tvm import relax

from top_tvm.compiler.transform.rewriter import (
    Array,
    Expr,
    Rewriter,
    as_constant,
    constant,
    is_call,
    per_channel,
    shape_of,
)

_CHANNEL_AXIS = 1  # the importer's layouts are NC, NCW, NCHW, NCDHW


class _FoldScaleShift(Rewriter):
    def rewrite(self, call: relax.Call, original: relax.Var) -> Expr:
        if is_call(call, "subtract"):
            shift = _operand(call, original, swappable=False)
            return call if shift is None else self._shift(call.args[0], -shift[1])
        if is_call(call, "multiply") or is_call(call, "add"):
            operand = _operand(call, original, swappable=True)
            if operand is not None:
                data, vector = operand
                return (
                    self._scale(data, vector)
                    if is_call(call, "multiply")
                    else self._shift(data, vector)
                )
        return call

    def _scale(self, data: Expr, scale: Array) -> Expr:
        feeding = self._only_use(data)
        if feeding is not None and is_call(feeding, "nn.conv2d") and _plain(feeding):
            weight = constant(feeding.args[1])
            assert weight is not None
            scaled = weight * scale.reshape(-1, 1, 1, 1)
            return relax.Call(
                feeding.op,
                [feeding.args[0], as_constant(scaled.astype(weight.dtype))],
                feeding.attrs,
                feeding.ty_args,
            )
        if feeding is not None and is_call(feeding, "multiply"):
            inner = _operand(feeding, data, swappable=True)
            if inner is not None:
                return self._scale(inner[0], inner[1] * scale)
        if feeding is not None and is_call(feeding, "add"):
            inner = _operand(feeding, data, swappable=True)
            if inner is not None:
                return self._shift(self.bind(self._scale(inner[0], scale)), inner[1] * scale)
        return relax.op.multiply(data, _aligned(scale, data))

    def _shift(self, data: Expr, shift: Array) -> Expr:
        feeding = self._only_use(data)
        if feeding is not None and is_call(feeding, "add"):
            inner = _operand(feeding, data, swappable=True)
            if inner is not None:
                return relax.op.add(inner[0], _aligned(inner[1] + shift, data))
        return relax.op.add(data, _aligned(shift, data))

    def bind(self, expr: Expr) -> relax.Var:
        """Emit a call; the new variable has exactly one reader."""
        var = self.emit(expr)
        self.uses[var] = 1
        return var

    def emit(self, expr: Expr) -> relax.Var:
        var = super().emit(expr)
        self.uses.setdefault(var, 0)
        return var

    def _rebind(self, binding: relax.VarBinding) -> Expr:
        result = super()._rebind(binding)
        if isinstance(result, relax.Var):
            self.uses[result] += self.uses[binding.var]
        return result

    def _only_use(self, data: Expr) -> Expr | None:
        return self.source(data) if self.uses[data] == 1 else None


def _operand(call: relax.Call, result: Expr, *, swappable: bool) -> tuple[Expr, Array] | None:
    """Split ``data op constant`` into data and a per-channel float vector."""
    shape = shape_of(result)
    if len(shape) < 2:
        return None
    pairs = [(call.args[0], call.args[1])]
    if swappable:
        pairs.append((call.args[1], call.args[0]))
    for data, other in pairs:
        vector = per_channel(other, shape[_CHANNEL_AXIS], _CHANNEL_AXIS, len(shape))
        if vector is None or vector.dtype.kind != "f" or constant(data) is not None:
            continue
        if shape_of(data) == shape:
            return data, vector
    return None


def _plain(conv: relax.Call) -> bool:
    attributes = conv.attrs
    layouts = (attributes.data_layout, attributes.kernel_layout, attributes.out_layout)
    return layouts == ("NCHW", "OIHW", "NCHW") and constant(conv.args[1]) is not None


def _aligned(vector: Array, data: Expr) -> Expr:
    shape = [1] * len(shape_of(data))
    shape[_CHANNEL_AXIS] = -1
    return as_constant(vector.reshape(shape))


@tvm.transform.module_pass(opt_level=0, name="FoldScaleShift")
def FoldScaleShift(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Fold per-channel scales and shifts into convolutions and into each other."""
    return relax.transform.DeadCodeElimination()(_FoldScaleShift()(module))
