"""Comparison of systems: turns, errors, peers. How long anything takes is not tested."""

import sys

import numpy as np
import pytest

from small_model import small_model
from top_tvm import compare
from top_tvm.errors import DependencyError, ModelError
from top_tvm.plan import Plan, Tensor
from top_tvm.random_inputs import random_inputs


def counting_systems(names):
    calls = []

    def system(name):
        def run():
            calls.append(name)
            return [np.ones(3)]

        return compare.System(name, run)

    return [system(name) for name in names], calls


def test_systems_take_turns_in_a_rotating_order():
    systems, calls = counting_systems("abc")
    compare.measure(systems, rounds=3)
    visits = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    assert "".join(visits) == "abc" + "bca" + "cab"


def test_warm_up_runs_are_not_counted():
    systems, calls = counting_systems("ab")
    timings = compare.measure(systems, rounds=2)
    for timing in timings:
        warm_up = 2 * compare.WARMUP_RUNS
        assert timing.runs == calls.count(timing.system) - warm_up
        assert 0 < timing.min_us <= timing.low_us <= timing.median_us <= timing.high_us


def test_visits_are_kept_apart_by_system_and_round():
    systems, calls = counting_systems("ab")
    visits = compare.measure_visits(systems, rounds=2)
    assert [len(times) for times in visits] == [2, 2]
    for system, times in zip(systems, visits, strict=True):
        counted = sum(len(visit) for visit in times)
        assert counted == calls.count(system.name) - 2 * compare.WARMUP_RUNS


def test_a_ratio_compares_within_rounds():
    # Every round is twice as slow as the one before; the ratio does not see that.
    ratio = compare.ratio_over_rounds([3, 6, 12, 24, 48], [2, 4, 8, 16, 32])
    assert ratio == compare.Ratio(median=1.5, low=1.5, high=1.5)
    assert compare.ratio_over_rounds([1, 2, 3, 4, 5], [1] * 5) == compare.Ratio(3.0, 2.0, 4.0)


def test_progress_counts_every_visit():
    systems, _ = counting_systems("ab")
    seen = []
    compare.measure(systems, rounds=2, progress=lambda *args: seen.append(args))
    assert seen == [("measure", done, 4) for done in (1, 2, 3, 4)]


def test_records_are_relative_to_the_first_system():
    first = compare.System("first", lambda: [np.array([1.0, -2.0])])
    other = compare.System("other", lambda: [np.array([1.0, -1.5])])
    records = compare.compare([first, other], rounds=1)
    assert [record["system"] for record in records] == ["first", "other"]
    assert records[0]["ratio"] == 1.0
    assert records[1]["ratio"] == records[1]["low_us"] / records[0]["low_us"]
    assert [record["error"] for record in records] == [0.0, 0.25]


@pytest.mark.parametrize(
    ("output", "reference", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([0.5], [0.0], 0.5),
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
        ([1.0, 1.0], [np.nan, 1.0], np.inf),
        ([np.nan, 1.0], [1.0, 1.0], np.inf),
        ([np.inf], [-np.inf], np.inf),
        ([1.0], [1.0, 1.0], np.inf),
        ([], [], 0.0),
    ],
)
def test_scaled_error(output, reference, expected):
    assert compare.scaled_error([np.array(output)], [np.array(reference)]) == expected


def test_scaled_error_takes_the_worst_output():
    good, bad = np.array([4.0]), np.array([3.0])
    assert compare.scaled_error([good, bad], [good, good]) == 0.25
    assert compare.scaled_error([good], [good, good]) == np.inf


def test_random_inputs_have_the_names_shapes_and_dtypes_of_the_plan():
    tensors = (
        Tensor("x", "float32", (2, 3), "input", "image"),
        Tensor("i", "int64", (4,), "input", "ids"),
        Tensor("m", "bool", (1, 4), "input", "mask"),
    )
    plan = Plan(1, 1, "sequential", tensors, (), (), (0, 1, 2), (), 0)
    inputs = random_inputs(plan, seed=3)
    assert {name: (a.dtype.name, a.shape) for name, a in inputs.items()} == {
        "image": ("float32", (2, 3)),
        "ids": ("int64", (4,)),
        "mask": ("bool", (1, 4)),
    }
    assert set(inputs["ids"]) <= {0, 1}
    np.testing.assert_array_equal(inputs["image"], random_inputs(plan, 3)["image"])
    assert (inputs["image"] != random_inputs(plan, 4)["image"]).any()


@pytest.mark.parametrize("batch", [2, "batch"])
def test_peers_agree_whatever_form_the_model_has(tmp_path, batch):
    pytest.importorskip("openvino")
    model = small_model(batch)
    path = tmp_path / "small.onnx"
    path.write_bytes(model.SerializeToString())
    x = {"data": np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype("float32")}
    sources = (str(path), model.SerializeToString())
    results = [
        peer("p", source, x, 2).run() for peer in compare.PEERS.values() for source in sources
    ]
    assert results[0][0].shape == (2, 10)
    assert np.ptp(results[0][0]) > 0.1
    for result in results:
        assert compare.scaled_error(result, results[0]) < 1e-5


@pytest.mark.parametrize("peer", compare.PEERS)
def test_a_peer_that_is_not_installed_is_named(monkeypatch, peer):
    monkeypatch.setitem(sys.modules, peer, None)
    with pytest.raises(DependencyError, match=f"'{peer}' is not installed"):
        compare.PEERS[peer]("p", b"", {}, 1)


@pytest.mark.parametrize("peer", compare.PEERS)
def test_a_broken_model_is_an_error_that_names_the_peer(peer):
    pytest.importorskip(peer)
    with pytest.raises(ModelError, match=f"{peer} cannot load the model"):
        compare.PEERS[peer]("p", b"no model", {}, 1)
