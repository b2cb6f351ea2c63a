"""The comparison of partitioners runs and reports what it promises; times are not tested."""

import importlib
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from small_model import small_model
from top_tvm.compiler.build import optimise_model
from top_tvm.compiler.partition import available_partitioners
from top_tvm.compiler.wide_device import work_of

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "partition.py"
SIMULATED = "small-gpu (simulated device)"


def run_benchmark(*arguments):
    command = [sys.executable, str(BENCHMARK), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, size in (("small", 16), ("smaller", 8)):
        onnx.save(small_model(size=size), folder / f"{name}.onnx")
    return folder


def test_work_on_a_wide_device_follows_from_the_model():
    graph = optimise_model(small_model()).extracted.graph
    works = [work_of(graph, op) for op in graph.ops]
    stem = next(work for work in works if work.flops)
    elements = 16 * 16 * 16
    assert stem.elements == elements
    assert stem.flops == pytest.approx(2 * elements * 3 * 9, rel=0.1)  # bias and ReLU may count
    assert stem.nbytes >= 4 * (elements + 3 * 16 * 16 + 16 * 3 * 9)


@pytest.fixture(scope="module")
def simulated(models, tmp_path_factory):
    """Records and output of a run with every method on graphs that take no time."""
    out = tmp_path_factory.mktemp("results")
    done = run_benchmark(
        *("--models", models / "small.onnx", models / "smaller.onnx"),
        *("--streams", "2,3", "--merge", "none,3x2,small+smaller:1x1", "--device", "small-gpu"),
        *("--search-ms", "3", "--long-s", "0.05", "--ios-minutes", "2", "--ios-exact"),
        *("--json", out / "records.json", "--out", out / "table.md"),
    )
    assert done.returncode == 0, done.stderr
    return json.loads((out / "records.json").read_text()), done.stdout, out


def test_every_method_has_a_record_per_problem(simulated):
    records, _, _ = simulated
    methods = {"sequential", "greedy", "list", "beam", "list+search", "annealing", "ios-bounded"}
    methods |= {"ios", "search-long"}
    if "gpg" in available_partitioners():
        methods |= {"gpg", "policy", "policy-1", "gpg-staged"}
    graphs = {"small", "smaller", "small:3x2", "smaller:3x2", "small+smaller:1x1"}
    found = [(record["graph"], record["streams"], record["method"]) for record in records]
    assert sorted(found) == sorted(itertools.product(graphs, (2, 3), methods))
    assert {record["device"] for record in records} == {SIMULATED}
    ops = {record["graph"]: record["ops"] for record in records}
    assert ops["small:3x2"] == 3 * ops["small"]
    assert ops["small+smaller:1x1"] == ops["small"] + ops["smaller"]


def test_searches_are_no_worse_than_where_they_start(simulated):
    records, _, _ = simulated
    times = {(r["graph"], r["streams"], r["method"]): r["predicted_us"] for r in records}
    for (graph, streams, method), time_us in times.items():
        if method in ("list+search", "annealing", "search-long"):
            assert time_us <= times[graph, streams, "list"] * (1 + 1e-9)
    staged = {r["method"]: r["staged_us"] for r in records if r["graph"] == "small"}
    assert staged["ios"] <= staged["ios-bounded"] * (1 + 1e-9)
    assert staged["list"] is None
    assert all(r["search_ms"] > 0 and math.isfinite(r["search_ms"]) for r in records)


def test_tables_say_what_is_simulated_and_how_they_were_made(simulated):
    _, stdout, out = simulated
    assert (out / "table.md").read_text().strip() == stdout.strip()
    assert not list(out.glob("table.md.*"))
    assert f"### {SIMULATED}, 2 streams, single models" in stdout
    assert f"### {SIMULATED}, 3 streams, merged graphs" in stdout
    assert "python benchmarks/partition.py --models" in stdout
    assert "| small+smaller:1x1 |" in stdout
    assert "search time in ms" in stdout


def test_an_exact_search_that_takes_too_long_is_killed_and_not_tried_again(models, tmp_path):
    path = tmp_path / "records.json"
    done = run_benchmark(
        *("--models", models / "small.onnx", "--streams", "2,4", "--merge", "none"),
        *("--device", "small-gpu", "--methods", "ios,list", "--ios-minutes", "1e-6"),
        *("--json", path),
    )
    assert done.returncode == 0, done.stderr
    records = [r for r in json.loads(path.read_text()) if r["method"] == "ios"]
    assert [record["predicted_us"] for record in records] == [None, None]
    assert [record["note"] for record in records] == [
        "did not finish in 1e-06 min",
        "not tried: did not finish before",
    ]
    assert "* ios did not finish in 1e-06 min: small (small-gpu" in done.stdout


def test_plans_are_measured_on_the_cpu(models, tmp_path):
    path = tmp_path / "records.json"
    done = run_benchmark(
        *("--models", models / "small.onnx", "--measured", "--rounds", "1", "--json", path),
        *("--streams", "2", "--merge", "2x1", "--device", "cpu", "--methods", "list"),
    )
    assert done.returncode == 0, done.stderr
    records = json.loads(path.read_text())
    assert {record["device"] for record in records} == {"cpu (measured)"}
    assert records[0]["graph"] == "small:2x1"
    plans = {record["method"]: record for record in records[1:]}
    assert set(plans) == {*available_partitioners(), "auto"}
    assert all(plan["measured_us"] > 0 < plan["predicted_us"] for plan in plans.values())
    assert plans["auto"]["ratio"]["median"] > 0
    assert plans["auto"]["plan"] in available_partitioners()
    assert "Error of the prediction over" in done.stdout
    assert "| small |" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "lenet"], "no lenet; give files, or of: bvlc_alexnet, "),
        (["--models", "a/squeezenet", "squeezenet"], "have the same name"),
        (["--methods", "list,magic"], "no magic; there are: gpg, policy, policy-1, sequential, "),
        (
            ["--device", "tpu"],
            "no tpu; there are: large-gpu, small-gpu, tensor-gpu, multicore, cpu",
        ),
        (["--streams", "2,0"], "'2,0' is not a list of positive numbers"),
        (["--merge", "3y2"], "'3y2' is not 'none', LANESxSEGMENTS or MODEL+MODEL:LANESxSEGMENTS"),
        (["--merge", "0x2"], "'0x2' is not 'none'"),
        (["--merge", "squeezenet+lenet:1x1"], "no model lenet to merge; there are: "),
        (["--device", "cpu", "--streams", "4"], "the cpu is measured with 2 streams only"),
    ],
)
def test_bad_options_are_refused(arguments, message, monkeypatch, capsys):
    # In this process: importing the compiler takes seconds.
    monkeypatch.syspath_prepend(str(BENCHMARK.parent))
    monkeypatch.setattr(sys, "argv", [str(BENCHMARK), *arguments])
    with pytest.raises(SystemExit) as exit_:
        importlib.import_module("partition").main()
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_a_model_that_cannot_be_cut_is_named(models):
    done = run_benchmark(
        *("--models", models / "small.onnx", "--merge", "1x99", "--device", "small-gpu"),
        *("--methods", "list", "--streams", "2"),
    )
    assert done.returncode == 1
    assert "cannot be cut into 99 segments" in done.stderr
