"""Which converter an operator of the standard domain has."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from top_tvm.compiler.onnx_import import (
    attention,
    channel_normalization,
    convolutions,
    deformable,
    layer_normalization,
    max_indices,
    pools,
    randomness,
    recurrent,
    regions,
    resize,
    sampling,
)
from top_tvm.compiler.onnx_import.accumulating import ACCUMULATING
from top_tvm.compiler.onnx_import.casting import CASTING
from top_tvm.compiler.onnx_import.col2im import COL2IM
from top_tvm.compiler.onnx_import.filling import FILLING
from top_tvm.compiler.onnx_import.from_tvm import FROM_TVM, convert_with_tvm
from top_tvm.compiler.onnx_import.gathering import GATHERING
from top_tvm.compiler.onnx_import.node import Converted, Node
from top_tvm.compiler.onnx_import.ordering import ORDERING
from top_tvm.compiler.onnx_import.padding import PADDING
from top_tvm.compiler.onnx_import.refusals import REFUSALS
from top_tvm.compiler.onnx_import.reshaping import RESHAPING
from top_tvm.compiler.onnx_import.scattering import SCATTERING
from top_tvm.compiler.onnx_import.slicing import SLICING

Converter = Callable[[Node], Converted]

CONVERTERS: Mapping[str, Converter] = {
    **dict.fromkeys(FROM_TVM, convert_with_tvm),
    **SCATTERING,
    **ACCUMULATING,
    **ORDERING,
    **CASTING,
    **FILLING,
    **COL2IM,
    **REFUSALS,
    **GATHERING,
    **PADDING,
    **RESHAPING,
    **SLICING,
    **channel_normalization.CONVERTERS,
    **convolutions.CONVERTERS,
    **deformable.CONVERTERS,
    **max_indices.CONVERTERS,
    **pools.CONVERTERS,
    **randomness.CONVERTERS,
    **regions.CONVERTERS,
    **resize.CONVERTERS,
    **sampling.CONVERTERS,
    **attention.CONVERTERS,
    **layer_normalization.CONVERTERS,
    **recurrent.CONVERTERS,
}
