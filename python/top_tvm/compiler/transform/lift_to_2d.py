"""1-D convolutions and pools -> 2-D ones of height 1, for which there are fast kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import relax

from top_tvm.compiler.transform.rewriter import Expr, Rewriter, is_call

_HEIGHT_AXIS = 2


class _LiftTo2D(Rewriter):
    def rewrite(self, call: relax.Call, original: relax.Var) -> Expr:
        for name, lift in _LIFTS.items():
            if is_call(call, name):
                arguments = [
                    self.emit(relax.op.expand_dims(argument, axis=_HEIGHT_AXIS))
                    for argument in call.args
                ]
                lifted = lift(arguments, call.attrs)
                if lifted is not None:
                    return relax.op.squeeze(self.emit(lifted), axis=[_HEIGHT_AXIS])
        return call


def _around(extents: Sequence[Any], height: int) -> list[int]:
    """Strides, dilations or a window: the same, behind what holds for the height."""
    return [height, *(int(extent) for extent in extents)]


def _padding(padding: Sequence[Any]) -> list[int]:
    begin, end = (int(extent) for extent in padding)
    return [0, begin, 0, end]


def _conv1d(arguments: list[Expr], attributes: Any) -> Expr | None:
    if (attributes.data_layout, attributes.kernel_layout) != ("NCW", "OIW"):
        return None
    return relax.op.nn.conv2d(
        *arguments,
        strides=_around(attributes.strides, 1),
        padding=_padding(attributes.padding),
        dilation=_around(attributes.dilation, 1),
        groups=int(attributes.groups),
        out_dtype=attributes.out_dtype,
    )


def _conv1d_transpose(arguments: list[Expr], attributes: Any) -> Expr | None:
    if (attributes.data_layout, attributes.kernel_layout) != ("NCW", "IOW"):
        return None
    return relax.op.nn.conv2d_transpose(
        *arguments,
        strides=_around(attributes.strides, 1),
        padding=_padding(attributes.padding),
        output_padding=_around(attributes.output_padding, 0),
        dilation=_around(attributes.dilation, 1),
        groups=int(attributes.groups),
        out_dtype=attributes.out_dtype,
    )


def _pool1d(operator: Callable[..., Expr]) -> Callable[[list[Expr], Any], Expr | None]:
    def lift(arguments: list[Expr], attributes: Any) -> Expr | None:
        if attributes.layout != "NCW":
            return None
        return operator(
            *arguments,
            pool_size=_around(attributes.pool_size, 1),
            strides=_around(attributes.strides, 1),
            padding=_padding(attributes.padding),
            dilation=_around(attributes.dilation, 1),
            ceil_mode=bool(attributes.ceil_mode),
            count_include_pad=bool(attributes.count_include_pad),
        )

    return lift


_LIFTS: dict[str, Callable[[list[Expr], Any], Expr | None]] = {
    "nn.conv1d": _conv1d,
    "nn.conv1d_transpose": _conv1d_transpose,
    "nn.max_pool1d": _pool1d(relax.op.nn.max_pool2d),
    "nn.avg_pool1d": _pool1d(relax.op.nn.avg_pool2d),
}


@tvm.transform.module_pass(opt_level=0, name="LiftTo2D")
def LiftTo2D(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Give 1-D convolutions and pools a height of 1."""
    return relax.transform.DeadCodeElimination()(_LiftTo2D()(module))
