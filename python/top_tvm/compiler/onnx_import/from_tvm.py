"""Operators that the ONNX importer of TVM converts as the standard says."""

from __future__ import annotations

from typing import Any

from tvm import relax

from top_tvm.compiler.onnx_import.node import Converted, Node

FROM_TVM = (
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "AllClassNMS",
    "And",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BiasGelu",
    "BitShift",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "Ceil",
    "Clip",
    "ConcatFromSequence",
    "Cos",
    "Cosh",
    "DequantizeLinear",
    "Div",
    "DynamicQuantizeLinear",
    "Einsum",
    "Elu",
    "EmbedLayerNormalization",
    "Equal",
    "Erf",
    "Exp",
    "FastGelu",
    "Floor",
    "Gelu",
    "Gemm",
    "Greater",
    "GreaterOrEqual",
    "HardSigmoid",
    "HardSwish",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "LogSoftmax",
    "MatMul",
    "MatMulInteger",
    "MatMulInteger16",
    "Max",
    "Mean",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "Optional",
    "OptionalGetElement",
    "OptionalHasElement",
    "Or",
    "PRelu",
    "Pow",
    "QuantizeLinear",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Round",
    "Selu",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceLength",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "SkipLayerNormalization",
    "Softmax",
    "Softplus",
    "Softsign",
    "SplitToSequence",
    "Sqrt",
    "Sub",
    "Sum",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Xor",
)


def convert_with_tvm(node: Node) -> Converted:
    """Convert a node by TVM's converter for its operator and version."""
    from tvm.relax.frontend.onnx import onnx_frontend

    converter = onnx_frontend._get_convert_map()[node.op_type].get_converter(node.opset)
    attributes = onnx_frontend.ONNXGraphImporter._parse_attr(None, node.proto.attribute)
    attributes["tvm_custom"] = {"name": node.label, "num_outputs": len(node.proto.output)}
    inputs = onnx_frontend.onnx_input(node.inputs)
    converted: Any = converter(node.builder, inputs, attributes, [{}, {}])
    if isinstance(converted, relax.Tuple):
        return list(converted.fields)
    converted = node.builder.normalize(converted)
    if isinstance(converted.ty, relax.TupleType):
        whole = node.emit(converted)
        return [relax.TupleGetItem(whole, index) for index in range(len(converted.ty.fields))]
    return converted
