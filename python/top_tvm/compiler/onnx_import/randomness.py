"""Operators whose results are random, or bytes of image files: refused, but for inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from top_tvm.compiler.onnx_import.node import Converted, Expr, Node, constant, constant_of


def convert_dropout(node: Node) -> Converted:
    """``Dropout``: its input, since inference drops nothing; the mask is all ones."""
    if node.opset < 7 and not node.attribute("is_test", 0):
        node.refuse("training mode (is_test=0) drops random elements: export it for inference")
    if node.opset >= 12 and node.has(2):
        training = constant_of(node.input(2))
        ratio = constant_of(node.input(1)) if node.has(1) else np.float32(0.5)
        if training is None:
            node.refuse("its training_mode is computed at run time: export it for inference")
        if training.any() and (ratio is None or float(np.asarray(ratio).item()) != 0):
            node.refuse("training mode drops random elements: export it for inference")
    mask: Expr | None = None
    if node.wants(1):
        dtype = "bool" if node.opset >= 10 else node.dtype(0)
        mask = constant(np.ones(node.shape(0), dtype))
    return [node.input(0), mask]


def refuse_random(node: Node) -> Converted:
    """Random results cannot be compared with anybody's."""
    node.refuse("its results are random, which is not supported: make them inputs of the model")


def refuse_image_files(node: Node) -> Converted:
    """Decoding files is no computation on tensors."""
    node.refuse("it decodes image files: decode them before and pass their pixels")


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "Dropout": convert_dropout,
    "ImageDecoder": refuse_image_files,
    **dict.fromkeys(
        (
            *("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike"),
            *("RandomUniform", "RandomUniformLike"),
        ),
        refuse_random,
    ),
}
