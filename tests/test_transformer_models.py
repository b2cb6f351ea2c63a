"""BERT and ViT as exporters write them: valid, dependent on their inputs, equal to ONNX Runtime."""

import numpy as np
import onnxruntime
import pytest

import top_tvm
from top_tvm.compiler.transformer_models import TRANSFORMER_MODELS, transformer_model
from top_tvm.errors import ModelError
from top_tvm.random_inputs import random_inputs


def outputs_of_onnxruntime(model, inputs):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)


@pytest.mark.parametrize("name", TRANSFORMER_MODELS)
def test_an_executable_gives_the_numbers_of_onnx_runtime(name):
    model = transformer_model(name, layers=1, seed=3)
    executable = top_tvm.build(model, batch_sizes=(1, 2))
    for batch, plan in executable.artifact.plans.items():
        inputs = random_inputs(plan, seed=batch)
        expected = outputs_of_onnxruntime(model, inputs)
        outputs = executable.run(inputs)
        assert list(outputs) == [output.name for output in model.graph.output]
        for output, reference in zip(outputs.values(), expected, strict=True):
            scale = float(np.abs(reference).max())
            assert np.ptp(reference) > 0.1 * scale
            np.testing.assert_allclose(output, reference, rtol=1e-3, atol=1e-4 * scale)


def test_outputs_depend_on_every_input():
    generator = np.random.default_rng(0)
    ids, mask = generator.integers(0, 2, (2, 1, 128))
    image = generator.standard_normal((1, 3, 224, 224), dtype=np.float32)
    cases = {
        "bert_small": {"input_ids": ids, "attention_mask": mask},
        "vit_small": {"pixel_values": image},
    }
    for name, inputs in cases.items():
        model = transformer_model(name, layers=2)
        before = outputs_of_onnxruntime(model, inputs)
        for key, value in inputs.items():
            after = outputs_of_onnxruntime(model, {**inputs, key: 1 - value})
            for a, b in zip(before, after, strict=True):
                assert np.abs(a - b).max() > 1e-2 * np.abs(a).max()


def test_the_same_seed_gives_the_same_weights():
    first, same, other = (transformer_model("vit_small", 1, 1, seed) for seed in (0, 0, 1))
    assert first == same
    assert first != other


def test_an_unknown_model_is_named():
    with pytest.raises(ModelError, match=r"no transformer 'gpt'; there are: bert_small, vit_small"):
        transformer_model("gpt")
