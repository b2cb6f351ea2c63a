"""What top-tvm doctor says of this machine, and of one where something is missing."""

import importlib.metadata
import json
import os
import subprocess
import sys

import pytest

import top_tvm
from top_tvm.doctor import examine


def doctor(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", "from top_tvm.cli import main; main()", "doctor", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def findings(**environment):
    result = doctor("--json", **environment)
    report = json.loads(result.stdout.splitlines()[-1])
    assert result.returncode == (report["status"] == "problem")
    return report["status"], {finding["what"]: finding for finding in report["findings"]}


def test_it_lists_versions_features_libraries_and_caches(tmp_path):
    (tmp_path / "some-device.json").write_text("{}")
    status, found = findings(TOP_TVM_CACHE_DIR=str(tmp_path))
    assert status in ("ok", "warning")
    assert found["top_tvm"]["detail"].startswith(top_tvm.__version__)
    assert found["apache-tvm"]["detail"] == importlib.metadata.version("apache-tvm")
    assert "usable cores" in found["CPU"]["detail"]
    assert found["precisions"]["detail"].startswith("fp32")
    assert found["native module"]["detail"].startswith("_native")
    assert "LLVM for" in found["compiler"]["detail"]
    assert found["cache"]["detail"].startswith(f"{tmp_path}: measurements of 1 devices")
    assert found["TOP_TVM_CACHE_DIR"]["detail"] == str(tmp_path)


def test_text_names_what_to_do():
    result = doctor(TOP_TVM_ONEDNN="0")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    at = next(index for index, line in enumerate(lines) if "switched off" in line)
    assert lines[at].split() == ["warning", "oneDNN", "switched", "off"]
    assert lines[at + 1].strip() == "-> unset TOP_TVM_ONEDNN"


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    status, found = findings(TOP_TVM_CACHE_DIR=str(file / "cache"))
    assert status == "warning"
    assert found["cache"]["status"] == "warning"
    assert "Not a directory" in found["cache"]["detail"]
    assert "set TOP_TVM_CACHE_DIR" in found["cache"]["advice"]


def test_what_breaks_building_is_a_problem_and_hides_nothing_else():
    status, found = findings(TOP_TVM_MCPU="abacus")
    assert status == "problem"
    assert found["compiler"]["status"] == "problem"
    assert "LLVM knows no such CPU" in found["compiler"]["detail"]
    assert found["cache"]["status"] == "ok"


@pytest.mark.parametrize(
    ("package", "status", "advice"),
    [
        ("apache-tvm-ffi", "problem", "pip install 'top_tvm' brings it"),
        ("onnx", "warning", "pip install 'top_tvm[compile]' brings it"),
        ("openvino", "ok", ""),
        ("torch", "ok", ""),
    ],
)
def test_missing_packages(monkeypatch, package, status, advice):
    def version(name, real=importlib.metadata.version):
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = {finding["what"]: finding for finding in examine()["findings"]}
    assert (found[package]["status"], found[package]["advice"]) == (status, advice)
    assert "missing" in found[package]["detail"]
