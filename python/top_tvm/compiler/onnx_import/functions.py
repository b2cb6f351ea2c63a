"""Operators that the ONNX standard defines by others: their bodies."""

from __future__ import annotations

from collections.abc import Sequence

import onnx


def function_body(
    node: onnx.NodeProto, opset: int, types: Sequence[onnx.TypeProto | None]
) -> onnx.FunctionProto | None:
    """Definition of an operator as a function of other operators, or None if it has none.

    Parameters
    ----------
    node : onnx.NodeProto
        Of a domain of the standard, preview operators included.
    opset : int
        The newest definition that is not newer is taken.
    types : sequence of onnx.TypeProto or None
        Types of the inputs: some definitions depend on them.
    """
    schema = find_schema(node, opset)
    if schema is None:
        return None
    if schema.has_function:
        version = _newest(schema.function_opset_versions, opset)
        body = schema.get_function_with_opset_version(version)
    elif schema.has_context_dependent_function:
        version = _newest(schema.context_dependent_function_opset_versions, opset)
        serialized = [b"" if t is None else t.SerializeToString() for t in types]
        body = schema.get_context_dependent_function_with_opset_version(
            version, node.SerializeToString(), serialized
        )
    else:
        return None
    function = onnx.FunctionProto()
    function.ParseFromString(body)
    given = {item.name for item in function.attribute_proto}
    for name, attribute in schema.attributes.items():
        default = attribute.default_value
        if default.type != onnx.AttributeProto.UNDEFINED and name not in given:
            function.attribute_proto.append(default)
    return function


def has_function_body(node: onnx.NodeProto, opset: int) -> bool:
    """Whether the standard defines an operator by others, for some types of its inputs at least."""
    schema = find_schema(node, opset)
    return schema is not None and bool(schema.has_function or schema.has_context_dependent_function)


def find_schema(node: onnx.NodeProto, opset: int) -> onnx.defs.OpSchema | None:
    """What the standard says of an operator in a version of its domain, or None."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    if not onnx.defs.has(node.op_type, opset, domain):
        return None
    return onnx.defs.get_schema(node.op_type, opset, domain)


def _newest(versions: Sequence[int], opset: int) -> int:
    return max([version for version in versions if version <= opset], default=min(versions))
