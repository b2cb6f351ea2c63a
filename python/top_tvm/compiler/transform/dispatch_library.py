"""Group convolutions and matmuls with their epilogues into calls of oneDNN primitives.

``DispatchOneDNN`` wraps each match into a private function with the attribute ``Codegen="onednn"``;
``DispatchViews`` does the same (``"view"``) with reshapes, which need no kernel at all.
``DescribeLibraryCalls`` then writes down, before legalisation takes the Relax operators away, which
primitive each function stands for. The function bodies stay: legalised, they are the same
computation in TIR, which is how a lowered module still runs in TVM's own VM.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import tvm
from tvm import relax
from tvm.relax.dpl import is_const, is_op, wildcard
from tvm.relax.dpl.pattern import DFPattern

from top_tvm.compiler.transform.rewriter import Expr, constant, is_call, per_channel, shape_of

KERNEL_ATTRIBUTE = "top_tvm.kernel"
RESHAPES = ("reshape", "squeeze", "expand_dims", "flatten")

Annotations = dict[str, DFPattern]


def _epilogues(root: DFPattern) -> Iterator[tuple[str, DFPattern, Annotations]]:
    """Longest first: root [+ bias] [+ residual] [relu], and the suffix that names the choice."""
    bias, residual = is_const(), wildcard()

    def plus(left: DFPattern, right: DFPattern) -> DFPattern:
        return is_op("relax.add")(left, right) | is_op("relax.add")(right, left)

    biased = plus(root, bias)
    stems: list[tuple[str, DFPattern, Annotations]] = [
        ("+bias+residual", plus(biased, residual), {"bias": bias, "residual": residual}),
        ("+bias", biased, {"bias": bias}),
        ("+residual", plus(root, residual), {"residual": residual}),
        ("", root, {}),
    ]
    for suffix, stem, named in stems:
        yield f"{suffix}+relu", is_op("relax.nn.relu")(stem), named
    for suffix, stem, named in stems:
        yield suffix, stem, named


def _patterns() -> list[tuple[str, DFPattern, Annotations, Any]]:
    convolution = is_op("relax.nn.conv2d")(wildcard(), is_const())
    product = is_op("relax.matmul")(wildcard(), wildcard())
    return [
        (f"onednn.{symbol}{suffix}", pattern, {**annotations, "root": root}, check)
        for symbol, root, check in (
            ("conv2d", convolution, _check_conv2d),
            ("matmul", product, _check_matmul),
        )
        for suffix, pattern, annotations in _epilogues(root)
    ]


def _check_conv2d(context: Any) -> bool:
    root = context.annotated_expr["root"]
    attributes = root.attrs
    if (attributes.data_layout, attributes.kernel_layout) != ("NHWC", "OIHW"):
        return False
    return _float32(root) and _check_epilogue(context, root)


def _check_matmul(context: Any) -> bool:
    root = context.annotated_expr["root"]
    left, right = (shape_of(argument) for argument in root.args)
    if len(left) < 2 or len(right) < 2 or 0 in left or 0 in right:
        return False
    if len(right) > 2 and left[:-2] != right[:-2]:  # batch dimensions broadcast: not one primitive
        return False
    return _float32(root) and _check_epilogue(context, root)


def _float32(root: relax.Call) -> bool:
    return all(argument.ty.dtype == "float32" for argument in (*root.args[:2], root))


def _check_epilogue(context: Any, root: relax.Call) -> bool:
    shape = shape_of(root)
    bias = context.annotated_expr.get("bias")
    if bias is not None and per_channel(bias, shape[-1], len(shape) - 1, len(shape)) is None:
        return False
    residual = context.annotated_expr.get("residual")
    if residual is not None and (constant(residual) is not None or shape_of(residual) != shape):
        return False
    return _used_only_inside(context, residual)


def _used_only_inside(context: Any, residual: Expr | None) -> bool:
    """No intermediate result of the match is read by anything outside of it."""
    names = context.value_to_bound_var
    expr, root = context.matched_expr, context.annotated_expr["root"]
    while not expr.same_as(root):
        inner = next(
            argument
            for argument in expr.args
            if isinstance(argument, relax.Var) and not _is(argument, residual, names)
        )
        if len(context.var_usages.get(inner, [])) != 1:
            return False
        expr = context.matched_bindings[inner]
    return True


def _is(var: relax.Var, expr: Expr | None, names: Any) -> bool:
    if expr is None:
        return False
    return bool(var.same_as(expr) or (expr in names and var.same_as(names[expr])))


@tvm.transform.module_pass(opt_level=0, name="DispatchOneDNN")
def DispatchOneDNN(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Wrap what oneDNN executes as one primitive into private functions."""
    fuse = relax.transform.FuseOpsByPattern(
        _patterns(), bind_constants=False, annotate_codegen=True
    )
    return fuse(module)


@tvm.transform.module_pass(opt_level=0, name="DispatchViews")
def DispatchViews(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Wrap reshapes into private functions that only rename memory."""
    patterns = [
        (
            f"view.{name}",
            is_op(f"relax.{name}")(wildcard(), *([wildcard()] if name == "reshape" else [])),
        )
        for name in RESHAPES
    ]
    return relax.transform.FuseOpsByPattern(patterns, bind_constants=False, annotate_codegen=True)(
        module
    )


@tvm.transform.module_pass(opt_level=0, name="DescribeLibraryCalls")
def DescribeLibraryCalls(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Attach library, primitive, attributes and argument order to the dispatched functions."""
    module = module.clone()
    for name, function in module.functions_items():
        codegen = function.attrs.get("Codegen") if function.attrs else None
        if codegen == "onednn":
            text = json.dumps(_describe(function))
            module.update_func(name, function.with_attr(KERNEL_ATTRIBUTE, text))
    return module


def _describe(function: relax.Function) -> dict[str, Any]:
    """Primitive, attributes and the positions of its arguments among the parameters."""
    composite, call = composite_call(function)
    order = {param: index for index, param in enumerate(composite.params)}
    outer = {param: index for index, param in enumerate(function.params)}
    position = [outer[argument] for argument in call.args]
    bindings = [b for block in composite.body.blocks for b in block.bindings]
    root = bindings[0].value
    arguments = [position[order[argument]] for argument in root.args]
    symbol, *epilogue = str(composite.attrs["Composite"]).removeprefix("onednn.").split("+")
    attributes: dict[str, list[float]] = {"bias": [int("bias" in epilogue)]}
    operations = [name for name in epilogue if name != "bias"]
    for place, name in enumerate(operations):
        attributes[f"post{place}.{name}"] = [0.0] if name == "relu" else []
    for binding in bindings[1:]:
        for argument in binding.value.args:
            if argument in order:
                arguments.append(position[order[argument]])
    if is_call(root, "nn.conv2d"):
        attributes |= {
            "strides": [int(extent) for extent in root.attrs.strides],
            "padding": [int(extent) for extent in root.attrs.padding],
            "dilation": [int(extent) for extent in root.attrs.dilation],
            "groups": [int(root.attrs.groups)],
        }
    return {"symbol": symbol, "attributes": attributes, "arguments": arguments}


def composite_call(function: relax.Function) -> tuple[relax.Function, relax.Call]:
    """The inner function with the operators, and the call of it."""
    inner, call = None, None
    for block in function.body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, relax.Function):
                inner = binding.value
            elif isinstance(binding.value, relax.Call):
                call = binding.value
    assert inner is not None and call is not None, "FuseOpsByPattern changed its output form"
    return inner, call
