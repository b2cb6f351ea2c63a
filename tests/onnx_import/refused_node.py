"""Models of one node that the importer refuses, and the message that it must have."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from top_tvm.compiler.onnx_import.graph import convert_graph
from top_tvm.errors import ModelError


def a_node(operator, *operands, opset=17, results=1, **attributes):
    """A model of one node, whose last result is wanted.

    An operand is the shape of an input, behind its type unless that is float32, a list or an array
    of constants, or None where it is left out.
    """
    names, inputs, constants = [], [], []
    for index, operand in enumerate(operands):
        name = "" if operand is None else f"x{index}"
        names.append(name)
        if isinstance(operand, tuple):
            dtype, shape = ("float32", operand)
            if operand and isinstance(operand[0], str):
                dtype, *shape = operand
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            inputs.append(helper.make_tensor_value_info(name, kind, shape))
        elif operand is not None:
            constants.append(numpy_helper.from_array(np.asarray(operand), name))
    outputs = [f"y{index}" for index in range(results - 1)] + ["y"]
    node = helper.make_node(operator, names, outputs, "n", **attributes)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def cases(refusals):
    """Parameters of a test: each model, or each of a list of models, with the text that it gets."""
    return [
        pytest.param(model, text, id=f"{model.graph.node[0].op_type}: {text}")
        for text, models in refusals.items()
        for model in (models if isinstance(models, list) else [models])
    ]


def check_refusal(model, text):
    """The message names the model, the node and its operator, and says nothing but the text."""
    with pytest.raises(ModelError) as error:
        convert_graph(model, "m")
    assert str(error.value) == f"m: node 'n' ({model.graph.node[0].op_type}): {text}"
