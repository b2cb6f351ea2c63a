"""Run convolutions and everything between them channels-last.

oneDNN's NHWC convolutions reach 94-100 % of peak, its NCHW ones 20-75 %, so the whole graph from
the first to the last convolution moves to NHWC. Each new variable carries its layout: how its axes
are stored. A call that understands the layout consumes it (``layout_rules``), any other makes the
original layout reappear by one transpose (a free reshape where no element moves). A
``permute_dims`` of the model only changes the layout; whether elements move, its readers decide.
Relax's ``ConvertLayout`` leaves hundreds of transposes on such models (242 on DenseNet-121).
"""

from __future__ import annotations

import tvm
from tvm import relax

from top_tvm.compiler.transform.layout import Layout, identity, reshape_layouts, same_order
from top_tvm.compiler.transform.layout_rules import BROADCASTING, LAYOUT_RULES, TO_NHWC
from top_tvm.compiler.transform.rewriter import (
    Expr,
    Rewriter,
    as_constant,
    constant,
    is_call,
    is_tensor,
    shape_of,
)


class _ConvertToNHWC(Rewriter):
    def __init__(self) -> None:
        super().__init__()
        self.layout: dict[Expr, Layout] = {}  # new variables that are not stored as declared
        self.shape: dict[Expr, tuple[int, ...]] = {}  # their original shapes
        self.forms: dict[tuple[Expr, Layout], Expr] = {}  # the same tensor in other layouts

    def rewrite(self, call: relax.Call, original: relax.Var) -> Expr:
        name = call.op.name if isinstance(call.op, tvm.ir.Op) else ""
        if name == "relax.nn.conv2d" and call.attrs.data_layout == "NCHW":
            return self._conv2d(call, original)
        if name == "relax.nn.conv2d_transpose" and call.attrs.data_layout == "NCHW":
            return self._conv2d_transpose(call, original)
        if name == "relax.permute_dims":
            return self._permute_dims(call, original)
        if any(data in self.layout for data in _tensors(call)):
            result = self._in_layout(name, call, original)
            if result is not None:
                return result
        arguments = [self._original(argument) for argument in call.args]
        return relax.Call(call.op, arguments, call.attrs, call.ty_args)

    def finish(self, output: Expr) -> Expr:
        return self._original(output)

    def _conv2d(self, call: relax.Call, original: relax.Var) -> Expr:
        attributes = call.attrs
        convolution = relax.op.nn.conv2d(
            self._in(call.args[0], TO_NHWC),
            self._original(call.args[1]),
            strides=list(attributes.strides),
            padding=list(attributes.padding),
            dilation=list(attributes.dilation),
            groups=int(attributes.groups),
            data_layout="NHWC",
            kernel_layout=attributes.kernel_layout,
            out_dtype=attributes.out_dtype,
        )
        return self._emit_in(convolution, TO_NHWC, shape_of(original))

    def _conv2d_transpose(self, call: relax.Call, original: relax.Var) -> Expr:
        """TVM has no NHWC form of it: NCHW between two permutations, which oneDNN takes as one."""
        to_nchw = [TO_NHWC.index(axis) for axis in range(len(TO_NHWC))]
        data = self.emit(relax.op.permute_dims(self._in(call.args[0], TO_NHWC), to_nchw))
        arguments = [data, self._original(call.args[1])]
        result = self.emit(relax.Call(call.op, arguments, call.attrs, call.ty_args))
        permuted = relax.op.permute_dims(result, list(TO_NHWC))
        return self._emit_in(permuted, TO_NHWC, shape_of(original))

    def _permute_dims(self, call: relax.Call, original: relax.Var) -> Expr:
        data, shape = call.args[0], shape_of(original)
        if constant(data) is not None:
            return call
        axes = [int(axis) for axis in call.attrs.axes or reversed(range(len(shape)))]
        stored = self.layout.get(data, identity(len(shape)))
        layout = tuple(axes.index(axis) for axis in stored)
        # A name of its own for the same elements: SimplifyReshapes takes it away.
        alias = relax.op.reshape(data, [shape[axis] for axis in layout])
        return self._emit_in(alias, layout, shape)

    def _in_layout(self, name: str, call: relax.Call, original: relax.Var) -> Expr | None:
        """Form of the call on stored tensors, or None when it has none."""
        data = call.args[0]
        if name in ("relax.reshape", "relax.flatten"):
            return self._reshape(call, shape_of(original))
        if name in BROADCASTING:
            return self._broadcasting(call, shape_of(original))
        if name == "relax.concat":
            return self._concat(call, original)
        if name not in LAYOUT_RULES or data not in self.layout:
            return None
        arguments = [data, *(self._original(argument) for argument in call.args[1:])]
        call = relax.Call(call.op, arguments, call.attrs, call.ty_args)
        form = LAYOUT_RULES[name](call, self.layout[data], original)
        if form is None:
            return None
        parts, layout = form
        shapes = [tuple(int(extent) for extent in type_.shape) for type_ in _types(original)]
        emitted = [
            self._emit_in(part, layout, shape) for part, shape in zip(parts, shapes, strict=True)
        ]
        return emitted[0] if is_tensor(original) else relax.Tuple(emitted)

    def _reshape(self, call: relax.Call, target: tuple[int, ...]) -> Expr | None:
        data = call.args[0]
        shape, layout = self.shape[data], self.layout[data]
        if 0 in shape:
            return None
        needed, result = reshape_layouts(shape, target, layout)
        stored = [target[axis] for axis in result]
        return self._emit_in(relax.op.reshape(self._in(data, needed), stored), result, target)

    def _broadcasting(self, call: relax.Call, shape: tuple[int, ...]) -> Expr | None:
        layouts = [
            self.layout[argument]
            for argument in call.args
            if argument in self.layout and len(self.layout[argument]) == len(shape)
        ]
        if not layouts:
            return None
        layout = TO_NHWC if TO_NHWC in layouts else layouts[0]
        arguments = [self._operand(argument, layout) for argument in call.args]
        if any(argument is None for argument in arguments):
            return None
        return self._emit_in(
            relax.Call(call.op, arguments, call.attrs, call.ty_args), layout, shape
        )

    def _concat(self, call: relax.Call, original: relax.Var) -> Expr | None:
        fields = call.args[0].fields
        layout = next(self.layout[field] for field in fields if field in self.layout)
        stored = [self._operand(field, layout) for field in fields]
        if any(field is None for field in stored):
            return None
        axis = layout.index(int(call.attrs.axis or 0) % len(layout))
        return self._emit_in(relax.op.concat(stored, axis=axis), layout, shape_of(original))

    def _operand(self, argument: Expr, layout: Layout) -> Expr | None:
        """Argument of an elementwise call in the layout: transposed constant or permuted tensor."""
        value = constant(argument)
        if not is_tensor(argument):
            return argument  # a number, such as the bounds of clip
        if value is not None:
            if value.size == 1:
                return argument
            value = value.reshape((1,) * (len(layout) - value.ndim) + value.shape)
            return as_constant(value.transpose(layout))
        shape = self.shape.get(argument) or shape_of(argument)
        padded = (1,) * (len(layout) - len(shape)) + shape
        added = len(padded) - len(shape)
        stored = self.layout.get(argument, identity(len(shape)))
        stored = (*range(added), *(axis + added for axis in stored))
        if stored != layout and layout != TO_NHWC and not same_order(padded, stored, layout):
            return None  # one transpose of the result may do for all of them
        if added:
            argument = relax.op.reshape(argument, [padded[axis] for axis in stored])
            argument = self._emit_in(argument, stored, padded)
        return self._in(argument, layout)

    def _in(self, data: Expr, layout: Layout) -> Expr:
        """Return the tensor stored in the layout."""
        stored = self.layout.get(data, identity(len(layout)))
        if stored == layout:
            return data
        if (data, layout) not in self.forms:
            shape = self.shape.get(data) or shape_of(data)
            axes = [stored.index(axis) for axis in layout]
            if same_order(shape, stored, layout):  # no element changes place
                moved = relax.op.reshape(data, [shape[axis] for axis in layout])
            else:
                moved = relax.op.permute_dims(data, axes)
            self.forms[data, layout] = self._emit_in(moved, layout, shape)
        return self.forms[data, layout]

    def _original(self, expr: Expr) -> Expr:
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._original(field) for field in expr.fields])
        return self._in(expr, identity(len(self.layout[expr]))) if expr in self.layout else expr

    def _emit_in(self, expr: Expr, layout: Layout, shape: tuple[int, ...]) -> relax.Var:
        var = self.emit(expr)
        if layout != identity(len(layout)):
            self.layout[var] = layout
            self.shape[var] = shape
        return var


class _SimplifyReshapes(Rewriter):
    """Of successive reshapes only the last one counts, and none that changes nothing."""

    def rewrite(self, call: relax.Call, original: relax.Var) -> Expr:
        if not is_call(call, "reshape"):
            return call
        data = call.args[0]
        while (source := self.source(data)) is not None and is_call(source, "reshape"):
            data = source.args[0]
        if shape_of(data) == shape_of(original):
            return data
        return relax.op.reshape(data, shape_of(original))


def _tensors(call: relax.Call) -> list[Expr]:
    found: list[Expr] = []
    for argument in call.args:
        found.extend(argument.fields if isinstance(argument, relax.Tuple) else [argument])
    return [argument for argument in found if isinstance(argument, relax.Var)]


def _types(var: relax.Var) -> list[relax.TensorType]:
    return [var.ty] if is_tensor(var) else list(var.ty.fields)


@tvm.transform.module_pass(opt_level=0, name="ConvertToNHWC")
def ConvertToNHWC(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Move 2-D convolutions and what lies between them to NHWC."""
    converted = _SimplifyReshapes()(_ConvertToNHWC()(module))
    return relax.transform.DeadCodeElimination()(converted)
