"""Check what TVM's importer made of an ONNX graph, before it is optimised."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tvm import relax, tirx

from top_tvm.device import memory_limit_bytes
from top_tvm.errors import ModelError
from top_tvm.plan import DTYPE_BYTES


def check_imported(
    main: relax.Function,
    outputs: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    name: str,
) -> None:
    """Refuse an imported function with results of the wrong shape, or tensors beyond the memory.

    TVM's importer skips what it does not support of some operators and goes on, and it accepts
    shapes that ONNX's inference does not follow. Tensors count even if fusion would avoid them: a
    loop over them would not end.

    Parameters
    ----------
    main : relax.Function
        What TVM's importer made of the graph.
    outputs : sequence of str
        Names of its results.
    shapes : mapping of str to tuple of int
        What ONNX's inference knows, by name.
    name : str
        Of the model, for messages.

    Raises
    ------
    ModelError
        Naming the output and both shapes, or the tensor.
    """
    limit = memory_limit_bytes()
    for block in getattr(main.body, "blocks", ()):
        for binding in block.bindings:
            for field in _fields(binding.var.ty):
                shape = _static_shape(field)
                if shape is None:
                    continue
                nbytes = math.prod(shape) * DTYPE_BYTES.get(str(field.dtype), 8)
                if nbytes > limit or any(extent < 0 for extent in shape):
                    raise ModelError(
                        f"{name}: a node gives a tensor of shape {shape!s:.200}, this machine has "
                        f"{limit / 1e9:.1f} GB of memory"
                    )
    for output, field in zip(outputs, _fields(main.ret_ty), strict=True):
        found, expected = _static_shape(field), shapes.get(output)
        if None not in (found, expected) and found != expected:
            raise ModelError(
                f"{name}: TVM's importer gives output {output!r:.80} the shape {found}, where ONNX "
                f"has {expected}: it does not support a mode or attribute of a node before it"
            )


def _fields(kind: Any) -> list[Any]:
    return list(kind.fields) if isinstance(kind, relax.TupleType) else [kind]


def _static_shape(kind: Any) -> tuple[int, ...] | None:
    """Shape of a tensor type, or None where it is not known or follows from data."""
    extents = getattr(getattr(kind, "shape", None), "values", None)
    if extents is None or not all(isinstance(extent, tirx.IntImm) for extent in extents):
        return None
    return tuple(int(extent) for extent in extents)
