"""The same arrivals on a virtual device, where time is simulated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from top_tvm.loadtest.arrivals import Arrivals
from top_tvm.loadtest.record import MOST_SEGMENTS, LoadTask, Record, Sample
from top_tvm.runtime.controller.decision import Decision
from top_tvm.runtime.virtual import TaskRecord, VirtualRuntime, VirtualTask


class SampledRuntime(VirtualRuntime):
    """A virtual runtime that notes its variant whenever the controller decides."""

    samples: list[Sample]

    def decide(self) -> Decision:
        """Ask the controller, as always, and remember what it said."""
        decision = super().decide()
        self.sample(decision.variant)
        return decision

    def sample(self, variant: int) -> None:
        """Note a variant and how busy the streams have been."""
        busy_us = sum(self.native.busy_us(stream) for stream in range(self.streams))
        self.samples.append(
            Sample(1e-6 * self.native.now_us, self.features[variant].id, 1e-6 * busy_us)
        )


def run_simulated(
    runtime: SampledRuntime, arrivals: Arrivals, *, duration_s: float, deadline_ms: float | None
) -> Record:
    """Let tasks arrive on a virtual clock until all have ended.

    Parameters
    ----------
    runtime : SampledRuntime
        New.
    arrivals : Arrivals
        The tasks.
    duration_s : float
        Least duration of the test: rates refer to it.
    deadline_ms : float, optional
        Of every task, from its arrival on.
    """
    _prepare(runtime)
    deadline_us = math.inf if deadline_ms is None else 1e3 * deadline_ms
    ended = runtime.run(
        [
            VirtualTask(1e6 * float(time_s), model, 0, deadline_us)
            for time_s, model in zip(arrivals.times_s, arrivals.models, strict=True)
        ]
    )
    return _record(runtime, ended, duration_s)


def run_closed_simulated(
    runtime: SampledRuntime,
    clients: Sequence[np.random.Generator],
    shares: Mapping[str, float],
    *,
    duration_s: float,
    deadline_ms: float | None,
) -> Record:
    """Let clients submit tasks on a virtual clock, each as soon as its last one has ended.

    Parameters
    ----------
    runtime : SampledRuntime
        New.
    clients : sequence of numpy.random.Generator
        One per client: it draws the models of its tasks.
    shares : mapping of str to float
        Relative frequency of every model.
    duration_s : float
        Clients submit tasks for so long.
    deadline_ms : float, optional
        Of every task.
    """
    _prepare(runtime)
    deadline_us = math.inf if deadline_ms is None else 1e3 * deadline_ms
    names = list(shares)
    weights = np.array(list(shares.values()))
    weights /= weights.sum()

    def next_task(client: int, now_us: float) -> VirtualTask | None:
        if now_us >= 1e6 * duration_s:
            return None
        model = names[clients[client].choice(len(names), p=weights)]
        return VirtualTask(now_us, model, 0, deadline_us)

    return _record(runtime, runtime.run_closed(len(clients), next_task), duration_s)


def _prepare(runtime: SampledRuntime) -> None:
    runtime.samples = []
    runtime.keep_segments(MOST_SEGMENTS)


def _record(runtime: SampledRuntime, ended: Sequence[TaskRecord], duration_s: float) -> Record:
    record = Record(runtime.names, runtime.streams, runtime.features[0].latency_us)
    for one in sorted(ended, key=lambda one: one.id):
        arrival_s = 1e-6 * one.submitted_us
        record.tasks.append(
            LoadTask(one.model, arrival_s, arrival_s, 1e-6 * one.finished_us, one.end)
        )
    runtime.sample(runtime.snapshot().variant)
    record.samples = runtime.samples
    record.segments = runtime.segments()
    record.elapsed_s = max(duration_s, *(task.finished_s for task in record.tasks), 0.0)
    return record
