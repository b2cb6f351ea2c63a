"""The serving benchmark runs and records what it promises; times are not tested."""

import itertools
import json
import math
import subprocess
import sys
import threading
import time
from pathlib import Path

import onnx
import pytest

from small_model import small_model

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SYSTEMS = (
    *("serial", "free", "merged", "merged-barriers", "batching", "auto"),
    *("onnxruntime-1x2", "onnxruntime-2x1", "openvino-2x1"),
)
ENDS = ("completed", "rejected", "expired", "failed")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Records and output of a run of every part, on models that take no time."""
    pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("serving")
    for name, size in (("small", 16), ("smaller", 8)):
        onnx.save(small_model("batch", size), folder / f"{name}.onnx")
    first, second = folder / "small.onnx", folder / "smaller.onnx"
    command = [
        *(sys.executable, BENCHMARKS / "serving.py", "--models", f"{first}+{second}"),
        *("--self-models", first, "--arrivals", "poisson", "--load", "50,110", "--deadline", "15"),
        *("--duration-s", "0.05", "--repeats", "2", "--device", "large-gpu", "--streams", "4"),
        *("--lanes", "2", "--segments", "1,2", "--batch", "1,2", "--partitioners", "list"),
        *("--json", folder / "records.json"),
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "records.json").read_text()), done.stdout


def section(records, name):
    return [record for record in records if record["section"] == name]


def test_every_system_has_a_record_per_cell_and_repeat(run):
    records, _ = run
    cells = section(records, "cell")
    found = [(cell["load"], cell["system"], cell["repeat"]) for cell in cells]
    assert sorted(found) == sorted(itertools.product((0.5, 1.1), SYSTEMS, (0, 1)))
    for cell in cells:
        assert cell["mix"] == "small+smaller"
        assert sum(cell[end] for end in ENDS) == cell["submitted"] > 0
        assert cell["failed"] == 0
        assert cell["goodput"] <= cell["throughput"] * (1 + 1e-9)
        assert cell["drain_s"] >= 0
        assert set(cell["models"]) == {"small", "smaller"}
        if cell["completed"]:
            assert cell["p50_ms"] <= cell["p95_ms"] <= cell["p99_ms"]
    for load, repeat in itertools.product((0.5, 1.1), (0, 1)):
        same = {c["submitted"] for c in cells if c["load"] == load and c["repeat"] == repeat}
        assert len(same) == 1  # all systems met the same arrivals
    (baseline,) = section(records, "baseline")
    assert set(baseline["capacity_per_s"]) == set(SYSTEMS)


def test_self_acceleration_is_measured_and_simulated(run):
    records, _ = run
    own = section(records, "self")
    live = {record["variant"] for record in own if record["device"] == "cpu (measured)"}
    assert {"serial", "free-2x1", "merged-f2k2", "serial-b2"} <= live
    simulated = {r["variant"]: r for r in own if r["device"] == "large-gpu (simulated)"}
    assert set(simulated) == {
        *("serial", "serial-b2", "free-4x1", "free-2x2"),
        *("merged-f2k1", "merged-f2k1-barriers", "merged-f2k2", "merged-f2k2-barriers"),
    }
    for record in simulated.values():
        assert 0 < record["per_s"] < math.inf
        if record["batch"] == 1:
            assert record["per_s"] <= record["bound_per_s"] * 1.02  # a slope, fitted


def test_overload_says_whether_the_backlog_is_bounded_and_shares_are_fair(run):
    records, _ = run
    overload, flood = section(records, "overload"), section(records, "flood")
    found = [(record["load"], record["system"]) for record in overload]
    assert sorted(set(found)) == sorted(itertools.product((0.95, 1.1), SYSTEMS))
    for record in overload:
        assert record["backlog_max"] > 0
        assert set(record["deadlines_ms"]) == {"small", "smaller"}
    assert {record["flooded"] for record in flood} == {None, "small"}
    assert {record["system"] for record in flood} == set(SYSTEMS)
    assert all(0 <= r["normal_goodput"] <= r["goodput"] * (1 + 1e-9) for r in flood)


def test_tables_have_everything(run):
    _, stdout = run
    for title in (
        *("Throughput from full queues", "small+smaller, poisson, load 110%", "Goodput of auto"),
        *("small on large-gpu (simulated), 4 streams", "Merged against the best free-running"),
        *("small+smaller: a load of 110 %", "A normal model beside a flooded one"),
    ):
        assert f"### {title}" in stdout


@pytest.fixture
def support(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_arrivals_offer_the_load_that_they_are_asked_for(support):
    from serving_support.arrivals import ARRIVALS, arrivals_of

    for kind in ARRIVALS:
        tasks = arrivals_of(kind, {"a": 100.0, "b": 50.0}, 4.0, {"a": 1.0, "b": 2.0}, seed=3)
        times = [task.at_s for task in tasks]
        assert times == sorted(times)
        assert 0 <= times[0] <= times[-1] <= 4.0
        assert [task.model for task in tasks].count("a") == 400
        assert [task.model for task in tasks].count("b") == 200
        assert tasks == arrivals_of(
            kind, {"a": 100.0, "b": 50.0}, 4.0, {"a": 1.0, "b": 2.0}, seed=3
        )


def test_the_front_refuses_what_is_too_much_or_too_late(support):
    from serving_support.front import Front
    from serving_support.systems import QUEUE_SIZE

    front = Front({"a": 0.01}, places=1)
    ends = []
    front.submit("a", 0.001, ends.append)
    assert ends == ["expired"]  # the deadline is shorter than the task
    for _ in range(QUEUE_SIZE + 1):
        front.submit("a", math.inf, ends.append)
    assert ends == ["expired", "rejected"]
    task = front.take()
    front.finished(task, 0.01)
    assert ends == ["expired", "rejected", "completed"]
    front.submit("a", 0.5, ends.append)
    assert ends[-1] == "expired"  # with what waits already


def test_the_front_gives_up_what_has_waited_too_long(support):
    from serving_support.front import Front

    front = Front({"a": 0.01, "b": 0.01}, places=2)
    ends = []
    front.submit("a", 0.05, ends.append)
    front.submit("b", 9.0, lambda end: ends.append("b " + end))
    time.sleep(0.06)
    task = front.take()
    assert task.model == "b"
    assert ends == ["expired"]
    waiting = threading.Thread(target=front.take)
    waiting.start()
    front.close()
    waiting.join(5)
    assert not waiting.is_alive()


def test_unknown_names_are_refused():
    command = [sys.executable, str(BENCHMARKS / "serving.py"), "--models", "squeezenet+lenet"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no model lenet" in done.stderr
