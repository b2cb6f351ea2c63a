"""Read an ONNX file, and refuse one that is damaged before anything is computed with it.

The libraries that a model goes through trust their input: they read beyond tensors that are
shorter than they say, recurse without end, and allocate whatever a shape asks for. What they get
has passed :func:`load_onnx` here and :func:`~top_tvm.compiler.check_onnx.check_model`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor

from top_tvm.device import memory_limit_bytes
from top_tvm.errors import ModelError

MAX_DIMENSIONS = 32
MAX_NODES = 100_000  # with those of functions, as often as they are called
_MAX_EXTENT = 2**48
_CONTRIB_DOMAIN = "com.microsoft"
_CONTRIB_OPERATORS = ("LayerNormalization", "SimplifiedLayerNormalization")

_BITS = {
    **dict.fromkeys(("FLOAT", "INT32", "UINT32"), 32),
    **dict.fromkeys(("DOUBLE", "INT64", "UINT64", "COMPLEX64"), 64),
    **dict.fromkeys(("FLOAT16", "BFLOAT16", "INT16", "UINT16"), 16),
    **dict.fromkeys(("INT8", "UINT8", "BOOL", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ"), 8),
    **dict.fromkeys(("FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"), 8),
    **dict.fromkeys(("INT4", "UINT4", "FLOAT4E2M1"), 4),
    **dict.fromkeys(("INT2", "UINT2"), 2),
    "COMPLEX128": 128,
}
# Where numbers are that are not in raw_data; all others are in int32_data.
_FIELDS = {
    **{"FLOAT": "float_data", "COMPLEX64": "float_data", "DOUBLE": "double_data"},
    **{"COMPLEX128": "double_data", "INT64": "int64_data", "STRING": "string_data"},
    **{"UINT32": "uint64_data", "UINT64": "uint64_data"},
}


def load_onnx(source: str | Path | bytes | onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """Read a model (with external data, when it is a path) and give it a name for messages.

    Raises
    ------
    ModelError
        If the file does not exist, is not an ONNX model, is of a newer version than the onnx
        package reads, or has tensors whose data does not fit their shape.
    """
    if isinstance(source, onnx.ModelProto):
        model = onnx.ModelProto()
        model.CopyFrom(source)
        name, folder = source.graph.name or "model", None
    elif isinstance(source, (bytes, bytearray)):
        name, folder = "model bytes", None
        model = _parse(bytes(source), name)
    else:
        path = Path(source)
        if not path.is_file():
            raise ModelError(f"no such model file: {path}")
        name, folder = str(path), path.parent
        model = _parse(path, name)
    if not model.graph.node and not model.graph.output:
        raise ModelError(f"{name}: is not an ONNX model, or its graph is empty")
    _check_text(model, name)
    _check_versions(model, name)
    _name_domains(model)
    _check_functions(model, name)
    _check_tensors(model, name, folder)
    return model, name


def tensor_bytes(elem_type: int, dims: tuple[int, ...]) -> int:
    """Bytes of a tensor of numbers; sub-byte elements are packed."""
    return (math.prod(dims) * _BITS.get(type_name(elem_type), 0) + 7) // 8


def type_name(elem_type: int) -> str:
    """Name of an element type as ONNX writes it, e.g. ``"FLOAT"``."""
    known: dict[int, str] = {number: name for name, number in onnx.TensorProto.DataType.items()}
    return known.get(elem_type, str(elem_type))


def describe_node(node: onnx.NodeProto) -> str:
    """How messages name a node: ``"node 'conv1' (Conv)"``."""
    label = node.name or (node.output[0] if node.output else "?")
    return f"node {label!r:.80} ({node.op_type:.40})"


def _parse(source: bytes | Path, name: str) -> onnx.ModelProto:
    try:
        if isinstance(source, bytes):
            return onnx.load_from_string(source)
        size, limit = source.stat().st_size, memory_limit_bytes()
        if size > limit:
            raise ModelError(
                f"{name}: {size / 1e9:.1f} GB, but this machine has {limit / 1e9:.1f} GB of memory"
            )
        return onnx.load(source, load_external_data=False)
    except (DecodeError, EncodeError, ValueError, OSError) as error:
        raise ModelError(f"{name}: cannot be read as an ONNX model: {error}") from error


def _check_text(model: onnx.ModelProto, name: str) -> None:
    """Refuse names that are not UTF-8: protobuf gives such text as bytes."""
    graphs = [model.graph]
    functions = [node for function in model.functions for node in function.node]
    nodes = list(_all_nodes([*model.graph.node, *functions]))
    for node in nodes:
        attributes = node.attribute
        graphs += [a.g for a in attributes if a.HasField("g")]
        graphs += [graph for a in attributes for graph in a.graphs]
    texts = [
        *((n.op_type, n.domain, n.name, *n.input, *n.output) for n in nodes),
        *((a.name, a.ref_attr_name) for n in nodes for a in n.attribute),
        *((v.name,) for g in graphs for v in (*g.input, *g.output, *g.initializer)),
        *((g.name,) for g in graphs),
        *((f.name, f.domain, *f.input, *f.output, *f.attribute) for f in model.functions),
        *((o.domain,) for o in model.opset_import),
    ]
    for text in texts:
        for entry in text:
            if isinstance(entry, bytes):
                raise ModelError(f"{name}: the name {entry!r:.80} is not valid UTF-8")


def _name_domains(model: onnx.ModelProto) -> None:
    """Say in whose domain operators are that ONNX Runtime has in the standard's before it."""
    opset = max((item.version for item in model.opset_import if not item.domain), default=1)
    strange = [
        node
        for node in model.graph.node
        if node.op_type in _CONTRIB_OPERATORS
        and node.domain in ("", "ai.onnx")
        and not onnx.defs.has(node.op_type, max_inclusive_version=opset)
    ]
    for node in strange:
        node.domain = _CONTRIB_DOMAIN
    if strange and all(item.domain != _CONTRIB_DOMAIN for item in model.opset_import):
        model.opset_import.add(domain=_CONTRIB_DOMAIN, version=1)


def _check_versions(model: onnx.ModelProto, name: str) -> None:
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"{name}: IR version {model.ir_version} is newer than {onnx.IR_VERSION}, the newest "
            f"that onnx {onnx.__version__} reads: upgrade onnx, or export an older version"
        )
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and not 1 <= opset.version <= newest:
            raise ModelError(
                f"{name}: opset {opset.version} is not one of those that onnx {onnx.__version__} "
                f"knows, 1 to {newest}: upgrade onnx, or export an older opset"
            )


def _check_functions(model: onnx.ModelProto, name: str) -> None:
    """Refuse functions that call themselves, and those that would expand to too many nodes."""
    functions = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    open_calls: set[tuple[str, str]] = set()

    def expanded(nodes: Iterator[onnx.NodeProto]) -> int:
        count = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            count += function_size(key) if key in functions else 1
        return count

    def function_size(key: tuple[str, str]) -> int:
        if key in open_calls:
            raise ModelError(f"{name}: function {key[1]!r:.80} calls itself")
        if key not in sizes:
            # Python's own limit of recursion is 1,000 calls.
            if len(open_calls) > 100:
                raise ModelError(f"{name}: functions call each other more than 100 levels deep")
            open_calls.add(key)
            sizes[key] = expanded(_all_nodes(functions[key].node))
            open_calls.remove(key)
        return sizes[key]

    count = expanded(_all_nodes(model.graph.node))
    if count > MAX_NODES:
        raise ModelError(f"{name}: {count} nodes; at most {MAX_NODES} are supported")


def _check_tensors(model: onnx.ModelProto, name: str, folder: Path | None) -> None:
    if model.graph.sparse_initializer:
        tensor_name = model.graph.sparse_initializer[0].values.name
        raise ModelError(f"{name}: initializer {tensor_name!r:.80} is sparse: store it densely")
    total, limit = 0, memory_limit_bytes()
    for place, tensor in _all_tensors(model):
        nbytes = _check_shape(f"{name}: {place}", tensor)
        total += nbytes
        if total > limit:
            raise ModelError(
                f"{name}: {place} brings the weights to {total / 1e9:.1f} GB, but this machine has "
                f"{limit / 1e9:.1f} GB of memory"
            )
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _read_external(f"{name}: {place}", tensor, nbytes, folder)
        _check_data(f"{name}: {place}", tensor, nbytes)


def _check_shape(place: str, tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor by its shape."""
    dims = tuple(tensor.dims)
    if len(dims) > MAX_DIMENSIONS or any(not 0 <= dim <= _MAX_EXTENT for dim in dims):
        raise ModelError(f"{place}: {dims!s:.80} is not a shape")
    kind = type_name(tensor.data_type)
    if kind not in _BITS and kind != "STRING":
        raise ModelError(f"{place}: has no element type that is known ({kind})")
    return tensor_bytes(tensor.data_type, dims)


def _read_external(place: str, tensor: onnx.TensorProto, nbytes: int, folder: Path | None) -> None:
    if folder is None:
        raise ModelError(f"{place}: its data is in another file: give the model's path")
    try:
        given = ExternalDataInfo(tensor).length
        if given is not None and given != nbytes:
            raise ModelError(f"{place}: {given} bytes in another file; its shape has {nbytes}")
        if given is None:  # else everything to the end of the file would be read
            tensor.external_data.add(key="length", value=str(nbytes))
        load_external_data_for_tensor(tensor, os.fspath(folder))
    except (ValueError, OSError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{place}: cannot read its data: {error}") from error


def _check_data(place: str, tensor: onnx.TensorProto, nbytes: int) -> None:
    kind = type_name(tensor.data_type)
    if tensor.HasField("raw_data"):
        if kind == "STRING" or len(tensor.raw_data) != nbytes:
            raise ModelError(f"{place}: {len(tensor.raw_data)} bytes; its shape has {nbytes}")
        return
    elements, bits = math.prod(tensor.dims), _BITS.get(kind, 0)
    if kind.startswith("COMPLEX"):
        elements *= 2
    elif bits and bits < 8:
        elements = nbytes
    given = len(getattr(tensor, _FIELDS.get(kind, "int32_data")))
    if given != elements:
        raise ModelError(f"{place}: {given} numbers; its shape has {elements}")


def _all_tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Initializers and attributes of all graphs, with their place in messages."""
    for tensor in model.graph.initializer:
        yield f"initializer {tensor.name!r:.80}", tensor
    functions = (node for function in model.functions for node in function.node)
    for node in _all_nodes([*model.graph.node, *functions]):
        for attribute in node.attribute:
            tensors = [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]
            graphs = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
            tensors += [tensor for graph in graphs for tensor in graph.initializer]
            for tensor in tensors:
                yield f"{describe_node(node)}: attribute {attribute.name!r:.40}", tensor


def _all_nodes(nodes: Iterator[onnx.NodeProto] | list[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, and those of the graphs in their attributes."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        yield node
        for attribute in node.attribute:
            for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                pending.extend(graph.node)
