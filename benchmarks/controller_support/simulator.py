"""Runs of the runtime's own scheduler on a virtual device of segments, as fast as can be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from controller_support.traces import Trace
from top_tvm import _native
from top_tvm.mix import Mix
from top_tvm.runtime.controller.decision import Controller, snapshot_from
from top_tvm.runtime.variant_table import features_of, make_table
from top_tvm.runtime.virtual import ENDS

QUEUE_SIZE = 64
INTERVAL_US = 20_000.0
_COMPLETED = ENDS.index("completed")


@dataclass(frozen=True)
class Drift:
    """Speeds of the device, each from a part of the time on."""

    changes: tuple[tuple[float, float], ...] = ()


STEADY = Drift()
NOISY_NEIGHBOUR = Drift(((0.4, 0.6), (0.8, 1.0)))


@dataclass(frozen=True)
class Outcome:
    """Of a run: tasks in time per second, and quantiles of the latency of completed ones."""

    goodput: float
    p50_us: float
    p99_us: float
    switches: int


class Simulator:
    """A mix on a virtual device."""

    def __init__(self, mix: Mix) -> None:
        table = make_table(mix)
        self.features = features_of(mix, table)
        self.names = tuple(mix.models)
        self._fields = table.fields
        self._wake_us = next(iter(mix.models.values())).metadata.device.run_us

    def run(self, trace: Trace, controller: Controller, drift: Drift = STEADY) -> Outcome:
        """Let the controller decide at intervals."""
        runtime = self._start(trace)
        speeds = [(part * trace.duration_us, speed) for part, speed in drift.changes]
        now_us, variant, switches = 0.0, 0, 0
        while now_us < trace.duration_us:
            decision = controller(snapshot_from(runtime.snapshot()), self.features)
            switches += decision.variant != variant
            variant = decision.variant
            runtime.apply(variant, list(decision.frequency))
            now_us = _advance(runtime, now_us + INTERVAL_US, speeds)
        return _outcome(runtime, trace, switches)

    def run_schedule(self, trace: Trace, schedule: Sequence[int], drift: Drift = STEADY) -> Outcome:
        """Have the variants of the schedule, each for an equal part of the time."""
        runtime = self._start(trace)
        speeds = [(part * trace.duration_us, speed) for part, speed in drift.changes]
        unlimited = [math.inf] * len(self.names)
        for index, variant in enumerate(schedule):
            runtime.apply(variant, unlimited)
            _advance(runtime, (index + 1) * trace.duration_us / len(schedule), speeds)
        switches = sum(a != b for a, b in itertools.pairwise(schedule))
        return _outcome(runtime, trace, switches)

    def _start(self, trace: Trace) -> _native.VirtualRuntime:
        runtime = _native.VirtualRuntime(self._fields, self._wake_us, QUEUE_SIZE)
        runtime.add_arrivals(trace.arrivals)
        return runtime


def _advance(
    runtime: _native.VirtualRuntime, until_us: float, speeds: list[tuple[float, float]]
) -> float:
    while speeds and speeds[0][0] <= until_us:
        at_us, speed = speeds.pop(0)
        runtime.run_until(at_us)
        runtime.set_speed(speed)
    runtime.run_until(until_us)
    return until_us


def _outcome(runtime: _native.VirtualRuntime, trace: Trace, switches: int) -> Outcome:
    runtime.drain()
    records = runtime.take_records()
    latencies_us = [r[5] - r[3] for r in records if r[2] == _COMPLETED]
    good = sum(r[2] == _COMPLETED and r[5] <= r[6] for r in records)
    p50, p99 = np.quantile(latencies_us, (0.5, 0.99)) if latencies_us else (math.inf, math.inf)
    return Outcome(1e6 * good / trace.duration_us, float(p50), float(p99), switches)


def search_oracle(
    simulator: Simulator, trace: Trace, first: int, drift: Drift, windows: int, passes: int = 2
) -> tuple[Outcome, list[int]]:
    """The best schedule of variants that a search finds which knows the future.

    Coordinate ascent from the best static one: every window in turn tries every variant, in a
    random order, and keeps what is better.
    """
    random = np.random.default_rng(0)
    schedule = [first] * windows
    best = simulator.run_schedule(trace, schedule, drift)
    for _ in range(passes):
        before = best.goodput
        for window in random.permutation(windows).tolist():
            for variant in range(len(simulator.features)):
                if variant == schedule[window]:
                    continue
                other = [*schedule[:window], variant, *schedule[window + 1 :]]
                outcome = simulator.run_schedule(trace, other, drift)
                if outcome.goodput > best.goodput:
                    schedule, best = other, outcome
        if best.goodput <= before:
            break
    return best, schedule
