"""Mixes of real models: every variant gives the numbers of a lone run; options; files; CLI."""

import functools

import numpy as np
import pytest

import top_tvm
from bf16 import needs_bf16
from chains import run_chain
from small_model import small_model
from top_tvm.compiler.build_mix import build_mix
from top_tvm.compiler.light_models import light_model
from top_tvm.compiler.session import Session
from top_tvm.compiler.transformer_models import transformer_model
from top_tvm.compiler.variants import MOST_VARIANTS
from top_tvm.mix import memory_bytes
from top_tvm.mix_check import check_mix
from top_tvm.random_inputs import random_inputs


def check_variants(mix, rtol=1e-4):
    """All lanes of all variants, all batch sizes: the outputs of the plan for one task."""
    check_mix(mix)
    first = next(iter(mix.models.values()))
    session = Session.open(first.kernels, first.constants)
    executors = {}

    def executor(plan):
        return executors.setdefault(id(plan), session.executor(plan))

    for name, artifact in mix.models.items():
        for batch, whole in artifact.plans.items():
            inputs = random_inputs(whole, seed=batch)
            expected = run_chain([whole], executor, inputs)
            names = [spec.name for spec in artifact.metadata.outputs]
            assert all(np.ptp(expected[output]) > 0 for output in names)
            chains = [
                lane.plans[batch]
                for variant in mix.variants
                for lane in variant.models[name].lanes
                if batch in lane.plans
            ]
            assert len(chains) >= len(mix.variants) / 2
            for plans in chains:
                results = run_chain(plans, executor, inputs)
                for output in names:
                    scale = np.abs(expected[output]).max()
                    np.testing.assert_allclose(
                        results[output], expected[output], rtol=rtol, atol=0.1 * rtol * scale
                    )


@pytest.mark.parametrize("streams", [1, 2, 4])
def test_every_variant_of_two_small_models(streams):
    models = {"a": small_model("n"), "b é": small_model("n", size=12, seed=1)}
    mix = build_mix(
        models,
        streams=streams,
        batch_sizes={"a": (1, 3), "b é": (2,)},
        lanes=(1, 2),
        segments=(1, 2, 3),
        every=True,
    ).mix
    ids = [variant.id for variant in mix.variants if "-nogang" not in variant.id]
    free = {1: [], 2: ["free-2x1"], 4: ["free-2x2", "free-4x1"]}[streams]
    merged = ["merged-f1k2", "merged-f1k3", "merged-f2k1", "merged-f2k2", "merged-f2k3"]
    smallest = ["serial", *free, *merged]
    assert ids == [*smallest, *(f"{id_}-b3" for id_ in smallest)]
    for variant in mix.variants:
        assert variant.memory_bytes == memory_bytes(variant.models, variant.in_flight)
    check_variants(mix)


def test_every_variant_of_real_models():
    models = {
        "squeezenet": light_model("squeezenet", seed=5),
        "shufflenet": light_model("shufflenet", seed=5),
        "bert": transformer_model("bert_small", 1, layers=1),
    }
    check_variants(build_mix(models, partitioner="list", lanes=2, segments=(1, 3), every=True).mix)


@needs_bf16
def test_every_variant_in_bfloat16():
    models = {"a": small_model("n"), "b": small_model("n", size=12, seed=1)}
    mix = build_mix(models, precision="bf16", batch_sizes=(1, 2), lanes=2, every=True).mix
    boundary = {
        plan.tensors[index].dtype
        for variant in mix.variants
        for model in variant.models.values()
        for lane in model.lanes
        for plans in lane.plans.values()
        for plan in plans
        for index in plan.outputs
    }
    assert "uint16" in boundary
    check_variants(mix, rtol=0.05)


@functools.cache
def small_mix():
    models = {"a": small_model("n"), "b": small_model("n", size=12, seed=1)}
    return models, top_tvm.build(models, batch_sizes=(1, 2))


def test_a_mix_is_saved_and_loaded(tmp_path):
    models, built = small_mix()
    path = tmp_path / "mix.top"
    built.save(path)
    loaded = top_tvm.load(path)
    assert loaded.variants == built.variants
    assert repr(loaded) == f"<MixExecutable of 'a', 'b', {len(built.variants)} variants>"
    assert loaded.variants[0].id == "serial"
    assert list(loaded.models) == list(models)
    for name, size in (("a", 16), ("b", 12)):
        x = np.random.default_rng(2).standard_normal((2, 3, size, size)).astype("float32")
        expected = top_tvm.build(models[name], batch_sizes=(1, 2)).run({"data": x})["scores"]
        for executable in (built.models[name], loaded.models[name]):
            assert executable.batch_sizes == (1, 2)
            result = executable.run({"data": x})["scores"]
            np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_models_share_kernels_and_constants():
    _, built = small_mix()
    first, second = built.mix.models.values()
    assert first.kernels is second.kernels
    assert first.constants is second.constants
    assert built.models is built.models
    profile = first.profiles[1]
    assert all(op.cost.single_bandwidth > 0 for op in profile)
    assert first.metadata.device.streams == 2
    assert first.metadata.device.dispatch_us >= 0


def test_what_is_kept_of_the_variants():
    _, built = small_mix()
    assert len(built.variants) <= MOST_VARIANTS
    assert {model for v in built.variants for model in v.models} == {"a", "b"}


def test_models_have_shapes_of_their_own(tmp_path):
    names = {"wide": 20, "narrow": 8}
    models = {name: small_model("n", size="s") for name in names}
    shapes = {name: {"data": (1, 3, size, size)} for name, size in names.items()}
    mix = top_tvm.build(models, shapes=shapes, partitioner="sequential", lanes=1, segments=1).mix
    assert mix.variants[0].id == "serial"
    for name, size in names.items():
        assert mix.models[name].metadata.inputs[0].shape == (1, 3, size, size)


BAD_OPTIONS = [
    ({}, {}, "a mix has 1 to 1000 models, not 0"),
    ({"": "a.onnx"}, {}, "the name of a model has 1 to 200 characters, not ''"),
    ({"a\n": "a.onnx"}, {}, "must be printable text, not 'a\\\\n'"),
    ({1: "a.onnx"}, {}, "must be printable text, not 1"),
    ({"a": "a.onnx"}, {"lanes": 0}, "lanes must be 1 to 1024, not 0"),
    ({"a": "a.onnx"}, {"lanes": ()}, "lanes must name at least one number"),
    ({"a": "a.onnx"}, {"segments": (1, -1)}, "segments must be 1 to 1000, not -1"),
    ({"a": "a.onnx"}, {"segments": 1.5}, "segments must be 1 to 1000, not 1.5"),
    ({"a": "a.onnx"}, {"streams": 0}, "streams must be 1 to 1024, not 0"),
    ({"a": "a.onnx"}, {"target": "cuda"}, "target 'cuda' is not supported"),
    ({"a": "a.onnx"}, {"batch_sizes": (0,)}, "batch sizes must be at least 1, not 0"),
    ({"a": "a.onnx"}, {"batch_sizes": {"b": (1,)}}, "batch_sizes names 'b'; the models are 'a'"),
    ({"a": "a.onnx"}, {"shapes": {"x": (1,)}}, "shapes names 'x'; the models are 'a'"),
    ("a.onnx", {"lanes": 1}, "lanes and segments are options of a mix"),
    ("a.onnx", {"segments": 1}, "lanes and segments are options of a mix"),
]


@pytest.mark.parametrize(("models", "options", "message"), BAD_OPTIONS)
def test_bad_options_are_refused_before_any_work(models, options, message):
    with pytest.raises(top_tvm.PartitionError, match=message):
        top_tvm.build(models, **options)


def test_a_mix_that_needs_too_much_memory_is_refused(monkeypatch):
    monkeypatch.setattr("top_tvm.compiler.estimate.memory_limit_bytes", lambda: 750_000_000)
    large = small_model(size=128)
    top_tvm.estimate_memory(large)
    message = r"a build of the mix takes about .* GB of memory \(alone, a .* GB, b .* GB\)"
    with pytest.raises(top_tvm.ModelError, match=message):
        top_tvm.build({"a": large, "b": large, "c": large, "d": large})


def test_a_model_that_cannot_be_read_is_named():
    with pytest.raises(top_tvm.ModelError, match=r"absent.onnx"):
        top_tvm.build({"a": small_model(), "b": "absent.onnx"})
