"""Check an ONNX graph: names, types, ranks, and the memory that its shapes ask for.

What ONNX itself defines is left to its checker and its shape inference. They get a *skeleton* of
the model, in which weights are inputs of the same type: it is small, whatever the model's size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from top_tvm.compiler.onnx_import.functions import find_schema
from top_tvm.compiler.onnx_import.order import keep_needed_nodes
from top_tvm.compiler.read_onnx import MAX_DIMENSIONS, describe_node, tensor_bytes, type_name
from top_tvm.device import memory_limit_bytes
from top_tvm.errors import ModelError

# Smaller initializers stay in the skeleton: shapes, axes, repeats, that others follow from.
_SMALL_BYTES = 1024
# Operators that ONNX's strict inference takes for invalid, whatever their attributes.
_NOT_INFERRED = {"MeanVarianceNormalization"}
# Types that NumPy, the plan and kernels have.
_TYPES = {
    *("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
    *("FLOAT16", "BFLOAT16", "FLOAT", "DOUBLE"),
}


@dataclass(frozen=True)
class GraphMemory:
    """Memory that running a graph takes, in bytes.

    Attributes
    ----------
    weights_bytes : int
        All initializers.
    activations_bytes : int
        The most that is alive at a time when nodes run one after the other, each tensor until its
        last use; inputs and outputs count, too. Tensors of unknown shape do not.
    largest_bytes : int
        The largest tensor that a node computes,
    largest : str
        and its name, node and shape, for messages; ``""`` when there is none.
    shapes : dict of str to tuple of int
        By name, of all tensors whose shape is known.
    """

    weights_bytes: int
    activations_bytes: int
    largest_bytes: int
    largest: str
    shapes: dict[str, tuple[int, ...]]


def check_model(model: onnx.ModelProto, name: str) -> GraphMemory:
    """Check a model that :func:`~top_tvm.compiler.read_onnx.load_onnx` has read, with fixed inputs.

    Nodes are brought into a topological order, and those that no output needs removed, in place.
    Returns what running it takes.

    Raises
    ------
    ModelError
        If the graph is not valid, or would need more memory than there is.
    """
    _check_names(model.graph, name)
    keep_needed_nodes(model.graph, name)
    _check_omissions(model, name)
    weights = {t.name: tensor_bytes(t.data_type, tuple(t.dims)) for t in model.graph.initializer}
    memory = _graph_memory(_inferred(_skeleton(model), name), weights, name)
    needed, limit = memory.weights_bytes + memory.activations_bytes, memory_limit_bytes()
    if needed > limit:
        largest = f"; the largest is {memory.largest}" if memory.largest else ""
        raise ModelError(
            f"{name}: needs {_gigabytes(needed)} of memory ({_gigabytes(memory.weights_bytes)} of "
            f"weights, {_gigabytes(memory.activations_bytes)} of tensors at a time{largest}), this "
            f"machine has {_gigabytes(limit)}: build it for smaller inputs or batches"
        )
    return memory


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without its large weights, which become inputs, and without inferred shapes.

    Outputs keep their own.
    """
    result = onnx.ModelProto()
    # Before version 4 every initializer had to be an input, too.
    result.ir_version = max(model.ir_version, 4)
    result.opset_import.extend(model.opset_import)
    result.functions.extend(model.functions)
    graph = result.graph
    graph.name = model.graph.name or "graph"
    graph.node.extend(model.graph.node)
    _spell_out_defaults(result)
    large = {}
    for tensor in model.graph.initializer:
        if tensor_bytes(tensor.data_type, tuple(tensor.dims)) > _SMALL_BYTES:
            large[tensor.name] = tensor
        else:
            graph.initializer.add().CopyFrom(tensor)
    graph.input.extend(value for value in model.graph.input if value.name not in large)
    for tensor in large.values():
        graph.input.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        )
    graph.output.extend(model.graph.output)
    return result


def _spell_out_defaults(model: onnx.ModelProto) -> None:
    """Give nodes the attributes that they leave to their defaults, in place.

    Shape inference goes through the body that the standard gives some operators, such as
    ``MeanVarianceNormalization``, and only the operator knows the defaults.
    """
    versions = {item.domain: item.version for item in model.opset_import}
    opset = versions.get("", versions.get("ai.onnx", 1))
    for node in model.graph.node:
        schema = find_schema(node, opset) if node.domain in ("", "ai.onnx") else None
        if schema is None or not schema.has_function:
            continue
        given = {item.name for item in node.attribute}
        for name, attribute in schema.attributes.items():
            if attribute.default_value.name and name not in given:
                node.attribute.append(attribute.default_value)


def _graph_memory(model: onnx.ModelProto, weights: Mapping[str, int], name: str) -> GraphMemory:
    """Add up a skeleton with inferred shapes; refuses shapes that no tensor can have."""
    graph = model.graph
    sizes: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    returned = {value.name for value in graph.output}
    makers = {output: node for node in graph.node for output in node.output}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shape = _value_shape(value, makers.get(value.name), value.name in returned, name)
        sizes[value.name] = 0
        if shape is not None:
            shapes[value.name] = shape
            sizes[value.name] = tensor_bytes(value.type.tensor_type.elem_type, shape)
    inputs = {value.name for value in graph.input} - weights.keys()
    last_use = {entry: i for i, node in enumerate(graph.node) for entry in node.input}
    kept = inputs | weights.keys() | returned
    alive = peak = sum(sizes[entry] for entry in inputs)
    for index, node in enumerate(graph.node):
        alive += sum(sizes.get(output, 0) for output in node.output)
        peak = max(peak, alive)
        ended = {*node.input, *node.output} - kept
        alive -= sum(sizes.get(e, 0) for e in ended if last_use.get(e, index) == index)
    largest = max(makers, key=lambda output: sizes.get(output, 0), default="")
    label = f"{largest!r:.80} of {describe_node(makers[largest])}" if largest else ""
    largest_bytes = sizes.get(largest, 0)
    if largest in shapes:
        label += f" of shape {shapes[largest]!s:.200} with {_gigabytes(largest_bytes)}"
    return GraphMemory(sum(weights.values()), peak, largest_bytes, label, shapes)


def _value_shape(
    value: onnx.ValueInfoProto, maker: onnx.NodeProto | None, is_output: bool, name: str
) -> tuple[int, ...] | None:
    place = f"{name}: {value.name!r:.80}"
    if maker is not None:
        place += f" of {describe_node(maker)}"
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value")
        # None: not inferred. Inside a graph, the import takes sequences apart.
        if kind is None or (maker is not None and not is_output):
            return None
        raise ModelError(f"{place}: is no tensor, but a {kind}")
    tensor = value.type.tensor_type
    element = type_name(tensor.elem_type)
    if element not in _TYPES and tensor.elem_type:
        raise ModelError(f"{place}: tensors of {element} are not supported")
    dims = tensor.shape.dim
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in dims):
        return None
    shape = tuple(dim.dim_value for dim in dims)
    if len(shape) > MAX_DIMENSIONS or any(extent < 0 for extent in shape):
        raise ModelError(f"{place}: {shape!s:.80} is not a shape")
    return shape


def _inferred(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    # Tools append outputs by their names alone; their types follow from the nodes.
    for output in [value for value in model.graph.output if not value.HasField("type")]:
        model.graph.output.remove(output)
    tensors = [o.type.tensor_type for o in model.graph.output if o.type.HasField("tensor_type")]
    for tensor in tensors:
        tensor.shape.SetInParent()  # the checker insists on one
    strict = not any(node.op_type in _NOT_INFERRED for node in model.graph.node)
    try:
        onnx.checker.check_model(model)
        for tensor in tensors:
            # Exporters at times declare another shape than follows, which nobody else minds.
            tensor.ClearField("shape")
        return onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=strict, data_prop=True
        )
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        ValueError,
        RuntimeError,
        TypeError,
    ) as error:
        lines = " ".join(str(error).split())
        raise ModelError(f"{name}: is not valid: {lines:.600}") from error


def _check_names(graph: onnx.GraphProto, name: str) -> None:
    outputs = [output for node in graph.node for output in node.output if output]
    weights = [tensor.name for tensor in graph.initializer]
    inputs = [value.name for value in graph.input]
    for what, names in (
        ("input", inputs),
        ("output", [value.name for value in graph.output]),
        ("initializer", weights),
        ("result", [*outputs, *{*inputs, *weights}]),
    ):
        repeated = [entry for entry, count in Counter(names).items() if count > 1]
        if repeated:
            raise ModelError(f"{name}: {what} {repeated[0]!r:.80} is there more than once")
        if "" in names:
            raise ModelError(f"{name}: an {what} has no name")
    known = {*outputs, *inputs, *weights}
    for node in graph.node:
        for entry in node.input:
            if entry and entry not in known:
                raise ModelError(
                    f"{name}: {describe_node(node)}: its input {entry!r:.80} does not exist"
                )
    for value in graph.output:
        if value.name not in known:
            raise ModelError(f"{name}: output {value.name!r:.80} is computed by no node")


def _check_omissions(model: onnx.ModelProto, name: str) -> None:
    """Refuse nodes without an input that they need, which ONNX's checker does not mind."""
    versions = {opset.domain: opset.version for opset in model.opset_import}
    local = {(function.domain, function.name) for function in model.functions}
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    for node in model.graph.node:
        if "" not in node.input or (node.domain, node.op_type) in local:
            continue
        try:
            schema = onnx.defs.get_schema(node.op_type, versions.get(node.domain, 1), node.domain)
        except onnx.defs.SchemaError:
            continue  # of another domain
        for position, entry in enumerate(node.input):
            formal = schema.inputs[min(position, len(schema.inputs) - 1)]
            if not entry and formal.option != optional:
                raise ModelError(
                    f"{name}: {describe_node(node)}: its input {formal.name!r} is missing"
                )


def _gigabytes(nbytes: int) -> str:
    return f"{nbytes / 1e9:.3g} GB" if nbytes >= 10**8 else f"{nbytes / 1e6:.3g} MB"
