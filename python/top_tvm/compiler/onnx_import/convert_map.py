"""Which converter an operator has."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx

from top_tvm.compiler.onnx_import import (
    activations,
    arithmetic,
    contrib,
    einsum,
    logic,
    losses,
    products,
    quantization,
    reductions,
    softmax,
    unary,
)
from top_tvm.compiler.onnx_import.from_tvm import FROM_TVM, convert_with_tvm
from top_tvm.compiler.onnx_import.node import Converted, Node

Converter = Callable[[Node], Converted]

CONVERTERS: Mapping[str, Converter] = {
    **dict.fromkeys(FROM_TVM, convert_with_tvm),
    **activations.CONVERTERS,
    **arithmetic.CONVERTERS,
    **contrib.CONVERTERS,
    **einsum.CONVERTERS,
    **logic.CONVERTERS,
    **losses.CONVERTERS,
    **products.CONVERTERS,
    **quantization.CONVERTERS,
    **reductions.CONVERTERS,
    **softmax.CONVERTERS,
    **unary.CONVERTERS,
}
"""Operators of other domains have them in their names: ``com.microsoft.FusedMatMul``."""


def converter_of(node: onnx.NodeProto) -> Converter | None:
    """Converter of a node, or None if it has none."""
    standard = node.domain in ("", "ai.onnx")
    return CONVERTERS.get(node.op_type if standard else f"{node.domain}.{node.op_type}")
