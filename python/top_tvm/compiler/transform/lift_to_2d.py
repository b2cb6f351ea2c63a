"""1-D convolutions and pools -> 2-D ones of height 1, for which there are fast kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import relax

from top_tvm.compiler.transform.layout_rules import BROADCASTING
from top_tvm.compiler.transform.rewriter import Expr, Rewriter, constant, is_tensor, shape_of

_HEIGHT_AXIS = 2


class _LiftTo2D(Rewriter):
    """Elementwise operators between two lifted ones are lifted, too."""

    def __init__(self) -> None:
        super().__init__()
        self.lifted: dict[Expr, Expr] = {}  # new variable -> the same with a height

    def rewrite(self, call: relax.Call, original: relax.Var) -> Expr:
        name = call.op.name if isinstance(call.op, tvm.ir.Op) else ""
        lift = _LIFTS.get(name)
        if lift is not None:
            lifted = lift([self._with_height(argument) for argument in call.args], call.attrs)
        elif name in BROADCASTING and any(argument in self.lifted for argument in call.args):
            lifted = self._elementwise(call, len(shape_of(original)))
        else:
            return call
        if lifted is None:
            return call
        tall = self.emit(lifted)
        flat = self.emit(relax.op.squeeze(tall, axis=[_HEIGHT_AXIS]))
        self.lifted[flat] = tall
        return flat

    def _with_height(self, data: Expr) -> Expr:
        if data in self.lifted:
            return self.lifted[data]
        return self.emit(relax.op.expand_dims(data, axis=_HEIGHT_AXIS))

    def _elementwise(self, call: relax.Call, rank: int) -> Expr | None:
        arguments = []
        for argument in call.args:
            value = constant(argument)
            if not is_tensor(argument) or (value is not None and value.size == 1):
                arguments.append(argument)
            elif len(shape_of(argument)) == rank:
                arguments.append(self._with_height(argument))
            else:
                return None
        return relax.Call(call.op, arguments, call.attrs, call.ty_args)


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
    "relax.nn.conv1d": _conv1d,
    "relax.nn.conv1d_transpose": _conv1d_transpose,
    "relax.nn.max_pool1d": _pool1d(relax.op.nn.max_pool2d),
    "relax.nn.avg_pool1d": _pool1d(relax.op.nn.avg_pool2d),
}


@tvm.transform.module_pass(opt_level=0, name="LiftTo2D")
def LiftTo2D(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Give 1-D convolutions and pools a height of 1."""
    return relax.transform.DeadCodeElimination()(_LiftTo2D()(module))
