"""Operators that cannot be planned ahead of time, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from top_tvm.compiler.onnx_import.node import Converted, Node

_SIZE = (
    "the size of its result depends on values that are computed at run time; only sizes that are "
    "known when the model is built are supported: "
)
_REASONS = {
    "ConstantOfShape": _SIZE + "make its shape a constant",
    "MelWeightMatrix": _SIZE + "make all its inputs constants",
    "NonMaxSuppression": _SIZE + "end the model before it, and select boxes outside",
    "NonZero": _SIZE + "use a mask instead of a list of indices",
    "Range": _SIZE + "make its limits and its step constants",
    "Unique": _SIZE + "end the model before it",
}


def refuse(node: Node) -> Converted:
    """Say why an operator is not supported: were its inputs constants, it would be folded."""
    node.refuse(_REASONS[node.op_type])


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = dict.fromkeys(_REASONS, refuse)
