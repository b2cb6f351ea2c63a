"""Damaged files: always an error or right numbers; no crash, no hang, bounded memory.

Each corruption is tried in a child process (``corruption.py``), so that a crash is a failure of
this test that names the seed; ``python tests/corruption.py KIND --first SEED --count 1`` repeats
it.
"""

import os
import threading

import numpy as np
import pytest

import corruption
import top_tvm
from corrupt_top import sealed
from top_tvm.artifact import load
from top_tvm.errors import ArtifactError, DeviceError

# `make fuzz` tries as many ONNX files, too; here those that fit into a minute.
COUNTS = {"top": 1000, "mix": 300, "onnx": int(os.environ.get("TOP_TVM_CORRUPTIONS", "120"))}


@pytest.mark.parametrize("kind", COUNTS)
def test_damaged_files_are_refused_or_right(tmp_path, kind):
    corruption.prepare(kind, tmp_path)
    attempts = list(corruption.attempts(kind, tmp_path, 0, COUNTS[kind]))
    assert [attempt.seed for attempt in attempts] == list(range(COUNTS[kind]))
    bad = [f"seed {a.seed} ({a.how}) {a.outcome}: {a.detail}" for a in attempts if a.bad]
    assert not bad, "\n".join(bad)
    # Neither is everything refused, nor nothing: else the damage, or the check, is not worth much.
    outcomes = {attempt.outcome for attempt in attempts}
    assert {"refused", "right" if kind == "onnx" else "ran"} <= outcomes
    assert sum(attempt.outcome == "refused" for attempt in attempts) > COUNTS[kind] / 2


@pytest.mark.parametrize("ending", ["os.abort()", "import time; time.sleep(60)", "1 / 0"])
def test_a_child_that_ends_badly_is_noticed(tmp_path, monkeypatch, ending):
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import json, os\n"
        'print(json.dumps({"phase": "run", "seed": 7, "how": "x"}), flush=True)\n' + ending
    )
    monkeypatch.setattr(corruption, "__file__", str(worker))
    monkeypatch.setattr(corruption, "HANG_SECONDS", -28)  # 30 s of grace come on top
    (attempt,) = corruption.attempts("top", tmp_path, 7, 1)
    assert attempt.bad
    assert (attempt.seed, attempt.how) == (7, "x")
    assert attempt.outcome == ("hung" if "sleep" in ending else "crashed")


def parts_of_a_small_file():
    """Parts without any content that would be read, for limits that come before."""
    return {"weights.safetensors": b"", "kernels.so": b"", "metadata.json": b"{}"}


LIMITS = {
    "parts": (
        lambda parts: parts.update({f"x/{i}": b"" for i in range(10_001)}),
        "10004 parts; at most 10000",
    ),
    "directory": (
        lambda parts: parts.update({"n" * 60_000 + str(i): b"" for i in range(70)}),
        "a directory of .* bytes; at most 4194304 are read",
    ),
    "json": (
        lambda parts: parts.update({f"plans/{i}.json": bytes(2**25) for i in (1, 2)}),
        "bytes of plans, profiles and metadata; at most 67108864 are read",
    ),
    "kernels": (
        lambda parts: parts.update({"kernels.so": bytes(2**28 + 1)}),
        "268435457 bytes of kernels.so; at most 268435456 are read",
    ),
    "nesting": (
        lambda parts: parts.update({"metadata.json": b"[" * 1_000_000}),
        "metadata.json: not valid JSON",
    ),
}


@pytest.mark.parametrize(("change", "message"), LIMITS.values(), ids=LIMITS.keys())
def test_limits_of_a_file(tmp_path, change, message):
    parts = parts_of_a_small_file()
    change(parts)
    path = tmp_path / "model.top"
    path.write_bytes(sealed(parts))
    with pytest.raises(ArtifactError, match=message):
        load(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    path = tmp_path / "model.top"
    os.mkfifo(path)
    failures = []

    def read():
        try:
            load(path)
        except ArtifactError as error:
            failures.append(str(error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(30)
    assert failures == [f"{path}: is not a regular file"]


def test_a_plan_beyond_the_memory_is_refused_before_it_runs(tmp_path, monkeypatch):
    corruption.prepare("top", tmp_path)
    monkeypatch.setattr("top_tvm.runtime.executable.memory_limit_bytes", lambda: 10_000)
    with pytest.raises(DeviceError, match=r"the plan for batch 1 needs .* GB for one run"):
        top_tvm.load(tmp_path / "0.top")
    monkeypatch.undo()
    data = np.zeros((1, 3, 16, 16), np.float32)
    assert top_tvm.load(tmp_path / "0.top").run({"data": data})["scores"].shape == (1, 10)
