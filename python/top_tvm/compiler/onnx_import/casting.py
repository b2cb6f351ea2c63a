"""Operators that change the type of elements, or what their bits mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx
from onnx import helper
from tvm import relax, te, tirx

from top_tvm.compiler.onnx_import.node import Converted, Expr, Node, dtype_of
from top_tvm.plan import DTYPE_BYTES


def convert_cast(node: Node) -> Converted:
    """To the type that an attribute names; ``saturate`` is for types that we refuse."""
    return cast(node, node.input(0), _target_dtype(node))


def convert_cast_like(node: Node) -> Converted:
    """To the type of another tensor."""
    return cast(node, node.input(0), node.dtype(1))


def cast(node: Node, value: Expr, dtype: str) -> Expr:
    """Numbers are rounded to floating point, truncated to integers, and true unless 0."""
    if dtype_of(value) == dtype:
        return value
    if dtype == "bool":
        nonzero = relax.op.not_equal(value, node.scalar(0, dtype_of(value)))
        if "float" not in dtype_of(value):
            return nonzero
        # NaN differs from nothing to TVM, but it is true.
        return relax.op.logical_or(node.emit(nonzero), node.emit(relax.op.isnan(value)))
    if (dtype_of(value), dtype) == ("float64", "float16"):
        return node.builder.emit_te(_double_to_half, value, primfunc_name_hint="cast")
    return relax.op.astype(value, dtype)


def _double_to_half(data: te.Tensor) -> te.Tensor:
    """Through float32, rounded to odd, so that rounding again is exact.

    LLVM would call a function of libgcc 12. Boldo and Melquiond, "When double rounding is odd",
    IMACS 2005.
    """

    def element(*place: Any) -> Any:
        double = data(*place)
        single = double.astype("float32")
        back = single.astype("float64")
        bits = tirx.reinterpret("uint32", single)
        one = tirx.const(1, "uint32")
        towards_zero = tirx.Select(tirx.abs(back) > tirx.abs(double), bits - one, bits)
        odd = tirx.Select(back == double, bits, towards_zero | one)
        return tirx.reinterpret("float32", odd).astype("float16")

    return te.compute(data.shape, element, name="cast")


def convert_bit_cast(node: Node) -> Converted:
    """The same bits as another type of the same size."""
    source, dtype = node.dtype(0), _target_dtype(node)
    if DTYPE_BYTES[source] != DTYPE_BYTES[dtype]:
        node.refuse(f"{source} and {dtype} differ in size")
    if source == dtype:
        return node.input(0)
    if dtype == "bool":
        node.refuse("bits of other types are no booleans")
    return node.builder.emit_te(_bit_cast, node.input(0), dtype, primfunc_name_hint="bit_cast")


def _bit_cast(data: te.Tensor, dtype: str) -> te.Tensor:
    def element(*place: Any) -> Any:
        value = data(*place)
        if str(data.dtype) == "bool":  # of 8 bits in memory, of one in a register
            return value.astype(dtype)
        return tirx.reinterpret(dtype, value)

    return te.compute(data.shape, element, name="bit_cast")


def _target_dtype(node: Node) -> str:
    wanted = node.attribute("to")
    try:
        dtype = str(helper.tensor_dtype_to_np_dtype(int(wanted)).name)
    except (KeyError, TypeError, ValueError):
        node.refuse(f"there is no element type {wanted}")
    if dtype not in DTYPE_BYTES:
        kind = onnx.TensorProto.DataType.Name(wanted)
        node.refuse(f"values of type {kind} are not supported")
    return dtype


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "BitCast": convert_bit_cast,
    "Cast": convert_cast,
    "CastLike": convert_cast_like,
}
