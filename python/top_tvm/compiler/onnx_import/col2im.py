"""Col2Im: the sum of overlapping blocks of an image of any rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import relax, te, tirx

from top_tvm.compiler.onnx_import.node import Converted, Node


def convert_col2im(node: Node) -> Converted:
    """Blocks are columns; each element of the image sums what the blocks over it hold."""
    image, block = node.integers(1, "image shape"), node.integers(2, "block shape")
    rank = len(image)
    strides = node.attribute("strides", [1] * rank)
    dilations = node.attribute("dilations", [1] * rank)
    pads = node.attribute("pads", [0] * 2 * rank)
    steps = [
        (image[i] + pads[i] + pads[i + rank] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1
        for i in range(rank)
    ]
    shape = node.shape(0)
    if len(block) != rank or len(shape) != 3 or shape[1] % math.prod(block):
        node.refuse(f"columns of shape {shape} are no blocks of {block}")
    if shape[2] != math.prod(steps):
        node.refuse(f"it has {shape[2]} blocks, but {math.prod(steps)} fit into {image}")
    channels = shape[1] // math.prod(block)
    columns = node.emit(relax.op.reshape(node.input(0), [shape[0], channels, *block, *steps]))
    return node.builder.emit_te(
        *(_col2im, columns, image, strides, dilations, pads), primfunc_name_hint="col2im"
    )


def _col2im(
    columns: te.Tensor,
    image: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> te.Tensor:
    rank = len(image)
    block = [te.reduce_axis((0, columns.shape[2 + i]), f"block{i}") for i in range(rank)]

    def element(batch: Any, channel: Any, *place: Any) -> Any:
        offsets = [place[i] + pads[i] - block[i] * dilations[i] for i in range(rank)]
        steps = [tirx.floordiv(offsets[i], strides[i]) for i in range(rank)]
        inside = [
            condition
            for i in range(rank)
            for condition in (
                tirx.floormod(offsets[i], strides[i]) == 0,
                steps[i] >= 0,
                steps[i] < columns.shape[2 + rank + i],
            )
        ]
        value = columns(batch, channel, *block, *steps)
        zero = tirx.const(0, str(columns.dtype))
        return te.sum(tirx.if_then_else(tirx.all(*inside), value, zero), axis=block)

    return te.compute([*columns.shape[:2], *image], element, name="col2im")


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {"Col2Im": convert_col2im}
