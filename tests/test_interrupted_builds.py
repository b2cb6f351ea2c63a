"""Builds that are killed, interrupted, short of disk space, or many at a time."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

import top_tvm
from build_server import model
from top_tvm.compiler.cache import MeasurementCache
from top_tvm.compiler.scratch_folder import scratch_folder
from top_tvm.device import host_name
from top_tvm.replace_file import remove_stale, replacing

SERVER = Path(__file__).with_name("build_server.py")


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Folders for output, cache and temporary files, the latter two in the environment."""
    folders = {name: tmp_path / name for name in ("out", "cache", "tmp")}
    for folder in folders.values():
        folder.mkdir()
    monkeypatch.setenv("TOP_TVM_CACHE_DIR", str(folders["cache"]))
    monkeypatch.setenv("TMPDIR", str(folders["tmp"]))
    return folders


def serve(*args):
    result = subprocess.run(
        [sys.executable, SERVER, *map(str, args)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1]), result.stderr


def test_killed_builds_leave_nothing_half_written(places):
    report, errors = serve("kill", places["out"], 50, 0)
    assert report["killed"] == 50
    assert report["left"] == ["model.top"]
    assert set(report["cache"]) <= {f"{host_name()}.json", f"{host_name()}.lock"}
    assert "damaged" not in errors
    x = np.ones((1, 8), np.float32)
    y = top_tvm.load(places["out"] / "model.top").run({"x": x})["y"]
    np.testing.assert_allclose(y, 2 * np.sin(2 * x), rtol=1e-5)
    # What killed compilations left goes with the next, once it is clear that nobody uses it.
    for folder in places["tmp"].glob("top_tvm-*"):
        os.utime(folder, (0, 0))
    result, _ = serve("share", places["out"], 1)
    assert result["files"] == ["1.top", "model.top"]
    assert list(places["tmp"].glob("top_tvm-*")) == []


def test_builds_at_the_same_time_share_the_cache(places):
    report, errors = serve("share", places["out"], 4)
    assert report["files"] == [f"{width}.top" for width in range(1, 5)]
    assert "WARNING" not in errors
    names = sorted(path.name for path in places["cache"].iterdir())
    assert names == [f"{host_name()}.json", f"{host_name()}.lock"]
    entries = json.loads((places["cache"] / names[0]).read_text())["entries"]
    before = len(entries)
    serve("share", places["out"], 4)
    # Everything that any of them measures was there: no build lost what another had written.
    assert len(json.loads((places["cache"] / names[0]).read_text())["entries"]) == before


_INTERRUPT = """
import os, signal, sys, threading, time
import top_tvm.compiler.build
from top_tvm.cli import main
def interrupt():
    time.sleep({delay})
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
sys.argv = ["top-tvm", "build", {model!r}, "-o", {output!r}]
main()
"""


@pytest.mark.parametrize("delay", [0.1, 0.4, 0.7, 1.0])
def test_interrupted_commands_end_with_130(places, tmp_path, delay):
    path = tmp_path / "model.onnx"
    path.write_bytes(model().SerializeToString())
    output = places["out"] / "model.top"
    script = _INTERRUPT.format(delay=delay, model=str(path), output=str(output))
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert b"Traceback" not in result.stderr
    if result.returncode == 0 and delay > 0.1:  # the build was quicker than that
        top_tvm.load(output)
        output.unlink()
    else:
        assert result.returncode == 130, result.stderr.decode()
    assert list(places["out"].iterdir()) == []
    assert list(places["tmp"].glob("top_tvm*")) == []


def test_a_full_disk_is_named_before_anything_is_compiled(places, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", None)  # not what another test has found
    usage = namedtuple("usage", ["free"])
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(5_000_000))
    message = r"5 MB are free, some 10 MB are needed: '.*/tmp'; set TMPDIR to a writable folder"
    with pytest.raises(top_tvm.DeviceError, match=message):
        top_tvm.build(model(), partitioner="sequential", streams=1)
    assert list(places["tmp"].glob("top_tvm*")) == []


@pytest.mark.parametrize("limit", [0, 1, 100, 3_000, 9_000])
def test_a_disk_that_fills_up_leaves_the_old_file(places, limit, monkeypatch):
    executable = top_tvm.build(model(64), partitioner="sequential", streams=1)
    path = places["out"] / "model.top"
    executable.save(path)
    before = path.read_bytes()
    cache = MeasurementCache("device", places["cache"])
    cache.update({"key": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(top_tvm.ArtifactError, match="cannot write: File too large"):
            executable.save(path)
        cache.update({"other": "x" * 10_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(places["out"].iterdir()) == [path]
    assert MeasurementCache("device", places["cache"]).entries == {"key": 1}
    assert {path.suffix for path in places["cache"].iterdir()} == {".json", ".lock"}


def test_a_cache_that_cannot_be_written_is_a_warning(monkeypatch, caplog):
    monkeypatch.setenv("TOP_TVM_CACHE_DIR", "/proc/top_tvm")  # not even for root
    for _ in range(2):
        executable = top_tvm.build(model(), partitioner="sequential", streams=1)
    assert executable.run({"x": np.zeros((1, 8), np.float32)})["y"].shape == (1, 8)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "measurements are not kept, the next build measures again: /proc/top_tvm" in warnings[0]


@pytest.fixture(params=["unnamed", "named"])
def kind_of_file(request, monkeypatch):
    """Whether the file system has files without names."""
    if request.param == "named":
        monkeypatch.setattr("top_tvm.replace_file._UNNAMED", 0)


@pytest.mark.usefixtures("kind_of_file")
def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "file"
    for content in (b"first", b"second"):
        with replacing(path) as file:
            file.write(content)
            assert not path.exists() or path.read_bytes() == b"first"
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"third")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_files_of_killed_processes_are_removed_and_others_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr("top_tvm.replace_file._UNNAMED", 0)
    path = tmp_path / "file"
    abandoned = tmp_path / ".file.0123456789abcdef.tmp"
    others = [tmp_path / ".other.0123456789abcdef.tmp", tmp_path / "file.tmp"]
    for stale in (abandoned, *others):
        stale.touch()
    with replacing(path) as file:
        file.write(b"first")
        (in_use,) = set(tmp_path.iterdir()) - set(others)
        remove_stale(path)
        assert in_use.exists()
    assert set(tmp_path.iterdir()) == {path, *others}


def test_a_scratch_folder_goes_and_takes_old_ones_along(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    old, young = tmp_path / "top_tvm-old", tmp_path / "top_tvm-young"
    for folder in (old, young):
        folder.mkdir()
        (folder / "kernels.so").touch()
    os.utime(old, (0, 0))
    with scratch_folder(1) as folder:
        os.utime(folder, (0, 0))
        with scratch_folder(1) as other:  # of another build: the first is in use
            assert folder.exists()
            assert other != folder
        assert not old.exists()
    assert list(tmp_path.iterdir()) == [young]


def test_a_locked_cache_is_given_up(places, monkeypatch, caplog):
    from top_tvm.compiler import cache

    monkeypatch.setattr(cache, "_LOCK_SECONDS", 0.1)
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, places["cache"] / "device.lock"], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    holder.send_signal(signal.SIGSTOP)
    start = time.monotonic()
    cache.MeasurementCache("device", places["cache"]).update({"key": 1})
    assert time.monotonic() - start < 10
    assert "another process has locked" in caplog.text
    holder.kill()
    holder.communicate()


_HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""
