"""How single operators act on tensors that are stored in another layout.

A rule takes the call with its first argument stored in the layout, and the original variable. It
returns the calls on stored tensors, one per result, with the layout of the results, or None when it
has no such form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import relax

from top_tvm.compiler.transform.layout import Layout, reduced
from top_tvm.compiler.transform.rewriter import Expr, is_tensor, shape_of

Form = tuple[list[Expr], Layout]
Rule = Callable[[relax.Call, Layout, relax.Var], "Form | None"]

TO_NHWC: Layout = (0, 2, 3, 1)
# NHWC with a unit axis inserted at 1: the importer's local response normalisation pools there.
_TO_N1HWC: Layout = (0, 1, 3, 4, 2)

# Elementwise operators: any layout will do that all arguments have.
BROADCASTING = {
    f"relax.{name}"
    for name in (
        *("nn.relu", "nn.relu6", "nn.gelu", "nn.gelu_tanh", "nn.silu", "nn.leakyrelu"),
        *("nn.selu", "nn.softplus", "sigmoid", "tanh", "exp", "log", "sqrt", "rsqrt", "square"),
        *("negative", "abs", "sign", "clip", "erf", "sin", "cos", "floor", "ceil", "round"),
        *("astype", "logical_not", "add", "subtract", "multiply", "divide", "power", "maximum"),
        *("minimum", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal"),
        *("logical_and", "logical_or", "where", "isnan"),
    )
}


def _ints(values: Sequence[object]) -> list[int]:
    return [int(value) for value in values]  # type: ignore[call-overload]


def _reduction(call: relax.Call, layout: Layout, _: relax.Var) -> Form | None:
    attributes = call.attrs
    rank = len(layout)
    axes = [axis % rank for axis in _ints(attributes.axis or range(rank))]
    operator = getattr(relax.op, call.op.name.removeprefix("relax."))
    keep = bool(attributes.keepdims)
    stored = sorted(layout.index(axis) for axis in axes)
    result = operator(call.args[0], axis=stored, keepdims=keep)
    return [result], layout if keep else reduced(layout, axes)


def _softmax(call: relax.Call, layout: Layout, _: relax.Var) -> Form | None:
    operator = getattr(relax.op.nn, call.op.name.removeprefix("relax.nn."))
    axis = layout.index(int(call.attrs.axis) % len(layout))
    return [operator(call.args[0], axis=axis)], layout


def _prelu(call: relax.Call, layout: Layout, _: relax.Var) -> Form | None:
    axis = layout.index(int(call.attrs.axis) % len(layout))
    return [relax.op.nn.prelu(call.args[0], call.args[1], axis=axis)], layout


def _pad(call: relax.Call, layout: Layout, _: relax.Var) -> Form | None:
    widths = _ints(call.attrs.pad_width)
    stored = [width for axis in layout for width in widths[2 * axis : 2 * axis + 2]]
    value = float(call.attrs.pad_value)
    return [relax.op.nn.pad(call.args[0], stored, str(call.attrs.pad_mode), value)], layout


def _resize2d(call: relax.Call, layout: Layout, original: relax.Var) -> Form | None:
    attributes = call.attrs
    if layout != TO_NHWC or attributes.layout != "NCHW" or any(map(float, attributes.roi)):
        return None
    resized = relax.op.image.resize2d(
        call.args[0],
        shape_of(original)[2:],
        layout="NHWC",
        method=attributes.method,
        coordinate_transformation_mode=attributes.coordinate_transformation_mode,
        rounding_method=attributes.rounding_method,
        cubic_alpha=attributes.cubic_alpha,
        cubic_exclude=attributes.cubic_exclude,
        extrapolation_value=attributes.extrapolation_value,
        out_dtype=str(original.ty.dtype),
    )
    return [resized], layout


def _broadcast_to(call: relax.Call, layout: Layout, original: relax.Var) -> Form | None:
    shape = shape_of(original)
    if len(shape) != len(layout):
        return None
    return [relax.op.broadcast_to(call.args[0], [shape[axis] for axis in layout])], layout


def _expand_dims(call: relax.Call, layout: Layout, original: relax.Var) -> Form | None:
    """Stored where it is declared: local response normalisation is recognised by that."""
    rank = len(shape_of(original))
    added = {axis % rank for axis in _ints(call.attrs.axis)}
    kept = [axis for axis in range(rank) if axis not in added]
    stored = iter(layout)
    return [call], tuple(axis if axis in added else kept[next(stored)] for axis in range(rank))


def _squeeze(call: relax.Call, layout: Layout, _: relax.Var) -> Form | None:
    if not call.attrs.axis:
        return None
    axes = [axis % len(layout) for axis in _ints(call.attrs.axis)]
    stored = sorted(layout.index(axis) for axis in axes)
    return [relax.op.squeeze(call.args[0], stored)], reduced(layout, axes)


def _take(call: relax.Call, layout: Layout, _: relax.Var) -> Form | None:
    data, indices = call.args
    if call.attrs.axis is None or not is_tensor(indices) or len(shape_of(indices)) > 1:
        return None
    axis = int(call.attrs.axis) % len(layout)
    taken = relax.op.take(data, indices, axis=layout.index(axis), mode=str(call.attrs.mode))
    return [taken], layout if shape_of(indices) else reduced(layout, [axis])


def _strided_slice(call: relax.Call, layout: Layout, _: relax.Var) -> Form | None:
    data, axes, *bounds = call.args
    stored = [layout.index(int(axis) % len(layout)) for axis in axes.fields]
    inbound = bool(call.attrs.assume_inbound)
    sliced = relax.op.strided_slice(data, stored, *bounds, assume_inbound=inbound)
    return [sliced], layout


def _split(call: relax.Call, layout: Layout, original: relax.Var) -> Form | None:
    """Slices, which their readers can take in; a split is a kernel of its own."""
    if is_tensor(original):
        return None
    axis = int(call.attrs.axis) % len(layout)
    stored, begin, parts = layout.index(axis), 0, []
    for type_ in original.ty.fields:
        end = begin + int(type_.shape[axis])
        parts.append(relax.op.strided_slice(call.args[0], [stored], [begin], [end]))
        begin = end
    return parts, layout


def _pool2d(call: relax.Call, layout: Layout, _: relax.Var) -> Form | None:
    attributes = call.attrs
    if layout != TO_NHWC or attributes.layout != "NCHW":
        return None
    operator = getattr(relax.op.nn, call.op.name.removeprefix("relax.nn."))
    pooled = operator(
        call.args[0],
        pool_size=list(attributes.pool_size),
        strides=list(attributes.strides),
        padding=list(attributes.padding),
        dilation=list(attributes.dilation),
        ceil_mode=bool(attributes.ceil_mode),
        count_include_pad=bool(attributes.count_include_pad),
        layout="NHWC",
    )
    return [pooled], layout


def _adaptive_pool2d(call: relax.Call, layout: Layout, _: relax.Var) -> Form | None:
    if layout != TO_NHWC or call.attrs.layout != "NCHW":
        return None
    size = _ints(call.attrs.output_size) if call.attrs.output_size else None
    return [relax.op.nn.adaptive_avg_pool2d(call.args[0], size, layout="NHWC")], layout


def _avg_pool3d(call: relax.Call, layout: Layout, _: relax.Var) -> Form | None:
    attributes = call.attrs
    if layout != _TO_N1HWC or attributes.layout != "NCDHW":
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
    return [pooled], layout


LAYOUT_RULES: dict[str, Rule] = {
    **{f"relax.{name}": _reduction for name in ("mean", "sum", "max", "min", "prod")},
    "relax.nn.softmax": _softmax,
    "relax.nn.log_softmax": _softmax,
    "relax.nn.prelu": _prelu,
    "relax.nn.pad": _pad,
    "relax.image.resize2d": _resize2d,
    "relax.broadcast_to": _broadcast_to,
    "relax.expand_dims": _expand_dims,
    "relax.squeeze": _squeeze,
    "relax.take": _take,
    "relax.strided_slice": _strided_slice,
    "relax.split": _split,
    "relax.nn.max_pool2d": _pool2d,
    "relax.nn.avg_pool2d": _pool2d,
    "relax.nn.adaptive_avg_pool2d": _adaptive_pool2d,
    "relax.nn.avg_pool3d": _avg_pool3d,
}
