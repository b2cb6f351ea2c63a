import os
import platform
import re
import subprocess
import sys

import pytest

from top_tvm.device import host_features, host_name, missing_features, usable_cores

needs_linux = pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc/cpuinfo")


@needs_linux
def test_features_are_those_of_this_cpu() -> None:
    baseline = {"x86_64": "sse2", "aarch64": "asimd"}.get(platform.machine())
    if baseline is None:
        pytest.skip(f"no baseline feature is known for {platform.machine()}")
    assert baseline in host_features()


def test_missing_features_are_sorted() -> None:
    assert missing_features([]) == ()
    assert missing_features(host_features()) == ()
    assert missing_features(["zzz9", "avx9000", *host_features()]) == ("avx9000", "zzz9")


def test_the_name_is_stable_and_fit_for_file_names() -> None:
    in_another_process = subprocess.run(
        [sys.executable, "-c", "from top_tvm.device import host_name; print(host_name())"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ).stdout.strip()
    assert host_name() == in_another_process
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", host_name())
    assert host_name().endswith(f"-{usable_cores()}-cores")


@needs_linux
def test_the_name_depends_on_the_usable_cores() -> None:
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("one core only")
    everything = host_name()
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert host_name() != everything
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, cores)
