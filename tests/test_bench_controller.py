"""The study of what there is to win for a controller: traces, simulator, oracle, and one run."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mixes import make_mix
from top_tvm.runtime.controller.decision import Decision, unlimited

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def support(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def trace_of(kind, rates=(1000.0, 500.0), deadline_us=math.inf, duration_s=4.0, seed=3):
    from controller_support.traces import make_trace

    names = ("a", "b é")
    deadlines = dict.fromkeys(names, deadline_us)
    return make_trace(kind, dict(zip(names, rates, strict=True)), deadlines, duration_s, seed)


def test_traces_offer_what_they_are_asked_for():
    from controller_support.traces import TRACES

    for kind in TRACES:
        trace = trace_of(kind)
        assert trace == trace_of(kind)
        times = np.array([arrival[0] for arrival in trace.arrivals])
        models = np.array([arrival[1] for arrival in trace.arrivals])
        assert (np.diff(times) >= 0).all()
        assert 0 <= times[0] <= times[-1] < trace.duration_us
        for model, expected in ((0, 4000), (1, 2000)):
            assert (models == model).sum() == pytest.approx(expected, rel=0.5)
        early = times < trace.duration_us / 2
        if kind == "mix-shift":  # half of the time: three quarters of the one
            assert (models[early] == 0).sum() == pytest.approx(3000, rel=0.1)
            assert (models[early] == 1).sum() == pytest.approx(500, rel=0.2)
        if kind == "flash-crowd":
            crowd = np.abs(times / trace.duration_us - 0.5) < 0.05
            assert crowd.sum() == pytest.approx(0.4 * 6000, rel=0.1)
        if kind == "diurnal":
            day = np.sin(4 * math.pi * times / trace.duration_us) > 0
            assert day.mean() == pytest.approx(0.5 + 0.8 / math.pi, abs=0.02)


def test_a_schedule_of_one_variant_is_that_controller():
    from controller_support.simulator import Simulator

    simulator = Simulator(make_mix())
    trace = trace_of("poisson", rates=(100_000.0, 50_000.0), deadline_us=200.0, duration_s=0.2)
    for variant in range(len(simulator.features)):
        fixed = simulator.run(trace, lambda *_, v=variant: Decision(v, unlimited(2)))
        assert simulator.run_schedule(trace, [variant] * 4).goodput == fixed.goodput
        assert 0 < fixed.goodput <= len(trace.arrivals) / 0.2
        assert 0 < fixed.p50_us <= fixed.p99_us


def test_the_oracle_is_at_least_as_good_as_what_it_begins_with():
    from controller_support.simulator import NOISY_NEIGHBOUR, Simulator, search_oracle

    simulator = Simulator(make_mix())
    trace = trace_of("gamma", rates=(60_000.0, 30_000.0), deadline_us=100.0, duration_s=0.2)
    static = [
        simulator.run_schedule(trace, [variant], NOISY_NEIGHBOUR).goodput
        for variant in range(len(simulator.features))
    ]
    best = static.index(max(static))
    oracle, schedule = search_oracle(simulator, trace, best, NOISY_NEIGHBOUR, windows=6)
    assert len(schedule) == 6
    assert oracle.goodput >= static[best]
    assert simulator.run_schedule(trace, schedule, NOISY_NEIGHBOUR) == oracle


def test_a_slow_device_does_less():
    from controller_support.simulator import Drift, Simulator

    simulator = Simulator(make_mix())
    trace = trace_of("poisson", rates=(100_000.0, 50_000.0), deadline_us=200.0, duration_s=0.2)
    steady, slow = (
        simulator.run_schedule(trace, [0], drift).goodput
        for drift in (Drift(), Drift(((0.0, 0.25),)))
    )
    assert slow < 0.8 * steady


def test_one_run(tmp_path):
    path = tmp_path / "headroom.json"
    command = [sys.executable, str(BENCHMARKS / "controller.py"), "--headroom", "--quick"]
    done = subprocess.run(
        [*command, "--traces", "uniform,gamma", "--json", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "### Goodput, over all traces" in done.stdout
    uniform, gamma = json.loads(path.read_text())
    assert (uniform["trace"], gamma["trace"]) == ("uniform", "gamma")
    for record in (uniform, gamma):
        goodputs = [one["goodput"] for one in record["static"].values()]
        assert record["oracle"]["goodput"] >= max(goodputs)
        assert record["heuristic"]["goodput"] <= record["offered_per_s"] * 1.001
        assert set(record["schedule"]) <= set(record["static"])
