"""Files of mixes: bit-exact, sharing what is equal, and refused where they do not fit."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import top_tvm
from corrupt_top import sealed
from mixes import make_mix, make_variant, whole
from top_tvm import artifact, mix_file
from top_tvm.errors import ArtifactError
from top_tvm.mix import Lane, ModelVariant


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "mix.top"
    mix_file.save(make_mix(), path)
    return path


def assert_same(first, second):
    assert first.variants == second.variants
    assert list(first.models) == list(second.models)
    for name, one in first.models.items():
        other = second.models[name]
        assert one.metadata == other.metadata
        assert one.kernels == other.kernels
        assert one.plans == other.plans
        assert one.profiles == other.profiles
        assert one.constants.keys() == other.constants.keys()
        for key, array in one.constants.items():
            np.testing.assert_array_equal(array, other.constants[key], strict=True)


def test_round_trip_is_bit_exact(path, tmp_path):
    loaded = mix_file.load(path)
    assert_same(loaded, make_mix())
    mix_file.save(loaded, tmp_path / "again.top")
    assert (tmp_path / "again.top").read_bytes() == path.read_bytes()
    mix_file.save(loaded, path)  # over the file that its constants are mapped from
    assert_same(loaded, make_mix())


def test_models_and_variants_share_what_is_equal(path):
    mix = mix_file.load(path)
    first, second = mix.models.values()
    assert first.kernels is second.kernels
    assert first.constants["w"] is second.constants["w"]
    assert first.constants["w"].ctypes.data % 64 == 0
    serial, free, _ = (variant.models["a"] for variant in mix.variants)
    assert serial.lanes[0].plans[1][0] is first.plans[1]
    assert free.lanes[0].plans[4][0] is free.lanes[1].plans[4][0]


def test_every_plan_is_stored_once(path):
    mix = make_mix()
    plans = [p for a in mix.models.values() for p in a.plans.values()]
    for variant in mix.variants:
        for model in variant.models.values():
            plans += [p for lane in model.lanes for ps in lane.plans.values() for p in ps]
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    assert names[:2] == ["weights.safetensors", "kernels.so"]
    assert "models/0/plans/4.json" in names
    assert "models/1/profiles/2.json" in names
    assert names[-1] == "metadata.json"
    stored = [name for name in names if "plans/" in name or "variants/" in name]
    assert len(stored) == len({plan.to_json() for plan in plans}) < len(plans)


def test_files_of_one_model_are_loaded_as_such(path, tmp_path):
    model = make_mix().models["a"]
    artifact.save(model, tmp_path / "model.top")
    assert isinstance(mix_file.load(tmp_path / "model.top"), artifact.Artifact)
    with pytest.raises(ArtifactError, match=r"mix.top: it holds a mix of models: load it with"):
        artifact.load(path)
    assert isinstance(top_tvm.load(path), top_tvm.MixExecutable)


def parts_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_change_in_any_part_is_found(path):
    original = path.read_bytes()
    for content in parts_of(path).values():
        data = bytearray(original)
        data[original.index(content) + len(content) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match=r"mix.top: damaged: the checksum of "):
            mix_file.load(path)


def change_metadata(change):
    def changed(parts):
        document = json.loads(parts["metadata.json"])
        change(document["mix"])
        parts["metadata.json"] = json.dumps(document).encode()

    return changed


def first_lane(mix):
    return mix["variants"][1]["models"][0]["lanes"][0]


DAMAGED = {
    "no variants part": (lambda parts: parts.pop("variants/0.json"), "there is no plan 'variants"),
    "no model": (
        lambda parts: parts.pop("models/1/plans/2.json"),
        "there is no plan 'models/1/plans/2",
    ),
    "unread": (
        lambda parts: parts.update({"models/2/plans/1.json": b"{}"}),
        "missing or unknown: models/2/plans/1.json",
    ),
    "names": (change_metadata(lambda m: m.update(names=["a", "a"])), "names of the models"),
    "fewer names": (change_metadata(lambda m: m["names"].pop()), "names of the models"),
    "cpu": (
        change_metadata(lambda m: m["models"][1].update(cpu_features=["warp"])),
        "this machine's CPU lacks warp",
    ),
    "format": (change_metadata(lambda m: m.update(format=5)), "format version 5 is newer than 4"),
    "mode": (change_metadata(lambda m: m["variants"][0].update(mode="fast")), "expected one of"),
    "plan": (
        change_metadata(lambda m: first_lane(m)["plans"].update({"1": ["plans/1.json"]})),
        "variant 'free-2x1-b4': there is no plan 'plans/1.json'",
    ),
    "batch": (
        change_metadata(lambda m: first_lane(m)["plans"].update({"01": []})),
        "a lane has plans for batch '1, 4, 01', expected '1, 4'",
    ),
    "models": (
        change_metadata(lambda m: m["variants"][2]["models"].pop()),
        "variant 'merged-f2k2': 1 models, the mix has 2",
    ),
    "streams": (
        change_metadata(lambda m: first_lane(m).update(first_stream=2)),
        "batch 1, segment 0: streams 2 to 2 of 2",
    ),
    "swapped segments": (
        change_metadata(
            lambda m: m["variants"][2]["models"][0]["lanes"][0]["plans"]["1"].reverse()
        ),
        "model 'a': batch 1, segment 0: its input 'h' is .*, but nothing is there",
    ),
}


@pytest.mark.parametrize(("change", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_mended_nonsense_is_refused(path, change, message):
    parts = parts_of(path)
    change(parts)
    path.write_bytes(sealed(parts))
    with pytest.raises(ArtifactError, match=f"mix.top: .*{message}"):
        mix_file.load(path)


def with_constant(mix, name, array):
    model = replace(mix.models[name], constants={"w": array})
    return replace(mix, models={**mix.models, name: model})


def test_equal_constants_under_one_key_need_not_be_one_array(path, tmp_path):
    mix = with_constant(make_mix(), "a", np.arange(16, dtype=np.float32))
    mix_file.save(mix, tmp_path / "again.top")
    assert (tmp_path / "again.top").read_bytes() == path.read_bytes()


UNSHARED = {
    "constant": (
        lambda mix: with_constant(mix, "b é", np.zeros(16, np.float32)),
        "model 'b é': another one has another constant 'w'",
    ),
    "kernels": (
        lambda mix: replace(
            mix,
            models={**mix.models, "a": replace(mix.models["a"], kernels=b"other")},
        ),
        "the models have different kernel libraries",
    ),
    "invalid plan": (
        lambda mix: replace(
            mix,
            variants=(
                mix.variants[0],
                make_variant(
                    "free",
                    "free",
                    2,
                    {
                        "a": ModelVariant(
                            1, (Lane(0, {1: (replace(whole(1), streams=0),)}),), (1,)
                        ),
                        "b é": mix.variants[0].models["b é"],
                    },
                ),
            ),
        ),
        "plan: streams is 0",
    ),
}


@pytest.mark.parametrize(("change", "message"), UNSHARED.values(), ids=UNSHARED.keys())
def test_what_does_not_belong_together_is_not_saved(tmp_path, change, message):
    with pytest.raises(ArtifactError, match=f"mix.top: not saved: {message}"):
        mix_file.save(change(make_mix()), tmp_path / "mix.top")
    assert list(tmp_path.iterdir()) == []


def test_too_many_plans_are_not_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("top_tvm.file_parts._MAX_JSON_BYTES", 10_000)
    with pytest.raises(ArtifactError, match=r"not saved: .* at most 10000 are read"):
        mix_file.save(make_mix(), tmp_path / "mix.top")
    assert list(tmp_path.iterdir()) == []
