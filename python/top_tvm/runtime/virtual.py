"""The runtime on a virtual device: the same queues, launcher and scheduler, on a simulated clock.

Service times come from a cost model: what was measured of every operator when the models were
built, or parameters of a device that is not at hand. Results are simulated, and to be labelled so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from top_tvm import _native
from top_tvm.artifact import Artifact
from top_tvm.cost import DeviceModel, OpCost
from top_tvm.errors import InputError
from top_tvm.mix import Mix
from top_tvm.plan import Plan
from top_tvm.runtime.controller.decision import (
    Controller,
    Decision,
    Snapshot,
    snapshot_from,
)
from top_tvm.runtime.controller.named import controller_named
from top_tvm.runtime.variant_table import features_of, make_table, with_modes

ENDS = ("queued", "running", "completed", "rejected", "expired", "cancelled", "failed")
"""How a task stands or ended, by the numbers of the native runtime."""


@dataclass(frozen=True)
class VirtualTask:
    """A task to come: model, and times in microseconds; ``deadline_us`` counts from its arrival."""

    arrival_us: float
    model: str
    priority: int = 0
    deadline_us: float = math.inf


@dataclass(frozen=True)
class TaskRecord:
    """What became of a task, with times in microseconds of the virtual clock.

    ``end`` is ``"completed"``, ``"rejected"``, ``"expired"`` or ``"cancelled"``; ``launched_us`` is
    0 for a task that never was launched.
    """

    id: int
    model: str
    end: str
    submitted_us: float
    launched_us: float
    finished_us: float
    deadline_us: float


class VirtualRuntime:
    """What :class:`~top_tvm.runtime.runtime.Runtime` would do, simulated.

    Parameters
    ----------
    mix : Mix
        Models and variants.
    queue_size, mode, controller, control_interval_ms
        As for the runtime.
    barriers : bool
        Segments of merged variants wait for each other, period by period: an ablation.
    device : DeviceModel, optional
        Overheads and streams; by default those that were measured for the first model.
    costs : callable, optional
        Costs of the calls of a plan of the named model; by default those in its profile.

    Raises
    ------
    InputError
        There is no such mode, variant or controller, or a model has no profile.
    """

    def __init__(
        self,
        mix: Mix,
        *,
        queue_size: int = 256,
        mode: str = "auto",
        controller: str | Controller = "heuristic",
        control_interval_ms: float = 20.0,
        barriers: bool = False,
        device: DeviceModel | None = None,
        costs: Callable[[str, Plan], Sequence[OpCost]] | None = None,
    ) -> None:
        mix = with_modes(mix, mode)
        table = make_table(mix, barriers=barriers)
        cost_of = costs or (lambda name, plan: profiled_costs(name, mix.models[name], plan))
        plans = [
            [_plan_fields(plan, cost_of(name, plan)) for plan in of_model]
            for name, of_model in zip(table.names, table.plans, strict=True)
        ]
        model = device or next(iter(mix.models.values())).metadata.device
        self.names = tuple(table.names)
        self.features = features_of(mix, table)
        self.streams = max(table.streams, model.streams)
        self.native = _native.VirtualRuntime(
            table.fields, plans, self.streams, model.overheads_us, queue_size
        )
        self._controller = controller_named(controller, self.features, mode=mode)
        self._interval_us = 1e3 * control_interval_ms
        self._next_control_us = 0.0

    def run(self, tasks: Sequence[VirtualTask]) -> list[TaskRecord]:
        """Let tasks arrive, with decisions at intervals, until all have ended.

        Parameters
        ----------
        tasks : sequence of VirtualTask
            By time of arrival, none before the present of the virtual clock.

        Returns
        -------
        list of TaskRecord
            One per task, in the order in which they ended.

        Raises
        ------
        InputError
            Arrivals do not ascend, or a task is not valid.
        """
        index = {name: number for number, name in enumerate(self.names)}
        try:
            self.native.add_arrivals(
                [(t.arrival_us, index[t.model], t.priority, t.deadline_us) for t in tasks]
            )
        except KeyError as error:
            raise InputError(f"there is no model {error}; there are: {self.names}") from error
        except ValueError as error:
            raise InputError(str(error)) from error
        last_us = tasks[-1].arrival_us if tasks else self.native.now_us
        records: list[TaskRecord] = []
        while len(records) < len(tasks):
            if self.native.now_us >= self._next_control_us:
                self.decide()
                self._next_control_us = self.native.now_us + self._interval_us
            self.native.run_until(self._next_control_us)
            records += self._take()
            if self.native.now_us > last_us and not self._anything_left():
                break
        return records

    def decide(self) -> Decision:
        """Ask the controller now, and do what it says."""
        snapshot = self.snapshot()
        decision = self._controller(snapshot, self.features)
        self.native.apply(decision.variant, list(decision.frequency))
        return decision

    def snapshot(self) -> Snapshot:
        """The state at this moment of the virtual clock."""
        return snapshot_from(self.native.snapshot())

    def utilisation(self) -> list[float]:
        """Share of the time so far that each stream was busy."""
        now_us = max(self.native.now_us, 1e-9)
        return [self.native.busy_us(stream) / now_us for stream in range(self.streams)]

    def _anything_left(self) -> bool:
        return any(model.queued or model.in_flight for model in self.snapshot().models)

    def _take(self) -> list[TaskRecord]:
        return [
            TaskRecord(id_, self.names[model], ENDS[end], *times)
            for id_, model, end, *times in self.native.take_records()
        ]


def profiled_costs(name: str, artifact: Artifact, plan: Plan) -> list[OpCost]:
    """Costs of a plan's calls as measured when the model was built.

    Raises
    ------
    InputError
        If the artifact has no profile of an op.
    """
    known = {op.name: op.cost for op in artifact.profiles.get(plan.batch, ())}
    missing = [call.op for call in plan.calls if call.op not in known]
    if missing:
        raise InputError(
            f"model {name!r} has no profile of op {missing[0]!r} for batch {plan.batch}: build it "
            "again to simulate it"
        )
    return [known[call.op] for call in plan.calls]


def _plan_fields(plan: Plan, costs: Sequence[OpCost]) -> Any:
    # The live runtime has the oldest of the steps that are ready go first, too: nothing is due.
    return (
        plan.streams,
        [(call.stream, call.threads, call.waits) for call in plan.calls],
        [cost.numbers for cost in costs],
        [0.0] * len(plan.calls),
    )
