"""Operators that the ONNX importer of TVM converts as the standard says."""

from __future__ import annotations

from typing import Any

from tvm import relax

from top_tvm.compiler.onnx_import.node import Converted, Node

FROM_TVM = (
    "AffineGrid",
    "AllClassNMS",
    "ArgMax",
    "ArgMin",
    "Attention",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "CastLike",
    "Compress",
    "Concat",
    "ConcatFromSequence",
    "ConstantOfShape",
    "Conv",
    "ConvTranspose",
    "CumSum",
    "DepthToSpace",
    "Dropout",
    "EmbedLayerNormalization",
    "Expand",
    "EyeLike",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "GlobalAveragePool",
    "GlobalLpPool",
    "GlobalMaxPool",
    "GridSample",
    "GroupNormalization",
    "Identity",
    "InstanceNormalization",
    "LRN",
    "LayerNormalization",
    "LpPool",
    "MatMulInteger16",
    "MaxPool",
    "MaxRoiPool",
    "MaxUnpool",
    "MeanVarianceNormalization",
    "NonMaxSuppression",
    "NonZero",
    "OneHot",
    "Optional",
    "OptionalGetElement",
    "OptionalHasElement",
    "Pad",
    "RMSNormalization",
    "Range",
    "Reshape",
    "Resize",
    "RoiAlign",
    "Scatter",
    "ScatterElements",
    "ScatterND",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceLength",
    "Shape",
    "Size",
    "Slice",
    "SpaceToDepth",
    "Split",
    "SplitToSequence",
    "Squeeze",
    "Tile",
    "TopK",
    "Transpose",
    "Trilu",
    "Unique",
    "Unsqueeze",
    "Upsample",
    "Where",
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
