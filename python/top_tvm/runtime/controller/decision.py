"""What a controller sees and says. Plain numbers, so that it runs live, simulated and in tests."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class VariantFeatures:
    """What is known of a variant.

    Attributes
    ----------
    id : str
        Its name.
    period_us : float
        Time of a full pipeline's period.
    latency_us : tuple of float
        Per model: time of a task that has the device to itself.
    work_us : tuple of float
        Per model: device time per task under a backlog, at the best batch size. The capacity for
        one model is ``1e6 / work_us`` tasks per second.
    memory_bytes : int
        Of the instances in flight.
    instance_us : tuple of float
        Per model: as ``latency_us``, of a batch of the best size.
    """

    id: str
    period_us: float
    latency_us: tuple[float, ...]
    work_us: tuple[float, ...]
    memory_bytes: int
    instance_us: tuple[float, ...]


@dataclass(frozen=True)
class ModelSnapshot:
    """One model's queue and arrivals.

    Attributes
    ----------
    queued, in_flight : int
        Tasks that wait and that run.
    oldest_us : float
        Age of the task that is next; 0 if none waits.
    slack_us : float
        Until its deadline; infinite without one.
    short_rate_per_s, long_rate_per_s : float
        Arrivals per second over about 0.1 and 1 s.
    variation : float
        Coefficient of variation of the times between arrivals; 1 for Poisson.
    frequency : float
        Dequeue frequency that applies: tasks per period, infinite for no limit.
    mean_deadline_us : float
        Time that recent tasks were given; infinite if none.
    occupancy : tuple of int
        Instances in each segment of the current variant.
    """

    queued: int
    in_flight: int
    oldest_us: float
    slack_us: float
    short_rate_per_s: float
    long_rate_per_s: float
    variation: float
    frequency: float
    mean_deadline_us: float
    occupancy: tuple[int, ...]


@dataclass(frozen=True)
class Snapshot:
    """The state of the runtime at a moment.

    Attributes
    ----------
    now_us : float
        On the runtime's clock.
    variant : int
        Index of the current one.
    since_switch_us : float
        Since it became that.
    pace : tuple of float
        Of every variant: device time per predicted device time, as observed under a backlog; 1
        where that was not, or too long ago.
    models : tuple of ModelSnapshot
        In the order of the variants' numbers.
    """

    now_us: float
    variant: int
    since_switch_us: float
    pace: tuple[float, ...]
    models: tuple[ModelSnapshot, ...]


@dataclass(frozen=True)
class Decision:
    """What the launcher and the scheduler are to do.

    Attributes
    ----------
    variant : int
        Index of the variant that new tasks are launched under.
    frequency : tuple of float
        Per model: tasks to be dequeued per period, infinite for as many as fit.
    reason : str
        For people.
    """

    variant: int
    frequency: tuple[float, ...]
    reason: str = field(default="", compare=False)


Controller = Callable[[Snapshot, tuple[VariantFeatures, ...]], Decision]
"""Chooses a decision; called at intervals, never while a task waits for it."""


def unlimited(models: int) -> tuple[float, ...]:
    """Frequencies that limit nothing."""
    return (math.inf,) * models


def snapshot_from(fields: dict[str, Any]) -> Snapshot:
    """Read what the native runtime says."""
    models = tuple(
        ModelSnapshot(**{**model, "occupancy": tuple(model["occupancy"])})
        for model in fields["models"]
    )
    return Snapshot(**{**fields, "pace": tuple(fields["pace"]), "models": models})
