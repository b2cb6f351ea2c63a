"""Nodes whose inputs are all known are evaluated while the model is imported.

Exporters compute shapes from shapes: with static shapes, all of that is arithmetic on constants.
The evaluator is the reference implementation of the ONNX standard.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from top_tvm.compiler.onnx_import.node import TensorSequence, shape_of
from top_tvm.compiler.onnx_import.result_size import SizeLimit, check_results

# Written for clarity, these are slow: they stay in the graph. Random results are no constants.
_NOT_FOLDED = {
    *("Conv", "ConvInteger", "ConvTranspose", "DeformConv", "QLinearConv", "Col2Im"),
    *("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "LpPool", "MaxPool"),
    *("Attention", "GridSample", "GRU", "LSTM", "RNN", "MaxRoiPool", "MaxUnpool", "Resize"),
    *("RoiAlign", "Upsample", "Loop", "Scan", "If", "SequenceMap", "BatchNormalization"),
    *("Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike"),
    *("RandomUniform", "RandomUniformLike"),
}
# A constant may grow to this: bigger ones would only come from a mistake, or an attack.
_MAX_BYTES = 1 << 31
_CONSTANT_LIMIT = SizeLimit(_MAX_BYTES, f"a constant may take {_MAX_BYTES / 1e9:.1f} GB")


def fold(node: onnx.NodeProto, opset: int, operands: Sequence[Any], label: str) -> list[Any] | None:
    """Value of a node, or None if it is not to be known now.

    Parameters
    ----------
    node : onnx.NodeProto
        Of any domain; only the standard one is evaluated.
    opset : int
        Version of the operator set.
    operands : sequence of array, Expr or None
        Inputs: folding needs arrays, or None for what is left out.
    label : str
        The node, for messages.

    Raises
    ------
    ModelError
        If the result would be of absurd size.
    """
    if node.domain not in ("", "ai.onnx") or node.op_type in _NOT_FOLDED:
        return None
    if node.op_type in ("Shape", "Size"):  # of what only its shape need be known
        operands = [_of_its_shape(value) for value in operands]
    if not all(value is None or isinstance(value, np.ndarray) for value in operands):
        return None
    if not operands and node.op_type != "Constant":
        return None
    if any(item.type == onnx.AttributeProto.GRAPH for item in node.attribute):
        return None
    if operands:
        check_results(node, opset, operands, label, _CONSTANT_LIMIT)
    return _evaluate(node, opset, operands)


def _evaluate(node: onnx.NodeProto, opset: int, operands: Sequence[Any]) -> list[Any] | None:
    graph = helper.make_graph(
        [node],
        "constant",
        [_info(name) for name, value in zip(node.input, operands, strict=True) if name],
        [_info(name) for name in node.output if name],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    feeds = {n: v for n, v in zip(node.input, operands, strict=True) if n}
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = ReferenceEvaluator(model).run(None, feeds)
    except Exception:  # an operator, version or type that the reference does not know
        return None
    named = dict(zip([name for name in node.output if name], values, strict=True))
    if any(not isinstance(value, (np.ndarray, np.generic)) for value in values):
        return None  # sequences
    arrays = {name: np.asarray(value) for name, value in named.items()}
    if any(array.dtype.kind in "OUS" for array in arrays.values()):
        return None
    return [arrays.get(name) for name in node.output]


def _of_its_shape(value: Any) -> Any:
    """Stand-in that takes no memory for a value whose type is known."""
    if value is None or isinstance(value, (np.ndarray, TensorSequence)):
        return value
    return np.broadcast_to(np.float32(0), shape_of(value))


def _info(name: str) -> onnx.ValueInfoProto:
    return helper.make_value_info(name, onnx.TypeProto())
