"""The same arrivals on a virtual device, where time is simulated."""

from __future__ import annotations

import math

from top_tvm.loadtest.arrivals import Arrivals
from top_tvm.loadtest.record import LoadTask, Record, Sample
from top_tvm.runtime.controller.decision import Decision
from top_tvm.runtime.virtual import VirtualRuntime, VirtualTask


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
    runtime.samples = []
    record = Record(runtime.names, runtime.streams, runtime.features[0].latency_us)
    deadline_us = math.inf if deadline_ms is None else 1e3 * deadline_ms
    ended = runtime.run(
        [
            VirtualTask(1e6 * float(time_s), model, 0, deadline_us)
            for time_s, model in zip(arrivals.times_s, arrivals.models, strict=True)
        ]
    )
    for one in sorted(ended, key=lambda one: one.id):
        arrival_s = 1e-6 * one.submitted_us
        record.tasks.append(
            LoadTask(one.model, arrival_s, arrival_s, 1e-6 * one.finished_us, one.end)
        )
    runtime.sample(runtime.snapshot().variant)
    record.samples = runtime.samples
    record.elapsed_s = max(duration_s, *(task.finished_s for task in record.tasks), 0.0)
    return record
