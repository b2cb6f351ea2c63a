"""What a mix must not say."""

from dataclasses import replace

import pytest

from mixes import halves, make_mix, make_plan, make_variant, whole
from top_tvm import mix_check
from top_tvm.errors import ArtifactError
from top_tvm.mix import Lane, ModelVariant
from top_tvm.mix_check import check_mix
from top_tvm.plan import Tensor


def with_variant(**fields):
    """The mix with changes to its last variant."""
    mix = make_mix()
    return replace(mix, variants=(*mix.variants[:-1], replace(mix.variants[-1], **fields)))


def with_lanes(plans, segments=2, batch=1, mode="merged", first_stream=0, in_flight=0):
    """The mix whose last variant has these plans for model "a"."""
    mix = make_mix()
    models = {
        **mix.variants[-1].models,
        "a": ModelVariant(segments, (Lane(first_stream, {batch: tuple(plans)}),), (batch,)),
    }
    changed = make_variant("merged-f2k2", mode, in_flight, models)
    return replace(mix, variants=(*mix.variants[:-1], changed))


def with_model(**fields):
    mix = make_mix()
    models = {**mix.variants[-1].models, "a": replace(mix.variants[-1].models["a"], **fields)}
    return with_variant(models=models)


def end(tensors, calls, inputs, outputs):
    return make_plan(1, tensors, calls, inputs, outputs)


X = Tensor("x", "float32", (1, 16), "input", "x")
H = Tensor("h", "float32", (1, 16), "input", "h")
Y = Tensor("y", "float32", (1, 16), "output", "y")
Z = Tensor("z", "float32", (1, 16), "input", "x")
SMALL_H = replace(H, shape=(1, 8))
INT_H = replace(H, dtype="int32")
FIRST, SECOND = halves(1)
CALL = (("second", ("h", "y")),)

WRONG = {
    "no models": (replace(make_mix(), models={}), "0 models; expected 1"),
    "no name": (
        replace(make_mix(), models={"": make_mix().models["a"]}),
        "a model has no name",
    ),
    "model": (
        replace(make_mix(), models={"a": replace(make_mix().models["a"], plans={})}),
        "model 'a': there is no plan",
    ),
    "no variants": (replace(make_mix(), variants=()), "0 variants; expected 1"),
    "first": (
        replace(make_mix(), variants=make_mix().variants[1:]),
        "the first variant is 'free-2x1-b4', expected 'serial'",
    ),
    "ids": (with_variant(id="serial"), "two variants have the same id"),
    "no streams": (with_variant(streams=0), "streams is 0, expected 1 to 1024"),
    "few streams": (with_variant(streams=1), "segment 0: streams 0 to 1 of 1"),
    "negative stream": (
        with_lanes(halves(1), first_stream=-1),
        "batch 1, segment 0: streams -1 to 0 of 2",
    ),
    "in flight": (with_variant(in_flight=-1), "in_flight is -1"),
    "period": (with_variant(period_us=0.0), "period_us and capacity_per_s are 0.0 and"),
    "nan": (with_variant(capacity_per_s=float("nan")), "period_us and capacity_per_s are"),
    "memory": (with_variant(memory_bytes=7), "memory_bytes is 7, but it uses 3072"),
    "missing model": (
        with_variant(models={"a": make_mix().variants[2].models["a"]}),
        "its models are ",
    ),
    "serial": (with_variant(mode="serial"), "serial, but not one instance of one segment"),
    "free": (with_variant(mode="free"), "free, but cut into segments"),
    "no lanes": (with_model(lanes=()), "0 lanes of 2 segments"),
    "segments": (with_model(segments=3), "2 plans for 3 segments"),
    "no segments": (with_model(segments=0), "2 lanes of 0 segments"),
    "sizes": (with_model(batch_sizes=(4, 1)), "its batch sizes are \\(4, 1\\), expected ascending"),
    "no sizes": (with_model(batch_sizes=()), "its batch sizes are \\(\\), expected ascending"),
    "unknown size": (with_model(batch_sizes=(1, 2)), "the model has no plans for batch \\[2\\]"),
    "lane": (with_model(batch_sizes=(1, 4)), "a lane has batch sizes \\[1\\], not \\(1, 4\\)"),
    "batch": (with_lanes(halves(4)), "batch 1, segment 0: its plan says batch 4"),
    "constant": (
        with_lanes(
            [
                replace(
                    FIRST,
                    tensors=(X, Tensor("w", "float32", (16,), "constant", "v"), FIRST.tensors[2]),
                ),
                SECOND,
            ]
        ),
        "batch 1, segment 0: there is no constant 'v'",
    ),
    "order": (with_lanes([SECOND, FIRST]), "segment 0: its input 'h' is .* nothing is there"),
    "shape": (
        with_lanes([FIRST, end((SMALL_H, Y, X, Z), CALL, "xh", "yz")]),
        "segment 1: its input 'h' is .*\\(1, 8\\).*, but .*\\(1, 16\\).* is there",
    ),
    "dtype": (
        with_lanes([FIRST, end((INT_H, Y, X, Z), CALL, "xh", "yz")]),
        "segment 1: its input 'h' is .*int32.*, but .*float32.* is there",
    ),
    "twice": (with_lanes([FIRST, FIRST, SECOND], segments=3), "segment 1: 'h' is there already"),
    "over an input": (
        with_lanes(
            [
                end(
                    (
                        replace(X, name="x", storage="x"),
                        replace(Y, name="h", storage="h"),
                    ),
                    (("first", ("x", "h")),),
                    "x",
                    "h",
                ),
                end((H, replace(Y, name="x", storage="x")), (("second", ("h", "x")),), "h", "x"),
            ]
        ),
        "segment 1: 'x' is there already",
    ),
    "output": (
        with_lanes([FIRST, end((H, Y), CALL, "h", "y")]),
        "batch 1: no segment writes the output 'z', ",
    ),
}


@pytest.mark.parametrize(("mix", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_does_not_fit_is_named(mix, message):
    with pytest.raises(ArtifactError, match=message):
        check_mix(mix)


def test_what_fits_passes():
    check_mix(make_mix())
    check_mix(with_lanes(halves(1)))
    check_mix(with_lanes([whole(1)], segments=1))
    check_mix(with_lanes([whole(4)], segments=1, batch=4))


def test_the_time_of_the_check_is_bounded(monkeypatch):
    monkeypatch.setattr(mix_check, "MAX_LINKS", 10)
    with pytest.raises(ArtifactError, match="more than 10 inputs and outputs"):
        check_mix(make_mix())
