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
        Of the standard domain.
    opset : int
        The newest definition that is not newer is taken.
    types : sequence of onnx.TypeProto or None
        Types of the inputs: some definitions depend on them.
    """
    if node.domain not in ("", "ai.onnx"):
        return None
    if not onnx.defs.has(node.op_type, max_inclusive_version=opset):
        return None
    schema = onnx.defs.get_schema(node.op_type, opset)
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
    # The body refers to attributes whose defaults only the schema has.
    known = {item.name for item in function.attribute_proto}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.name and name not in known:
            function.attribute_proto.append(attribute.default_value)
    return function


def _newest(versions: Sequence[int], opset: int) -> int:
    return max([version for version in versions if version <= opset], default=min(versions))
