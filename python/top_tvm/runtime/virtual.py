"""The runtime on a virtual device: the same queues, launcher and scheduler, on a simulated clock.

Service times come from a cost model: what was measured of every operator when the models were
built, or parameters of a device that is not at hand; or, much faster to simulate, from what was
measured of the variants as a whole. Results are simulated, and to be labelled so.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from top_tvm.runtime.segment_runs import SegmentRun, segment_runs
from top_tvm.runtime.variant_table import features_of, make_table, with_modes

_RETRY_US = 1000.0

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
    detail : {"ops", "segments"}
        Execute every op by its costs; or let instances take the time, and the part of the device,
        that their variant was measured to need.

    Raises
    ------
    InputError
        There is no such mode, variant or controller, or a model has no profile.
    """

    def __init__(  # noqa: PLR0913
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
        detail: str = "ops",
    ) -> None:
        if detail not in ("ops", "segments"):
            raise InputError(f"no detail {detail!r}; there are: ops, segments")
        mix = with_modes(mix, mode)
        table = make_table(mix, barriers=barriers)
        model = device or next(iter(mix.models.values())).metadata.device
        self.names = tuple(table.names)
        self.features = features_of(mix, table)
        self.streams = max(table.streams, model.streams)
        if detail == "segments":
            self.native = _native.VirtualRuntime(table.fields, model.run_us, queue_size)
        else:
            cost_of = costs or (lambda name, plan: profiled_costs(name, mix.models[name], plan))
            plans = [
                [_plan_fields(plan, cost_of(name, plan)) for plan in of_model]
                for name, of_model in zip(table.names, table.plans, strict=True)
            ]
            self.native = _native.VirtualRuntime(
                table.fields, plans, self.streams, model.overheads_us, queue_size
            )
        self._controller = controller_named(controller, self.features, mode=mode)
        self._interval_us = 1e3 * control_interval_ms
        self._next_control_us = 0.0
        self._submitted = 0

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
        self._add(tasks)
        last_us = tasks[-1].arrival_us if tasks else self.native.now_us
        records: list[TaskRecord] = []
        while len(records) < len(tasks):
            self._decide_if_due()
            self.native.run_until(self._next_control_us)
            records += self._take()
            if self.native.now_us > last_us and not self._anything_left():
                break
        return records

    def run_closed(
        self, clients: int, next_task: Callable[[int, float], VirtualTask | None]
    ) -> list[TaskRecord]:
        """Let clients submit a task each, and another as soon as that has ended.

        A client whose task is refused waits for a millisecond.

        Parameters
        ----------
        clients : int
            How many.
        next_task : callable
            Called as ``next_task(client, now_us)``: the task that the client submits now, or None
            if it has had enough.

        Returns
        -------
        list of TaskRecord
            One per task, in the order in which they ended.
        """
        due = [(self.native.now_us, client) for client in range(clients)]  # a heap
        owners: dict[int, int] = {}
        records: list[TaskRecord] = []
        while due or owners:
            self._decide_if_due()
            now_us = self.native.now_us
            while due and due[0][0] <= now_us:
                _, client = heapq.heappop(due)
                task = next_task(client, now_us)
                if task is not None:
                    owners[self._submitted] = client
                    self._add([replace(task, arrival_us=now_us)])
            until_us = min(self._next_control_us, due[0][0] if due else math.inf)
            self.native.run_until(until_us, until_ended=True)
            for record in self._take():
                records.append(record)
                pause_us = 0.0 if record.end == "completed" else _RETRY_US
                heapq.heappush(due, (self.native.now_us + pause_us, owners.pop(record.id)))
        return records

    def _add(self, tasks: Sequence[VirtualTask]) -> None:
        index = {name: number for number, name in enumerate(self.names)}
        try:
            self.native.add_arrivals(
                [(t.arrival_us, index[t.model], t.priority, t.deadline_us) for t in tasks]
            )
        except KeyError as error:
            raise InputError(f"there is no model {error}; there are: {self.names}") from error
        except ValueError as error:
            raise InputError(str(error)) from error
        self._submitted += len(tasks)

    def _decide_if_due(self) -> None:
        if self.native.now_us >= self._next_control_us:
            self.decide()
            self._next_control_us = self.native.now_us + self._interval_us

    def decide(self) -> Decision:
        """Ask the controller now, and do what it says."""
        snapshot = self.snapshot()
        decision = self._controller(snapshot, self.features)
        self.native.apply(decision.variant, list(decision.frequency))
        return decision

    def snapshot(self) -> Snapshot:
        """The state at this moment of the virtual clock."""
        return snapshot_from(self.native.snapshot())

    def keep_segments(self, count: int) -> None:
        """Keep the latest ``count`` executed segments for :meth:`segments`; 0 for none."""
        self.native.keep_segments(count)

    def segments(self) -> list[SegmentRun]:
        """Which segments of which tasks were executed when, in the order in which they ended."""
        return segment_runs(self.native.segments(), self.names, self.features)

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
