"""``auto_pad`` of ONNX nodes -> ``pads``, in place.

TVM's importer pads the data in a kernel of its own, in NCHW: two copies of the tensor, and layout
changes around them, where oneDNN pads for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

_WINDOWED = ("Conv", "MaxPool", "AveragePool", "LpPool")


def make_padding_explicit(model: onnx.ModelProto) -> None:
    """Write the padding of convolutions and pools out, where the shape of their data is known.

    Parameters
    ----------
    model : onnx.ModelProto
        With shapes of intermediate values, as slimming leaves it.
    """
    graph = model.graph
    shapes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info)
    }
    shapes |= {initializer.name: list(initializer.dims) for initializer in graph.initializer}
    for node in graph.node:
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        mode = attributes.get("auto_pad", b"NOTSET").decode()
        data = shapes.get(node.input[0], []) if node.op_type in _WINDOWED else []
        if mode == "NOTSET" or len(data) < 3 or 0 in data[2:]:
            continue
        window = attributes.get("kernel_shape") or shapes.get(node.input[1], [])[2:]
        ones = [1] * len(data[2:])
        if len(window) != len(ones):
            continue
        pads = _pads(
            mode,
            data[2:],
            window,
            attributes.get("strides") or ones,
            attributes.get("dilations") or ones,
        )
        kept = [item for item in node.attribute if item.name not in ("auto_pad", "pads")]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("pads", pads)])


def _pads(
    mode: str,
    extents: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    """Begins of all axes, then ends. With SAME the output has ceil(extent / stride) elements."""
    begins, ends = [], []
    for extent, size, stride, dilation in zip(extents, window, strides, dilations, strict=True):
        covered = (-(-extent // stride) - 1) * stride + (size - 1) * dilation + 1
        total = max(covered - extent, 0) if mode.startswith("SAME") else 0
        less, more = total // 2, total - total // 2
        begins.append(more if mode == "SAME_LOWER" else less)
        ends.append(less if mode == "SAME_LOWER" else more)
    return begins + ends
