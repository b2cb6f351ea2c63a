"""Sequences of tensors are taken apart while a model is imported."""

import numpy as np
import pytest
from node_batch import NodeBatch
from onnx import TensorProto, helper
from test_movement import ints, numbers

import top_tvm
from top_tvm.compiler.onnx_import.graph import convert_graph


def scalar(value):
    return np.asarray(value, np.int64)


def tensors_only(batch, *names):
    """Let only these results be outputs: sequences cannot be."""
    batch.outputs = list(names)
    return batch


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_parts_of_a_tensor(opset):
    batch = NodeBatch(opset)
    x = batch.given(numbers(5, 6, 2))
    (pairs,) = batch.add("SplitToSequence", x, scalar(2))  # the last one is smaller
    (columns,) = batch.add("SplitToSequence", x, ints(1, 3, 2), axis=1)
    (rows,) = batch.add("SplitToSequence", x, axis=0, keepdims=0)
    names = [
        batch.add("SequenceAt", pairs, scalar(0))[0],
        batch.add("SequenceAt", pairs, scalar(-1))[0],
        batch.add("SequenceAt", columns, scalar(1))[0],
        batch.add("SequenceAt", rows, scalar(3))[0],
        batch.add("ConcatFromSequence", columns, axis=1)[0],
        batch.add("ConcatFromSequence", rows, axis=-1, new_axis=1)[0],
        batch.add("SequenceLength", rows)[0],
    ]
    check(tensors_only(batch, *names))


def test_sequences_under_construction():
    batch = NodeBatch(17)
    x, y = batch.given(numbers(2, 3)), batch.given(numbers(2, 3) + 1)
    (both,) = batch.add("SequenceConstruct", x, y)
    (known,) = batch.add("SequenceInsert", both, np.zeros((2, 3), np.float32), scalar(1))
    (longer,) = batch.add("SequenceInsert", known, x)
    (shorter,) = batch.add("SequenceErase", longer, scalar(-2))
    (last,) = batch.add("SequenceErase", shorter)
    (nothing,) = batch.add("SequenceEmpty")
    (one,) = batch.add("SequenceInsert", nothing, y)
    names = [batch.add("ConcatFromSequence", s, axis=0)[0] for s in (longer, shorter, last, one)]
    names += batch.add("SequenceLength", nothing)
    check(tensors_only(batch, *names))


def test_optional_values_that_are_there():
    batch = NodeBatch(18)
    x = batch.given(numbers(2, 3))
    (optional,) = batch.add("Optional", x)
    (value,) = batch.add("OptionalGetElement", optional)
    (there,) = batch.add("OptionalHasElement", optional)
    (missing,) = batch.add("OptionalHasElement", "")
    results = tensors_only(batch, value, there, missing).run()
    np.testing.assert_array_equal(results[value], batch.inputs[x])
    assert results[there]
    assert not results[missing]


def check(batch):
    expected = batch.expected()
    for name, result in batch.run().items():
        assert result.dtype == expected[name].dtype
        np.testing.assert_array_equal(result, expected[name], err_msg=name)


@pytest.mark.parametrize(
    ("operator", "operands", "message"),
    [
        ("SequenceAt", ["s", "n"], "its position is computed at run time; make it a constant"),
        ("SequenceAt", ["s", scalar(2)], "position 2 does not exist in a sequence of 2"),
        ("SplitToSequence", ["x", "n"], "its split is computed at run time; make it a constant"),
        ("ConcatFromSequence", ["e"], "the sequence is empty"),
        ("Identity", ["s"], "is a sequence of tensors where a tensor is wanted"),
    ],
)
def test_what_is_not_known_is_refused(operator, operands, message):
    batch = NodeBatch(17)
    batch.inputs = {"x": numbers(2, 3), "n": scalar(0)}
    batch.nodes = [
        helper.make_node("SequenceConstruct", ["x", "x"], ["s"]),
        helper.make_node("SequenceEmpty", [], ["e"], dtype=TensorProto.FLOAT),
    ]
    attributes = {"axis": 0} if operator == "ConcatFromSequence" else {}
    batch.add(operator, *operands, **attributes)
    with pytest.raises(top_tvm.ModelError, match=message):
        convert_graph(batch.model(), "model")
