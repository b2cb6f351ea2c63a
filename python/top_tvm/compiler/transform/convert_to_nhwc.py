"""Run convolutions and everything between them channels-last.

oneDNN's NHWC convolutions reach 94-100 % of peak, its NCHW ones 20-75 %, so the whole graph from
the first to the last convolution moves to NHWC. Each new variable carries the permutation that
leads back to its original layout; a call that understands the permuted layout consumes it, any
other makes the original layout reappear by one transpose (a free reshape where no element moves).
Relax's ``ConvertLayout`` leaves hundreds of transposes on such models (242 on DenseNet-121).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm
from tvm import relax

from top_tvm.compiler.transform.rewriter import (
    Expr,
    Rewriter,
    as_constant,
    constant,
    is_call,
    is_tensor,
    shape_of,
)

UNARY = {
    f"relax.{name}"
    for name in (
        *(
            "nn.relu",
            "nn.relu6",
            "nn.gelu",
            "nn.silu",
            "nn.leakyrelu",
            "sigmoid",
            "tanh",
            "exp",
            "log",
        ),
        *("sqrt", "rsqrt", "negative", "abs", "clip", "erf", "floor", "ceil", "round", "astype"),
    )
}
BINARY = {
    f"relax.{name}"
    for name in ("add", "subtract", "multiply", "divide", "power", "maximum", "minimum")
}
_POOLS = {"relax.nn.max_pool2d", "relax.nn.avg_pool2d", "relax.nn.adaptive_avg_pool2d"}
_REDUCTIONS = {"relax.mean", "relax.sum", "relax.max", "relax.min"}

TO_NHWC = (0, 2, 3, 1)
# NHWC with a unit axis inserted at 1: the importer's local response normalisation pools there.
_TO_N1HWC = (0, 1, 3, 4, 2)


class _ConvertToNHWC(Rewriter):
    def __init__(self) -> None:
        super().__init__()
        self.layout: dict[Expr, tuple[int, ...]] = {}  # new variable -> its axes in original terms
        self.originals: dict[Expr, Expr] = {}  # new variable -> the same tensor in original layout
        self.converted: dict[Expr, Expr] = {}  # original-layout variable -> its NHWC form

    def rewrite(self, call: relax.Call, original: relax.Var) -> Expr:
        name = call.op.name if isinstance(call.op, tvm.ir.Op) else ""
        if name == "relax.nn.conv2d" and call.attrs.data_layout == "NCHW":
            return self._conv2d(call)
        if name == "relax.nn.conv2d_transpose" and call.attrs.data_layout == "NCHW":
            return self._conv2d_transpose(call)
        layouts = [self.layout[data] for data in _tensors(call) if data in self.layout]
        if layouts and all(layout == layouts[0] for layout in layouts):
            result = self._in_layout(name, call, layouts[0])
            if result is not None:
                expr, layout = result
                return self._emit_in(expr, layout)
        arguments = [self._original(argument) for argument in call.args]
        return relax.Call(call.op, arguments, call.attrs, call.ty_args)

    def finish(self, output: Expr) -> Expr:
        return self._original(output)

    def _conv2d(self, call: relax.Call) -> Expr:
        attributes = call.attrs
        convolution = relax.op.nn.conv2d(
            self._nhwc(call.args[0]),
            call.args[1],
            strides=list(attributes.strides),
            padding=list(attributes.padding),
            dilation=list(attributes.dilation),
            groups=int(attributes.groups),
            data_layout="NHWC",
            kernel_layout=attributes.kernel_layout,
            out_dtype=attributes.out_dtype,
        )
        return self._emit_in(convolution, TO_NHWC)

    def _conv2d_transpose(self, call: relax.Call) -> Expr:
        """TVM has no NHWC form of it: NCHW between two permutations, which oneDNN takes as one."""
        data = self.emit(relax.op.permute_dims(self._nhwc(call.args[0]), list(np.argsort(TO_NHWC))))
        result = self.emit(relax.Call(call.op, [data, call.args[1]], call.attrs, call.ty_args))
        return self._emit_in(relax.op.permute_dims(result, list(TO_NHWC)), TO_NHWC)

    def _in_layout(
        self, name: str, call: relax.Call, layout: tuple[int, ...]
    ) -> tuple[Expr, tuple[int, ...]] | None:
        """Form of the call on permuted arguments, or None when it has none."""
        if name in UNARY:
            return call, layout
        if name in BINARY:
            arguments = [self._operand(argument, layout) for argument in call.args]
            if any(argument is None for argument in arguments):
                return None
            return relax.Call(call.op, arguments, call.attrs, call.ty_args), layout
        if name == "relax.concat" and all(is_tensor(field) for field in call.args[0].fields):
            axis = int(call.attrs.axis) % len(layout)
            fields = [self._operand(field, layout) for field in call.args[0].fields]
            if any(field is None for field in fields):
                return None
            return relax.op.concat(fields, axis=layout.index(axis)), layout
        if name in _REDUCTIONS and call.attrs.keepdims and call.attrs.axis:
            axes = [layout.index(int(axis) % len(layout)) for axis in call.attrs.axis]
            reduction = getattr(relax.op, name.removeprefix("relax."))
            return reduction(call.args[0], axis=axes, keepdims=True), layout
        return (
            _expand(name, call, layout) or _squeeze(name, call, layout) or _pool(name, call, layout)
        )

    def _operand(self, argument: Expr, layout: tuple[int, ...]) -> Expr | None:
        """Argument of an elementwise call in the layout: transposed constant or permuted tensor."""
        if argument in self.layout:
            return argument
        value = constant(argument)
        if value is not None:
            if value.size == 1:
                return argument
            if value.ndim > len(layout):
                return None
            value = value.reshape((1,) * (len(layout) - value.ndim) + value.shape)
            return as_constant(value.transpose(layout))
        if is_tensor(argument) and len(shape_of(argument)) == len(layout) == 4:
            return self._nhwc(argument)
        return None

    def _nhwc(self, data: Expr) -> Expr:
        if data in self.layout:
            return data if self.layout[data] == TO_NHWC else self._nhwc(self._original(data))
        if data not in self.converted:
            self.converted[data] = self._permute(data, TO_NHWC)
        return self.converted[data]

    def _original(self, expr: Expr) -> Expr:
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._original(field) for field in expr.fields])
        if expr not in self.layout:
            return expr
        if expr not in self.originals:
            self.originals[expr] = self._permute(expr, tuple(np.argsort(self.layout[expr])))
        return self.originals[expr]

    def _permute(self, data: Expr, axes: Sequence[int]) -> relax.Var:
        shape = shape_of(data)
        moved = [int(axis) for axis in axes if shape[axis] != 1]
        if moved == sorted(moved):  # no element changes place
            return self.emit(relax.op.reshape(data, [shape[axis] for axis in axes]))
        return self.emit(relax.op.permute_dims(data, [int(axis) for axis in axes]))

    def _emit_in(self, expr: Expr, layout: tuple[int, ...]) -> relax.Var:
        var = self.emit(expr)
        if layout != tuple(range(len(layout))):
            self.layout[var] = layout
        return var


def _tensors(call: relax.Call) -> list[Expr]:
    found: list[Expr] = []
    for argument in call.args:
        found.extend(argument.fields if isinstance(argument, relax.Tuple) else [argument])
    return [argument for argument in found if isinstance(argument, relax.Var)]


def _pool(
    name: str, call: relax.Call, layout: tuple[int, ...]
) -> tuple[Expr, tuple[int, ...]] | None:
    if layout == TO_NHWC:
        return _pool2d(name, call)
    return _pool3d(name, call) if layout == _TO_N1HWC else None


def _pool2d(name: str, call: relax.Call) -> tuple[Expr, tuple[int, ...]] | None:
    attributes = call.attrs
    if name not in _POOLS or attributes.layout != "NCHW":
        return None
    if is_call(call, "nn.adaptive_avg_pool2d"):
        size = (
            [int(extent) for extent in attributes.output_size] if attributes.output_size else None
        )
        return relax.op.nn.adaptive_avg_pool2d(call.args[0], size, layout="NHWC"), TO_NHWC
    pool = relax.op.nn.max_pool2d if is_call(call, "nn.max_pool2d") else relax.op.nn.avg_pool2d
    pooled = pool(
        call.args[0],
        pool_size=list(attributes.pool_size),
        strides=list(attributes.strides),
        padding=list(attributes.padding),
        dilation=list(attributes.dilation),
        ceil_mode=bool(attributes.ceil_mode),
        count_include_pad=bool(attributes.count_include_pad),
        layout="NHWC",
    )
    return pooled, TO_NHWC


def _expand(
    name: str, call: relax.Call, layout: tuple[int, ...]
) -> tuple[Expr, tuple[int, ...]] | None:
    """The new axis comes second in memory, in front of height and width."""
    if name != "relax.expand_dims" or len(call.attrs.axis) != 1:
        return None
    added = int(call.attrs.axis[0]) % (len(layout) + 1)
    moved = [axis if axis < added else axis + 1 for axis in layout]
    return relax.op.expand_dims(call.args[0], axis=1), (moved[0], added, *moved[1:])


def _squeeze(
    name: str, call: relax.Call, layout: tuple[int, ...]
) -> tuple[Expr, tuple[int, ...]] | None:
    if name != "relax.squeeze" or not call.attrs.axis:
        return None
    removed = [int(axis) % len(layout) for axis in call.attrs.axis]
    kept = [axis for axis in layout if axis not in removed]
    renumbered = tuple(axis - sum(gone < axis for gone in removed) for axis in kept)
    places = [layout.index(axis) for axis in removed]
    return relax.op.squeeze(call.args[0], axis=places), renumbered


def _pool3d(name: str, call: relax.Call) -> tuple[Expr, tuple[int, ...]] | None:
    attributes = call.attrs
    if name != "relax.nn.avg_pool3d" or attributes.layout != "NCDHW":
        return None

    def turned(extents: Sequence[int]) -> list[int]:
        depth, height, width = (int(extent) for extent in extents)
        return [height, width, depth]

    padding = list(attributes.padding)
    pooled = relax.op.nn.avg_pool3d(
        call.args[0],
        pool_size=turned(attributes.pool_size),
        strides=turned(attributes.strides),
        padding=turned(padding[:3]) + turned(padding[3:]),
        dilation=turned(attributes.dilation),
        ceil_mode=bool(attributes.ceil_mode),
        count_include_pad=bool(attributes.count_include_pad),
        layout="NCDHW",
    )
    return pooled, _TO_N1HWC


@tvm.transform.module_pass(opt_level=0, name="ConvertToNHWC")
def ConvertToNHWC(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Move 2-D convolutions and what lies between them to NHWC."""
    return relax.transform.DeadCodeElimination()(_ConvertToNHWC()(module))
