"""Which converter an operator of the standard domain has."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from top_tvm.compiler.onnx_import import (
    activations,
    arithmetic,
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
    **logic.CONVERTERS,
    **losses.CONVERTERS,
    **products.CONVERTERS,
    **quantization.CONVERTERS,
    **reductions.CONVERTERS,
    **softmax.CONVERTERS,
    **unary.CONVERTERS,
}
