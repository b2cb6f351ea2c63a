"""Operators that fill tensors by position, or choose between two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import helper
from tvm import relax, te, tirx

from top_tvm.compiler.onnx_import.node import Converted, Node, constant
from top_tvm.plan import DTYPE_BYTES


def convert_eye_like(node: Node) -> Converted:
    """Ones on a diagonal; only the shape of the input matters."""
    shape, dtype = node.shape(0), node.dtype(0)
    if len(shape) != 2:
        node.refuse(f"it wants a matrix, not the shape {shape}")
    if (kind := node.attribute("dtype")) is not None:
        dtype = str(helper.tensor_dtype_to_np_dtype(kind).name)
    if dtype not in DTYPE_BYTES:
        node.refuse(f"values of type {dtype} are not supported")
    return constant(np.eye(*shape, int(node.attribute("k", 0)), dtype=np.dtype(dtype)))


def convert_trilu(node: Node) -> Converted:
    """The upper or lower triangle of matrices, 0 elsewhere."""
    if node.rank(0) < 2:
        node.refuse("its input is no matrix")
    diagonal = int(node.constant(1, "diagonal").item()) if node.has(1) else 0
    upper = bool(node.attribute("upper", 1))
    return node.builder.emit_te(
        _trilu, node.input(0), diagonal, upper, primfunc_name_hint="triu" if upper else "tril"
    )


def _trilu(data: te.Tensor, diagonal: int, upper: bool) -> te.Tensor:
    def element(*place: Any) -> Any:
        distance = place[-1].astype("int64") - place[-2].astype("int64")
        kept = distance >= diagonal if upper else distance <= diagonal
        return tirx.Select(kept, data(*place), tirx.const(0, str(data.dtype)))

    return te.compute(data.shape, element, name="trilu")


def convert_where(node: Node) -> Converted:
    """One tensor where a condition holds, another elsewhere."""
    return relax.op.where(node.input(0), node.input(1), node.input(2))


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "EyeLike": convert_eye_like,
    "Trilu": convert_trilu,
    "Where": convert_where,
}
