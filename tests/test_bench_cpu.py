"""The comparison with other systems runs and reports what it promises; times are not tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "cpu"


def run_benchmark(*arguments):
    command = [sys.executable, str(BENCHMARK), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_every_section_is_measured_and_shown(tmp_path):
    pytest.importorskip("openvino")
    path = tmp_path / "report.json"
    sections = ("latency", "error", "throughput", "ops", "memory")
    done = run_benchmark(
        *("--models", "squeezenet", "--batch", "1", "--precision", "fp32", "--rounds", "1"),
        *("--only", ",".join(sections), "--ops", "squeezenet", "--json", str(path)),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text())
    assert {"device", "date", "onnxruntime", "openvino", "oneDNN"} <= set(report["context"])
    records = {record["section"]: record for record in report["records"]}
    assert set(records) == set(sections)
    latency, ops = records["latency"], records["ops"]["ops"]
    assert {"onnxruntime", "openvino", "sequential"} <= set(latency["systems"])
    assert max(latency["errors"].values()) < 1e-3
    assert 0 <= latency["multi_group_share"] <= 1
    assert 1 <= latency["most_gain"] <= 2
    assert set(records["throughput"]["per_second"]) == {
        *("one stream", "two streams", "openvino", "onnxruntime")
    }
    assert sum(op["share"] for op in ops) == pytest.approx(1)
    assert records["ops"]["tvm_share"] < 1
    assert 0.1 < records["memory"]["ratio"] < 10
    for op in ops:
        assert op["what"] in done.stdout


def test_unknown_names_are_refused():
    done = run_benchmark("--models", "squeezenet,lenet")
    assert done.returncode == 2
    assert "no lenet; there are: bvlc_alexnet, " in done.stderr
