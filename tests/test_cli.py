"""The command line end to end: build, run, inspect and bench on a small model, and user errors."""

import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch

import top_tvm
from small_model import small_model
from top_tvm.cli import main
from top_tvm.cli_options import UsageError, parse_batches, parse_names, parse_shapes, unique_names
from top_tvm.random_inputs import random_inputs


@pytest.fixture
def cli(monkeypatch, capsys):
    """Call ``top-tvm`` in this process: returns exit code, stdout and stderr."""

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["top-tvm", *map(str, args)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as exit_:
            code = exit_.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    path.write_bytes(small_model("batch").SerializeToString())
    return path


@pytest.fixture(scope="module")
def compiled(model):
    """What ``top-tvm build --json`` says, in a process of its own, and the file it wrote."""
    path = model.with_suffix(".top")
    command = [sys.executable, "-c", "from top_tvm.cli import main; main()", "build", str(model)]
    options = ["-o", str(path), "--batch", "1,2", "--partitioner", "list", "--json"]
    result = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1]), path


@pytest.fixture(scope="module")
def mix(model):
    """A mix of two models, and what they are."""
    other = model.with_name("other.onnx")
    other.write_bytes(small_model("batch", size=12, seed=1).SerializeToString())
    path = model.with_name("mix.top")
    models = {"small": str(model), "named": str(other)}
    top_tvm.build(models, batch_sizes=(1, 2), partitioner="list").save(path)
    return path, models


def last_json(out):
    return json.loads(out.splitlines()[-1])


def test_build_reports_every_plan(compiled):
    report, path = compiled
    assert report["file"] == str(path)
    assert report["seconds"] > 0
    assert [plan["batch"] for plan in report["plans"]] == [1, 2]
    for plan in report["plans"]:
        assert plan["partitioner"] == "list"
        assert plan["streams"] == 2
        assert plan["ops"] >= 5
        assert 1 <= plan["stages"] <= plan["ops"]
        assert plan["predicted_us"] > 0
        assert plan["measured_us"] > 0
    for key in ("ops", "stages", "predicted_us", "measured_us"):
        assert report[key] == report["plans"][0][key]


@pytest.mark.parametrize("batch", [1, 2])
def test_run_computes_what_onnx_runtime_computes(cli, model, compiled, tmp_path, batch):
    x = np.random.default_rng(0).standard_normal((batch, 3, 16, 16)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "results"
    arguments = ("--input", f"data={tmp_path / 'x.npy'}", "--output", out, "--repeat", 3)
    code, stdout, _ = cli("run", compiled[1], *arguments, "--json")
    report = last_json(stdout)
    assert code == 0
    assert report["outputs"] == [{"name": "scores", "shape": [batch, 10], "dtype": "float32"}]
    latency = report["latency_us"]
    assert 0 < latency["min"] <= latency["median"] <= latency["max"]
    (expected,) = onnxruntime.InferenceSession(model).run(None, {"data": x})
    np.testing.assert_allclose(np.load(out)["scores"], expected, rtol=1e-3, atol=1e-4)


def test_a_file_of_pytorch_is_built_and_runs(cli, tmp_path):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 3))
    sizes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(module, (torch.ones(2, 4),), dynamic_shapes=sizes)
    source, target = tmp_path / "mlp.pt2", tmp_path / "mlp.top"
    torch.export.save(program, source)
    options = ("--batch", "1,3", "--partitioner", "greedy")
    code, stdout, _ = cli("build", source, "-o", target, *options, "--json")
    assert code == 0
    assert [plan["batch"] for plan in last_json(stdout)["plans"]] == [1, 3]
    x, y = tmp_path / "x.npy", tmp_path / "y.npz"
    np.save(x, np.random.default_rng(0).standard_normal((3, 4)).astype("float32"))
    code, stdout, _ = cli("run", target, "--input", f"input={x}", "--output", y, "--json")
    assert code == 0
    assert last_json(stdout)["outputs"] == [{"name": "output", "shape": [3, 3], "dtype": "float32"}]
    expected = module(torch.from_numpy(np.load(x))).detach().numpy()
    np.testing.assert_allclose(np.load(y)["output"], expected, rtol=1e-5, atol=1e-6)


def test_random_inputs_depend_on_the_seed_only(cli, compiled, tmp_path):
    def scores(seed):
        path = tmp_path / "out.npz"
        arguments = ("--random-input", "--seed", seed, "--repeat", 1, "--output", path)
        assert cli("run", compiled[1], *arguments)[0] == 0
        return np.load(path)["scores"]

    first = scores(1)
    np.testing.assert_array_equal(first, scores(1))
    assert (first != scores(2)).any()


def test_run_writes_a_trace_of_every_call_of_every_run(cli, compiled, tmp_path):
    trace = tmp_path / "trace.json"
    options = ("--random-input", "--batch", 2, "--repeat", 3, "--trace", trace)
    code, _, _ = cli("run", compiled[1], *options)
    assert code == 0
    plan = top_tvm.load(compiled[1]).artifact.plans[2]
    events = [e for e in json.loads(trace.read_text())["traceEvents"] if e["ph"] == "X"]
    runs = [event["name"] for event in events if event["cat"] == "run"]
    assert runs == ["run 0", "run 1", "run 2"]
    ops = [event for event in events if event["cat"] != "run"]
    assert {event["name"] for event in ops} == {call.op for call in plan.calls}
    spans = sum(plan.streams if call.threads > 1 else 1 for call in plan.calls)
    assert len(ops) == 3 * spans
    assert all(event["dur"] >= 0 for event in events)


def test_inspect_describes_plans_variants_and_memory(cli, compiled):
    built, path = compiled
    code, stdout, _ = cli("inspect", path, "--json")
    described = last_json(stdout)
    assert code == 0
    assert described["plans"] == built["plans"]
    assert described["ops"] == built["ops"]
    weights = 4 * (16 * 3 * 9 + 16 * 16 + 24 * 16 * 9 + 40 * 10 + 10)
    assert described["memory_bytes"] >= weights
    keys = {"id", "lanes", "segments", "batch", "streams", "period_us", "capacity_per_s"}
    for variant, plan in zip(described["variants"], built["plans"], strict=True):
        assert keys <= variant.keys()
        assert variant["period_us"] == plan["measured_us"]
        assert variant["capacity_per_s"] == variant["batch"] / variant["period_us"] * 1e6
    assert len({variant["id"] for variant in described["variants"]}) == 2
    best = max(variant["capacity_per_s"] for variant in described["variants"])
    assert described["capacity_per_s"] == best


def test_inspect_tells_kernels_speeds_and_layout_changes(cli, compiled):
    code, stdout, _ = cli("inspect", compiled[1], "--json")
    described = last_json(stdout)
    assert code == 0
    operators = described["operators"]
    assert len(operators) == described["ops"]
    assert described["layout_changes"] == sum("transpose" in op["kernel"] for op in operators)
    assert all(limit > 0 for limit in described["roofline"].values())
    for op in operators:
        library, _, symbol = op["kernel"].partition(":")
        assert library in ("onednn", "tvm") and symbol
        assert op["time_us"] > 0 and op["gb_per_s"] > 0
        assert op["roofline_percent"] > 0
    convolution = next(op for op in operators if "conv2d" in op["kernel"])
    assert convolution["gflops"] > 0
    text = cli("inspect", compiled[1])[1]
    assert "GFLOP/s" in text and "% roof" in text and "layout changes" in text


def test_inspect_shows_the_operators_of_every_batch_size(cli, compiled):
    code, stdout, _ = cli("inspect", compiled[1])
    assert code == 0
    for plan in top_tvm.load(compiled[1]).artifact.plans.values():
        for call in plan.calls:
            assert call.op in stdout


def test_several_models_make_a_mix(cli, mix, tmp_path):
    _, models = mix
    path = tmp_path / "m.top"
    arguments = (models["small"], f"named={models['named']}", "-o", path, "--partitioner", "list")
    counts = ("--lanes", "1,2", "--segments", 2, "--batch", "1,2")
    code, stdout, stderr = cli("build", *arguments, *counts, "--json")
    assert code == 0, stderr
    built = last_json(stdout)
    assert [(p["model"], p["batch"]) for p in built["plans"]] == [
        *(("small", 1), ("small", 2), ("named", 1), ("named", 2))
    ]
    code, stdout, _ = cli("inspect", path, "--json")
    described = last_json(stdout)
    assert code == 0
    for key in ("ops", "plans", "variants", "capacity_per_s", "memory_bytes"):
        assert described[key] == built[key]
    assert set(described["models"]) == {"small", "named"}
    variants = described["variants"]
    assert variants[0]["id"] == "serial"
    keys = {"id", "lanes", "segments", "batch", "streams", "period_us", "capacity_per_s"}
    assert all(keys <= variant.keys() for variant in variants)
    assert {variant["segments"] for variant in variants} <= {1, 2}
    assert described["capacity_per_s"] == max(v["capacity_per_s"] for v in variants)
    assert described["memory_bytes"] == (
        described["weights_bytes"]
        + described["kernels_bytes"]
        + max(variant["memory_bytes"] for variant in variants)
    )


def test_shapes_of_a_mix_name_the_model(cli, tmp_path):
    path, top = tmp_path / "open.onnx", tmp_path / "m.top"
    path.write_bytes(small_model(1, size="s").SerializeToString())
    options = ("-o", top, "--shape", "b:data=1,3,8,8", "--shape", "open:data=1,3,16,16")
    assert cli("build", path, f"b={path}", *options, "--lanes", 1, "--segments", 1)[0] == 0
    sizes = {n: e.inputs[0].shape for n, e in top_tvm.load(top).models.items()}
    assert sizes == {"open": (1, 3, 16, 16), "b": (1, 3, 8, 8)}


def test_tables_of_a_mix(cli, mix):
    code, stdout, _ = cli("inspect", mix[0])
    assert code == 0
    for text in ("small", "named", "serial", "tasks per s", "MB of memory"):
        assert text in stdout


def test_a_model_of_a_mix_is_inspected_and_runs(cli, mix, tmp_path):
    path, _ = mix
    code, stdout, _ = cli("inspect", path, "--model", "named", "--json")
    assert code == 0
    assert [plan["batch"] for plan in last_json(stdout)["plans"]] == [1, 2]
    output = tmp_path / "out.npz"
    options = ("--model", "named", "--random-input", "--seed", 3, "--output", output)
    assert cli("run", path, *options)[0] == 0
    executable = top_tvm.load(path).models["named"]
    inputs = random_inputs(executable.artifact.plans[1], 3)
    expected = executable.run(inputs)["scores"]
    np.testing.assert_array_equal(np.load(output)["scores"], expected)
    page = tmp_path / "page.html"
    assert cli("inspect", path, "--model", "small", "--html", page)[0] == 0
    assert page.stat().st_size > 10_000


def test_bench_compares_partitioners_and_peers(cli, model):
    options = ("--peers", "onnxruntime", "--partitioners", "sequential,greedy", "--rounds", 1)
    code, stdout, _ = cli("bench", model, *options, "--json")
    report = last_json(stdout)
    assert code == 0
    systems = {record["system"]: record for record in report["systems"]}
    assert list(systems) == ["onnxruntime", "sequential", "greedy"]
    assert report["reference"] == "onnxruntime"
    for record in systems.values():
        assert 0 < record["min_us"] <= record["median_us"]
        assert record["ratio"] == record["low_us"] / systems["onnxruntime"]["low_us"]
        assert record["error"] < 1e-4


def test_bench_prints_a_table(cli, model):
    code, stdout, _ = cli("bench", model, "--partitioners", "sequential", "--rounds", 1)
    assert code == 0
    assert "sequential" in stdout
    assert "ratio" in stdout


USER_ERRORS = [
    (("build", "missing.onnx", "-o", "m.top"), "missing.onnx: there is no such file"),
    (("build", "{model}", "-o", "no/such/dir/m.top"), "there is no such directory"),
    (("build", "{model}", "-o", "m.top", "--shape", "data"), "--shape data: expected NAME=1,3"),
    (("build", "{model}", "-o", "m.top", "--shape", "data=1,x"), "--shape data=1,x: expected"),
    (("build", "{model}", "-o", "m.top", "--shape", "image=1,3,16,16"), "data"),
    (
        ("build", "{model}", "-o", "m.top", "--batch", "0"),
        "--batch 0: expected different positive sizes such as 1,4",
    ),
    (("build", "{model}", "-o", "m.top", "--partitioner", "magic"), "sequential, greedy, list"),
    (("build", "{model}", "-o", "m.top", "--target", "tpu"), "tpu"),
    (("build", "{text}", "-o", "m.top"), "{text}"),
    (("build", "missing.pt2", "-o", "m.top"), "missing.pt2: there is no such file"),
    (("build", "{pt2}", "-o", "m.top"), "{pt2}: cannot be read as a file of torch.export.save"),
    (("run", "missing.top", "--random-input"), "missing.top"),
    (("run", "{text}", "--random-input"), "{text}"),
    (("run", "{top}"), "no value for input data"),
    (("run", "{top}", "--input", "data"), "--input data: expected NAME=X.npy"),
    (("run", "{top}", "--input", "data={text}"), "--input data={text}: not a .npy array: "),
    (("run", "{top}", "--input", "data=missing.npy"), "missing.npy"),
    (("run", "{top}", "--random-input", "--batch", "7"), "the file has plans for batch 1, 2"),
    (("inspect", "{model}"), "{model}"),
    (("run", "{mix}", "--random-input"), "{mix} is a mix of small, named: choose one with --model"),
    (("run", "{mix}", "--model", "x"), "--model x: {mix} has the models small, named"),
    (("inspect", "{mix}", "--html", "x.html"), "choose one with --model"),
    (("inspect", "{top}", "--model", "small"), "--model small: {top} is no mix, but one model"),
    (("build", "{model}", "{model}", "-o", "x.top"), "give every model a name of its own"),
    (("build", "{model}", "={model}", "-o", "x.top"), "give every model a name of its own"),
    (("build", "{model}", "b=absent.onnx", "-o", "x.top"), "absent.onnx: there is no such file"),
    (("build", "{model}", "-o", "x.top", "--lanes", "2"), "--lanes is for a mix"),
    (("build", "{model}", "-o", "x.top", "--segments", "2"), "--segments is for a mix"),
    (("build", "a={model}", "-o", "x.top", "--lanes", "2,0"), "--lanes 2,0: expected different"),
    (
        ("build", "a={model}", "-o", "x.top", "--shape", "data=1,3,8,8"),
        "--shape data: expected MODEL:NAME=1,3,224,224 with a model's name",
    ),
    (("bench", "{model}", "--peers", "tensorflow"), "onnxruntime, openvino"),
    (("bench", "{model}", "--partitioners", ","), "name at least one"),
]


@pytest.mark.parametrize(("arguments", "message"), USER_ERRORS, ids=lambda value: str(value)[:60])
def test_user_errors_are_one_line_and_exit_code_2(
    cli, model, compiled, mix, tmp_path, arguments, message
):
    text = tmp_path / "text.txt"
    text.write_text("not a model\n")
    pt2 = tmp_path / "broken.pt2"
    pt2.write_bytes(text.read_bytes())
    paths = {"model": model, "top": compiled[1], "mix": mix[0], "text": text, "pt2": pt2}
    code, stdout, stderr = cli(*(argument.format(**paths) for argument in arguments))
    assert code == 2
    assert stdout == ""
    assert stderr.startswith("top-tvm: error: ")
    assert stderr.count("\n") == 1
    assert message.format(**paths) in stderr


def test_wrong_input_shape_shows_expected_and_given(cli, compiled, tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((1, 3, 5, 5), "float32"))
    code, _, stderr = cli("run", compiled[1], "--input", f"data={path}")
    assert code == 2
    assert "3, 16, 16" in stderr
    assert "3, 5, 5" in stderr


@pytest.mark.parametrize("command", ["build", "run", "inspect", "bench"])
def test_help_shows_examples_and_json(cli, command):
    code, stdout, _ = cli(command, "--help")
    assert code == 0
    assert f"\n    top-tvm {command} " in stdout
    assert "--json" in stdout


def test_option_languages():
    assert parse_shapes(["a=1,2", "b:0=3"]) == {"a": (1, 2), "b:0": (3,)}
    assert parse_shapes(["x=y=4"]) == {"x=y": (4,)}
    assert parse_shapes([]) is None
    assert parse_batches("1,4") == (1, 4)
    assert parse_names(" a, b,") == ["a", "b"]
    assert unique_names(["a", "b", "a", "a"]) == ["a", "b", "a #2", "a #3"]


@pytest.mark.parametrize("text", ["a", "=1", "a=", "a=0", "a=1,,2", "a=-1", "a=1.5"])
def test_bad_shapes_are_refused(text):
    with pytest.raises(
        UsageError, match=f"--shape {text}: expected NAME=1,3,224,224 with positive sizes"
    ):
        parse_shapes([text])


@pytest.mark.parametrize("text", ["", "0", "1,1", "a", "1,-2"])
def test_bad_batch_sizes_are_refused(text):
    with pytest.raises(
        UsageError, match=f"--batch {text}: expected different positive sizes such as 1,4"
    ):
        parse_batches(text)
