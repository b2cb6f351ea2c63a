"""Networks exported raw by PyTorch agree with ONNX Runtime and PyTorch, all partitioners."""

import functools
import io
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.utils._pytree import tree_leaves

from exported_models import MODELS, exportable
from top_tvm.compiler.build import compile_model, make_plan, measure_ops
from top_tvm.compiler.partition import PARTITIONERS
from top_tvm.compiler.sources import open_source
from top_tvm.weights import aligned

# The TorchScript exporter, each model at an opset that it can be written in.
OPSETS = {
    "inception": 11,
    "nasnet": 13,
    "randwire": 17,
    "encoder": 14,
    "attention": 18,
    "detector": 11,
    "lstm": 17,
    "gru": 13,
    "rnn": 11,
    "last_state": 14,
    "mobilenet": 13,
    "unet": 18,
    "other_norms": 20,
    "text": 13,
    "convnext": 20,
    "swin": 17,
    "decoder": 17,
    "wavenet": 11,
}
# The exporter of torch.export at opset 18 is what exported programs go through; this is another.
DYNAMIC = ("detector", "encoder", "lstm", "text")
DYNAMIC_OPSET = 20


def flat(outputs):
    return [output.detach().numpy() for output in tree_leaves(outputs)]


def onnx_runtime(model, inputs):
    session = onnxruntime.InferenceSession(model)
    return session.run(None, {key: value.numpy() for key, value in inputs.items()})


def assert_close(outputs, expected):
    assert len(outputs) == len(expected)
    for output, reference in zip(outputs, expected, strict=True):
        assert output.dtype == reference.dtype
        assert output.shape == reference.shape
        scale = float(np.abs(reference).max())
        if output.dtype.kind == "f":
            assert np.ptp(reference) > 0.01 * scale, "a constant output would hide wrong kernels"
        np.testing.assert_allclose(output, reference, rtol=1e-3, atol=1e-4 * scale)


def assert_every_partitioner_gives(model, inputs, *references, batch=None):
    """Compile once, and run the plan of every partitioner twice: then the arena is dirty."""
    compilation = compile_model(model, batch_sizes=None if batch is None else (batch,))
    (compiled,) = compilation.graphs
    graph = compiled.extracted.graph
    arrays = [aligned(inputs[graph.values[index].name].numpy()) for index in graph.inputs]
    problem = measure_ops(compilation, compiled)
    for name, partition in PARTITIONERS.items():
        executor = compilation.session.executor(
            make_plan(compiled, problem, name, partition(problem))
        )
        for _ in range(2):
            outputs = executor.run(arrays)
            for expected in references:
                assert_close(outputs, expected)


@functools.lru_cache(maxsize=1)
def eager(name, batch=1):
    """Module, inputs and outputs; the tests of one model follow each other."""
    model = exportable(name, batch)
    return model, flat(model.module(**model.inputs))


def export(model, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the weights of an LSTM are not in one piece
        return torch.export.export(model.module, (), model.inputs, **options)


@pytest.mark.parametrize("name", MODELS)
def test_torchscript_exporter(name):
    model, expected = eager(name)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is the old one
        torch.onnx.export(
            model.module,
            tuple(model.inputs.values()),
            file,
            dynamo=False,
            opset_version=OPSETS[name],
            input_names=list(model.inputs),
            output_names=[f"output_{index}" for index in range(len(expected))],
        )
    reference = onnx_runtime(file.getvalue(), model.inputs)
    assert_every_partitioner_gives(file.getvalue(), model.inputs, reference, expected)


@pytest.mark.parametrize("name", MODELS)
def test_exported_program(name):
    model, expected = eager(name)
    source = open_source(export(model))
    reference = onnx_runtime(source.model.SerializeToString(), model.inputs)
    assert_every_partitioner_gives(source, model.inputs, reference, expected)


@pytest.mark.parametrize("name", DYNAMIC)
def test_dynamic_batch(name):
    """A file of the newer exporter whose batch size is left open, built for three."""
    example = exportable(name, 2)
    batch = torch.export.Dim("batch")
    program = export(example, dynamic_shapes={key: {0: batch} for key in example.inputs})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        translated = torch.onnx.export(
            program, dynamo=True, opset_version=DYNAMIC_OPSET, verbose=False
        )
    file = translated.model_proto.SerializeToString()
    model, expected = eager(name, 3)
    assert {opset.version for opset in onnx.load_from_string(file).opset_import} >= {DYNAMIC_OPSET}
    reference = onnx_runtime(file, model.inputs)
    assert_every_partitioner_gives(file, model.inputs, reference, expected, batch=3)
