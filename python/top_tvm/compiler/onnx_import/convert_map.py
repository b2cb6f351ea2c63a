"""Which converter an operator has: one table per family of operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx

from top_tvm.compiler.onnx_import import (
    accumulating,
    activations,
    arithmetic,
    attention,
    casting,
    channel_normalization,
    col2im,
    contrib,
    convolutions,
    deformable,
    determinant,
    einsum,
    filling,
    fourier,
    gathering,
    layer_normalization,
    logic,
    losses,
    max_indices,
    ordering,
    padding,
    pools,
    products,
    quantization,
    randomness,
    recurrent,
    reductions,
    refusals,
    regions,
    reshaping,
    resize,
    sampling,
    scattering,
    slicing,
    softmax,
    unary,
)
from top_tvm.compiler.onnx_import.node import Converted, Node

Converter = Callable[[Node], Converted]

CONVERTERS: Mapping[str, Converter] = {
    **accumulating.CONVERTERS,
    **activations.CONVERTERS,
    **arithmetic.CONVERTERS,
    **attention.CONVERTERS,
    **casting.CONVERTERS,
    **channel_normalization.CONVERTERS,
    **col2im.CONVERTERS,
    **contrib.CONVERTERS,
    **convolutions.CONVERTERS,
    **deformable.CONVERTERS,
    **determinant.CONVERTERS,
    **einsum.CONVERTERS,
    **filling.CONVERTERS,
    **fourier.CONVERTERS,
    **gathering.CONVERTERS,
    **layer_normalization.CONVERTERS,
    **logic.CONVERTERS,
    **losses.CONVERTERS,
    **max_indices.CONVERTERS,
    **ordering.CONVERTERS,
    **padding.CONVERTERS,
    **pools.CONVERTERS,
    **products.CONVERTERS,
    **quantization.CONVERTERS,
    **randomness.CONVERTERS,
    **recurrent.CONVERTERS,
    **reductions.CONVERTERS,
    **refusals.CONVERTERS,
    **regions.CONVERTERS,
    **reshaping.CONVERTERS,
    **resize.CONVERTERS,
    **sampling.CONVERTERS,
    **scattering.CONVERTERS,
    **slicing.CONVERTERS,
    **softmax.CONVERTERS,
    **unary.CONVERTERS,
}
"""Operators of other domains have them in their names: ``com.microsoft.FusedMatMul``."""


def converter_of(node: onnx.NodeProto) -> Converter | None:
    """Converter of a node, or None if it has none."""
    standard = node.domain in ("", "ai.onnx")
    return CONVERTERS.get(node.op_type if standard else f"{node.domain}.{node.op_type}")
