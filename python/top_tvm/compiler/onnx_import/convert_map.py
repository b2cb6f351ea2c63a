"""Which converter an operator of the standard domain has."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from top_tvm.compiler.onnx_import import attention, layer_normalization, recurrent
from top_tvm.compiler.onnx_import.from_tvm import FROM_TVM, convert_with_tvm
from top_tvm.compiler.onnx_import.node import Converted, Node

Converter = Callable[[Node], Converted]

CONVERTERS: Mapping[str, Converter] = {
    **dict.fromkeys(FROM_TVM, convert_with_tvm),
    **attention.CONVERTERS,
    **layer_normalization.CONVERTERS,
    **recurrent.CONVERTERS,
}
