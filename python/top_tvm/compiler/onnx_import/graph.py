"""The walk over an ONNX graph: constants are folded, everything else becomes Relax."""

from __future__ import annotations

import logging
import math
import re
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import helper, numpy_helper
from tvm import relax

from top_tvm.compiler.onnx_import.control_flow import CONTROL_FLOW, FlowNode, UnrolledNodes
from top_tvm.compiler.onnx_import.convert_map import converter_of
from top_tvm.compiler.onnx_import.fold import fold
from top_tvm.compiler.onnx_import.functions import function_body, has_function_body
from top_tvm.compiler.onnx_import.node import (
    Array,
    Expr,
    Node,
    TensorSequence,
    Value,
    as_expression,
    dtype_of,
    shape_of,
)
from top_tvm.compiler.onnx_import.order import needed_nodes
from top_tvm.compiler.onnx_import.result_size import (
    SizeLimit,
    check_results,
    numpy_dtype,
    type_of,
)
from top_tvm.compiler.onnx_import.sequences import SEQUENCES, SequenceNode
from top_tvm.compiler.transform.rewriter import bindings_of, variables_in
from top_tvm.device import memory_limit_bytes
from top_tvm.errors import ModelError
from top_tvm.plan import DTYPE_BYTES

_LOG = logging.getLogger(__name__)
STANDARD_DOMAINS = ("", "ai.onnx")
_SEQUENCE_OPSET = 18  # of the operators that operators on sequences become
# ONNX's shape inference counts windows that begin in the padding (before opset 22), and bins that
# a onesided transform leaves out; the standard's reference does neither.
_WRONGLY_INFERRED = tuple(f"({kind})" for kind in ("AveragePool", "LpPool", "MaxPool", "STFT"))
_MAX_DEPTH = 16  # of functions that call functions


def convert_graph(
    model: onnx.ModelProto, name: str, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> tvm.IRModule:
    """Convert a model whose inputs have static shapes.

    Parameters
    ----------
    model : onnx.ModelProto
        Checked by :func:`unsupported_operators`.
    name : str
        Of the model, for messages.
    shapes : mapping of str to tuple of int, optional
        What ONNX's shape inference found, by name: what nodes are converted to must agree.

    Returns
    -------
    tvm.IRModule
        ``main`` with one parameter per input without initializer, in their order.

    Raises
    ------
    ModelError
        Naming the node that cannot be converted, and why.
    """
    builder = relax.BlockBuilder()
    opsets = opset_versions(model.opset_import)
    functions = {(f.domain, f.name): f for f in model.functions}
    walk = _Walk(name, builder, functions, shapes or {}, _memory_limit())
    values: ChainMap[str, Value] = ChainMap()
    if model.graph.sparse_initializer:
        raise ModelError(f"{name}: sparse initializers are not supported; store them densely")
    for tensor in model.graph.initializer:
        values[tensor.name] = to_array(tensor, name)
    parameters, runtime_names = [], []
    for info in model.graph.input:
        if info.name not in values:
            runtime_names.append(info.name)
            parameters.append(_parameter(info, name))
            values[info.name] = parameters[-1]
    with builder.function("main", params=parameters):
        try:
            with builder.dataflow():
                scope = _Scope(values, opsets)
                for node in needed_nodes(model.graph, name):
                    walk.convert(node, scope)
                results = [_result(output.name, values, name) for output in model.graph.output]
                whole = results[0] if len(results) == 1 else relax.Tuple(results)
                result = builder.emit_output(whole)
        except BaseException:
            builder._end_block()  # else TVM warns, on stderr, that one was left open
            raise
        builder.emit_func_output(result)
    module = builder.get()
    _warn_of_unused(module["main"], name, runtime_names)
    return module


def _memory_limit() -> SizeLimit:
    nbytes = memory_limit_bytes()
    return SizeLimit(nbytes, f"this machine has {nbytes / 1e9:.1f} GB of memory")


def _warn_of_unused(function: relax.Function, name: str, inputs: Sequence[str]) -> None:
    used = set(variables_in(function.body.body))
    for binding in bindings_of(function):
        used.update(variables_in(binding.value))
    pairs = zip(inputs, function.params, strict=True)
    unused = [repr(given) for given, parameter in pairs if parameter not in used]
    if unused:
        _LOG.warning("%s: the results do not depend on: %s", name, ", ".join(unused))


def unsupported_operators(model: onnx.ModelProto, name: str) -> dict[str, list[str]]:
    """Names of the nodes of every operator type that cannot be converted, functions included."""
    functions = {(f.domain, f.name): f for f in model.functions}
    missing: dict[str, list[str]] = {}
    nodes = needed_nodes(model.graph, name)
    bodies = [(nodes, opset_versions(model.opset_import))]
    bodies += [(f.node, opset_versions(f.opset_import)) for f in model.functions]
    for nodes, opsets in bodies:
        for node in nodes:
            if not _is_supported(node, functions, opsets):
                standard = node.domain in STANDARD_DOMAINS
                kind = node.op_type if standard else f"{node.domain}.{node.op_type}"
                missing.setdefault(kind, []).append(node_name(node))
    return missing


def node_name(node: onnx.NodeProto) -> str:
    """Name of a node, or of its first result where it has none."""
    return str(node.name or next(filter(None, node.output), "?"))


def opset_versions(imports: Sequence[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Version by domain; the standard domain is the empty one."""
    return {"": 1, **_versions(imports)}  # models before IR version 3 import nothing


def _versions(imports: Sequence[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {_domain(item.domain): int(item.version) for item in imports}


def to_array(tensor: onnx.TensorProto, place: str) -> Array:
    """Value of a tensor.

    Raises
    ------
    ModelError
        If its bytes do not fit its type and shape.
    """
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ModelError(f"{place}: tensor {tensor.name!r} cannot be read: {error}") from error
    if array.dtype == object:
        raise ModelError(f"{place}: tensor {tensor.name!r} holds strings, which are not supported")
    return np.asarray(array)


@dataclass(frozen=True)
class _Scope:
    """Names that nodes see: those of their graph, or of the function that they are the body of."""

    values: ChainMap[str, Value]  # the innermost graph's first
    opsets: Mapping[str, int]
    attributes: Mapping[str, onnx.AttributeProto] = field(default_factory=dict)  # of the caller
    depth: int = 0
    path: str = ""


@dataclass
class _Walk:
    model: str
    builder: relax.BlockBuilder
    functions: Mapping[tuple[str, str], onnx.FunctionProto]
    shapes: Mapping[str, tuple[int, ...]]  # of the outermost graph
    limit: SizeLimit  # of every tensor
    unrolled: UnrolledNodes = field(default_factory=UnrolledNodes)

    def convert(self, proto: onnx.NodeProto, scope: _Scope) -> None:
        """Convert one node: its outputs become values of the scope."""
        label = f"{self.model}: node {scope.path}{node_name(proto)!r} ({proto.op_type})"
        proto = _with_attributes(proto, scope.attributes)
        operands = [self._operand(name, scope, label) for name in proto.input]
        opset = scope.opsets.get(_domain(proto.domain), 1)
        results: list[Value | None] | None = None
        if proto.domain in STANDARD_DOMAINS and proto.op_type in CONTROL_FLOW:
            results = self._convert_control_flow(proto, opset, operands, scope, label)
        elif proto.domain in STANDARD_DOMAINS and proto.op_type in SEQUENCES:
            results = [self._convert_sequence(proto, operands, label)]
        else:
            local = (proto.domain, proto.op_type) in self.functions  # whatever else has its name
            if not local:
                results = fold(proto, opset, operands, label)
                if results is None:  # converters make indices or weights of the results' size
                    check_results(proto, opset, operands, label, self.limit)
        if results is None:
            function = self._function(proto, opset, operands)
            if function is not None:
                self._convert_function(function, proto, operands, scope, label)
                return
            results = self._convert_operator(proto, opset, operands, label)
        for name, result in zip(proto.output, results, strict=False):
            if name:
                self._define(name, result, scope, label)

    def _operand(self, name: str, scope: _Scope, label: str) -> Value | None:
        if not name:
            return None
        if name not in scope.values:
            raise ModelError(f"{label}: no node before it computes its input {name!r}")
        return scope.values[name]

    def _define(self, name: str, result: Value | None, scope: _Scope, label: str) -> None:
        if result is None:
            raise ModelError(f"{label}: its output {name!r} is not supported")
        if name in scope.values.maps[0]:
            raise ModelError(f"{label}: its output {name!r} exists already")
        if not isinstance(result, TensorSequence) and scope.depth == 0:
            self._check_shape(name, result, label)
        scope.values[name] = result

    def _check_shape(self, name: str, result: Value, label: str) -> None:
        if label.endswith(_WRONGLY_INFERRED):
            return
        found = result.shape if isinstance(result, np.ndarray) else shape_of(result)
        expected = self.shapes.get(name, found)
        if found != expected:
            raise ModelError(
                f"{label}: became a tensor of shape {found}, where ONNX's shape inference finds "
                f"{expected} for {name!r}: please report this as a defect of top_tvm"
            )

    def _function(
        self, proto: onnx.NodeProto, opset: int, operands: Sequence[Value | None]
    ) -> onnx.FunctionProto | None:
        """Body of a node, unless a converter knows it better."""
        local = self.functions.get((proto.domain, proto.op_type))
        if local is not None:
            return local
        if converter_of(proto) is not None:
            return None
        types = [_type_proto(value) for value in operands]
        return function_body(proto, opset, types)

    def _convert_function(
        self,
        function: onnx.FunctionProto,
        proto: onnx.NodeProto,
        operands: Sequence[Value | None],
        scope: _Scope,
        label: str,
    ) -> None:
        if scope.depth == _MAX_DEPTH:
            raise ModelError(f"{label}: functions are nested more than {_MAX_DEPTH} deep")
        given = {item.name: item for item in proto.attribute}
        attributes = {item.name: item for item in function.attribute_proto} | given
        values: ChainMap[str, Value] = ChainMap(
            {
                name: value
                for name, value in zip(function.input, operands, strict=False)
                if value is not None
            }
        )
        opsets = {**scope.opsets, **_versions(function.opset_import)}
        path = f"{scope.path}{node_name(proto)}/"
        inner = _Scope(values, opsets, attributes, scope.depth + 1, path)
        for node in function.node:
            self.convert(_without_missing(node, inner), inner)
        for formal, name in zip(function.output, proto.output, strict=False):
            if name:
                self._define(name, values.get(formal), scope, label)

    def _convert_control_flow(
        self,
        proto: onnx.NodeProto,
        opset: int,
        operands: Sequence[Value | None],
        scope: _Scope,
        label: str,
    ) -> list[Value | None]:
        def run(body: onnx.GraphProto, inputs: Sequence[Value]) -> list[Value]:
            return self._run_body(body, inputs, scope, label)

        node = FlowNode(proto, label, opset, self.builder, operands, run, self.unrolled)
        return list(CONTROL_FLOW[proto.op_type](node))

    def _convert_sequence(
        self, proto: onnx.NodeProto, operands: Sequence[Value | None], label: str
    ) -> Value:
        def apply(
            kind: str, given: Sequence[Value], results: int = 1, **attributes: Any
        ) -> list[Value | None]:
            names = [
                [f"{end}{i}" for i in range(n)] for end, n in (("x", len(given)), ("y", results))
            ]
            node = helper.make_node(kind, *names, **attributes)
            folded = fold(node, _SEQUENCE_OPSET, given, label)
            if folded is not None:
                return folded
            return self._convert_operator(node, _SEQUENCE_OPSET, given, label)

        return SEQUENCES[proto.op_type](SequenceNode(proto, label, operands, apply))

    def _run_body(
        self, body: onnx.GraphProto, inputs: Sequence[Value], scope: _Scope, label: str
    ) -> list[Value]:
        """Outputs of a graph inside a node; it sees what the graph around it computed so far."""
        if scope.depth == _MAX_DEPTH:
            raise ModelError(f"{label}: graphs are nested more than {_MAX_DEPTH} deep")
        values = scope.values.new_child()
        inner = replace(scope, values=values, depth=scope.depth + 1)
        for tensor in body.initializer:
            values[tensor.name] = to_array(tensor, label)
        values.update(zip([info.name for info in body.input], inputs, strict=False))
        for node in needed_nodes(body, label):
            self.convert(node, inner)
        return [_lookup(output.name, values, label) for output in body.output]

    def _convert_operator(
        self, proto: onnx.NodeProto, opset: int, operands: Sequence[Value | None], label: str
    ) -> list[Value | None]:
        inputs = tuple(None if v is None else as_expression(v, label) for v in operands)
        node = Node(proto, label, opset, self.builder, inputs)
        converter = converter_of(proto)
        if converter is None:
            node.refuse("there is no such operator, or it is not supported")
        try:
            converted = converter(node)
            results = [converted] if isinstance(converted, tvm.ir.Expr) else list(converted)
            return [None if r is None else self._bind(r, label) for r in results]
        except ModelError:
            raise
        except Exception as error:  # Relax infers shapes, and refuses operands in many ways
            raise ModelError(f"{label}: cannot be converted: {_last_line(error)}") from error

    def _bind(self, expression: Expr, label: str) -> Value:
        if isinstance(expression, tvm.ir.GenericConst):
            return np.asarray(expression.value.numpy())
        value = self.builder.normalize(expression)
        _check_type(value, label, self.limit)
        if 0 in shape_of(value):  # without elements, all values are the same
            return np.empty(shape_of(value), numpy_dtype(dtype_of(value)))
        return self.builder.emit(value)


def _result(output: str, values: Mapping[str, Value], name: str) -> Expr:
    place = f"{name}: output {output!r}"
    result = as_expression(_lookup(output, values, name), place)
    if dtype_of(result) == "bfloat16":
        raise ModelError(
            f"{place}: tensors of type BFLOAT16 are not supported as outputs, as NumPy has no such "
            "type: cast it to float32"
        )
    return result


def _lookup(output: str, values: Mapping[str, Value], place: str) -> Value:
    if output not in values:
        raise ModelError(f"{place}: output {output!r} is computed by no node")
    return values[output]


def _parameter(info: onnx.ValueInfoProto, name: str) -> relax.Var:
    tensor = info.type.tensor_type
    place = f"{name}: input {info.name!r}"
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except (KeyError, ValueError) as error:
        raise ModelError(f"{place}: has no element type") from error
    if dtype not in DTYPE_BYTES or dtype == "bfloat16":  # which NumPy does not have
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise ModelError(f"{place}: tensors of type {kind} are not supported")
    shape = [int(dimension.dim_value) for dimension in tensor.shape.dim]
    identifier = re.sub(r"\W", "_", info.name) or "input"
    if not identifier[0].isalpha():
        identifier = f"input_{identifier}"
    return relax.Var(identifier, relax.TensorType(shape, dtype))


def _check_type(value: Expr, label: str, limit: SizeLimit) -> None:
    """What the rest of the compiler relies on."""
    if not isinstance(value.ty, relax.TensorType) or not isinstance(
        value.ty.shape, relax.ShapeExpr
    ):
        raise ModelError(f"{label}: its result has no shape that is known when the model is built")
    if dtype_of(value) not in DTYPE_BYTES:
        raise ModelError(f"{label}: values of type {dtype_of(value)} are not supported")
    # Even a tensor that fusion would avoid: a loop over it would not end.
    limit.check(shape_of(value), math.prod(shape_of(value)) * DTYPE_BYTES[dtype_of(value)], label)


def _type_proto(value: Value | None) -> onnx.TypeProto | None:
    return None if value is None or isinstance(value, TensorSequence) else type_of(value)


def _with_attributes(
    node: onnx.NodeProto, given: Mapping[str, onnx.AttributeProto]
) -> onnx.NodeProto:
    """The node with references to attributes of the calling node resolved."""
    if not any(item.ref_attr_name for item in node.attribute):
        return node
    resolved = onnx.NodeProto()
    resolved.CopyFrom(node)
    del resolved.attribute[:]
    for item in node.attribute:
        if not item.ref_attr_name:
            resolved.attribute.append(item)
        elif item.ref_attr_name in given:
            copy = onnx.AttributeProto()
            copy.CopyFrom(given[item.ref_attr_name])
            copy.name = item.name
            resolved.attribute.append(copy)
    return resolved


def _without_missing(node: onnx.NodeProto, scope: _Scope) -> onnx.NodeProto:
    """Optional inputs of a function that the caller left out are left out of its nodes, too."""
    if all(not name or name in scope.values for name in node.input):
        return node
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for index, name in enumerate(node.input):
        if name not in scope.values:
            copy.input[index] = ""
    return copy


def _is_supported(
    node: onnx.NodeProto,
    functions: Mapping[tuple[str, str], onnx.FunctionProto],
    opsets: Mapping[str, int],
) -> bool:
    if (node.domain, node.op_type) in functions:
        return True
    if converter_of(node) is not None:
        return True
    if node.domain in STANDARD_DOMAINS and node.op_type in (
        *(*CONTROL_FLOW, *SEQUENCES, "Constant"),
    ):
        return True
    return has_function_body(node, opsets.get(_domain(node.domain), 1))


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
