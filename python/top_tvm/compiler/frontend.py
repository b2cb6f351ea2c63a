"""ONNX in, Relax out: shapes fixed, shape arithmetic folded, unsupported operators named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import tvm

from top_tvm.compiler.check_onnx import check_model
from top_tvm.compiler.onnx_import.graph import convert_graph, unsupported_operators
from top_tvm.compiler.read_onnx import load_onnx
from top_tvm.errors import ModelError


@dataclass(frozen=True)
class Imported:
    """A model as a Relax module, with the names and order of the ONNX inputs and outputs."""

    module: tvm.IRModule
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch: int


def runtime_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Graph inputs that a user must provide (old models list their weights as inputs, too)."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def fix_shapes(
    model: onnx.ModelProto,
    name: str,
    shapes: Mapping[str, Sequence[int]],
    batch: int | None,
) -> int:
    """Give every input a static shape, in place, and return the batch size that results.

    A full shape in ``shapes`` is taken as it is; otherwise a symbolic leading dimension becomes
    ``batch`` (1 by default). Any other symbolic dimension is an error.

    Raises
    ------
    ModelError
        If a dimension stays open, contradicts the model, or an input does not exist.
    """
    inputs = runtime_inputs(model)
    known = [value.name for value in inputs]
    for given in shapes:
        if given not in known:
            raise ModelError(f"{name}: no input {given!r}; the inputs are: {', '.join(known)}")
    for value in inputs:
        _fix_shape(name, value, shapes.get(value.name), batch)
    leading = [value.type.tensor_type.shape.dim[0].dim_value for value in inputs if _rank(value)]
    result = int(leading[0]) if leading else 1
    if batch is not None and result != batch:
        raise ModelError(
            f"{name}: the model fixes its batch size at {result}, so it cannot be built for "
            f"batch {batch}; export it with a symbolic leading dimension"
        )
    del model.graph.value_info[:]
    return result


def _rank(value: onnx.ValueInfoProto) -> int:
    return len(value.type.tensor_type.shape.dim)


def _fix_shape(
    name: str, value: onnx.ValueInfoProto, wanted: Sequence[int] | None, batch: int | None
) -> None:
    if not value.type.HasField("tensor_type"):
        raise ModelError(f"{name}: input {value.name!r} is not a tensor")
    dims = value.type.tensor_type.shape.dim
    for position, dim in enumerate(dims):
        # Not the same as a dimension without a size, though protobuf reads 0 for both.
        if dim.HasField("dim_value") and dim.dim_value == 0:
            raise ModelError(
                f"{name}: dimension {position} of input {value.name!r} is 0: inputs without "
                "elements are not supported; if 0 was to mean any size, give the dimension a name "
                "(dim_param) instead"
            )
    symbolic_batch = bool(dims) and not dims[0].dim_value
    if wanted is not None:
        _apply_shape(name, value, tuple(wanted))
    if symbolic_batch and (batch is not None or wanted is None):
        dims[0].dim_value = 1 if batch is None else batch
    for position, dim in enumerate(dims):
        if dim.dim_value <= 0:
            raise ModelError(
                f"{name}: dimension {position} ({dim.dim_param or 'unknown'!r}) of input "
                f"{value.name!r} has no fixed size; give the whole shape: "
                f"shapes={{{value.name!r}: (...)}} or --shape {value.name}=1,..."
            )


def _apply_shape(name: str, value: onnx.ValueInfoProto, wanted: tuple[int, ...]) -> None:
    tensor = value.type.tensor_type
    dims = tensor.shape.dim
    if tensor.HasField("shape") and len(dims) != len(wanted):
        raise ModelError(
            f"{name}: input {value.name!r} has {len(dims)} dimensions, "
            f"the shape given has {len(wanted)}"
        )
    if not tensor.HasField("shape"):
        for _ in wanted:
            dims.add()
    for position, (dim, size) in enumerate(zip(dims, wanted, strict=True)):
        if dim.dim_value and dim.dim_value != size:
            raise ModelError(
                f"{name}: dimension {position} of input {value.name!r} is fixed at {dim.dim_value} "
                f"in the model, not {size}"
            )
        if size <= 0:
            raise ModelError(
                f"{name}: dimension {position} of input {value.name!r} must be positive, not {size}"
            )
        dim.dim_value = size


def check_operators(model: onnx.ModelProto, name: str) -> None:
    """Refuse operators that cannot be imported, all of them in one message.

    Raises
    ------
    ModelError
        Naming every unsupported operator and the first nodes that use it.
    """
    lines = [
        f"{label} ({len(nodes)} node{'s' if len(nodes) > 1 else ''}: {', '.join(nodes[:3])}"
        f"{', ...' if len(nodes) > 3 else ''})"
        for label, nodes in sorted(unsupported_operators(model, name).items())
    ]
    if lines:
        raise ModelError(f"{name}: unsupported operators: {'; '.join(lines)}")


def import_onnx(
    source: str | Path | bytes | onnx.ModelProto,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
) -> Imported:
    """Import an ONNX model with static shapes into Relax.

    Parameters
    ----------
    source : str, Path, bytes or onnx.ModelProto
        The model; a path may refer to external data next to it.
    shapes : mapping of str to sequence of int, optional
        Full shapes of inputs whose dimensions are symbolic.
    batch : int, optional
        Size for symbolic leading dimensions.

    Raises
    ------
    ModelError
        If the model cannot be read, has open dimensions or unsupported operators.
    """
    model, name = load_onnx(source)
    fixed_batch = fix_shapes(model, name, shapes or {}, batch)
    outputs = tuple(value.name for value in model.graph.output)
    inputs = tuple(value.name for value in runtime_inputs(model))
    check_operators(model, name)
    inferred = check_model(model, name)
    module = convert_graph(model, name, inferred.shapes)
    return Imported(module, name, inputs, outputs, fixed_batch)
