"""Which converter an operator of the standard domain has."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from top_tvm.compiler.onnx_import import (
    channel_normalization,
    convolutions,
    deformable,
    max_indices,
    pools,
    randomness,
    regions,
    resize,
    sampling,
)
from top_tvm.compiler.onnx_import.from_tvm import FROM_TVM, convert_with_tvm
from top_tvm.compiler.onnx_import.node import Converted, Node

Converter = Callable[[Node], Converted]

CONVERTERS: Mapping[str, Converter] = {
    **dict.fromkeys(FROM_TVM, convert_with_tvm),
    **channel_normalization.CONVERTERS,
    **convolutions.CONVERTERS,
    **deformable.CONVERTERS,
    **max_indices.CONVERTERS,
    **pools.CONVERTERS,
    **randomness.CONVERTERS,
    **regions.CONVERTERS,
    **resize.CONVERTERS,
    **sampling.CONVERTERS,
}
