"""Variants as the native runtime takes them: numbers instead of names, each plan once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from top_tvm._native import allowed_cores
from top_tvm.errors import InputError, PlanError
from top_tvm.mix import Lane, Mix, ModelVariant, Variant, memory_bytes
from top_tvm.plan import Plan
from top_tvm.runtime.controller.decision import VariantFeatures
from top_tvm.runtime.executable import Executable


class LaneNumbers(NamedTuple):
    """A lane: its first stream, and numbers of plans by batch size and segment."""

    first_stream: int
    plans: list[list[int]]


class ModelNumbers(NamedTuple):
    """How one model is executed; times by batch size.

    ``latency_us`` is that of an instance alone, ``work_us`` the device time of one under a backlog.
    """

    segments: int
    lanes: list[LaneNumbers]
    latency_us: list[float]
    work_us: list[float]


class VariantNumbers(NamedTuple):
    """A variant, with one entry per model."""

    id: str
    in_flight: int
    barrier: bool
    period_us: float
    models: list[ModelNumbers]


@dataclass(frozen=True)
class VariantTable:
    """What can be executed.

    Attributes
    ----------
    names : list of str
        Of the models.
    tasks : list of list of int
        Per model: batch sizes, in tasks.
    variants : list of VariantNumbers
        Lanes name plans by their numbers.
    plans : tuple of tuple of Plan
        Per model, by number.
    streams : int
        Streams that the variants use.
    """

    names: list[str]
    tasks: list[list[int]]
    variants: list[VariantNumbers]
    plans: tuple[tuple[Plan, ...], ...]
    streams: int

    @property
    def fields(self) -> tuple[list[str], list[list[int]], list[VariantNumbers]]:
        """What native code takes: see ``serving_bindings.cc``."""
        return self.names, self.tasks, self.variants


def make_table(mix: Mix, *, barriers: bool = False) -> VariantTable:
    """Number the plans of a mix and work out what tasks cost under each variant.

    Parameters
    ----------
    mix : Mix
        Models and variants.
    barriers : bool
        Let the segments of merged variants wait for each other, period by period: an ablation.

    Raises
    ------
    PlanError
        If a model's batch sizes are not multiples of the smallest.
    """
    names = list(mix.models)
    sizes = [_batch_sizes(name, mix) for name in names]
    plans: list[dict[int, tuple[int, Plan]]] = [{} for _ in names]
    serial = mix.variants[0]
    variants = []
    for variant in mix.variants:
        barrier = barriers and variant.mode == "merged"
        slowdown = _slowdown(variant, serial)
        models = [
            _model_numbers(variant.models[name], serial.models[name], numbers, slowdown)
            for name, numbers in zip(names, plans, strict=True)
        ]
        period_us = max(variant.period_us, 1e-3)
        variants.append(VariantNumbers(variant.id, variant.in_flight, barrier, period_us, models))
    ordered = tuple(tuple(plan for _, plan in numbers.values()) for numbers in plans)
    streams = max(variant.streams for variant in mix.variants)
    return VariantTable(names, sizes, variants, ordered, streams)


def mix_of(executables: Mapping[str, Executable]) -> Mix:
    """Variants for models that were built one by one: serial, and several tasks side by side.

    Where plans leave cores free, lanes get cores of their own; otherwise two tasks share the
    streams, and one proceeds where the other waits.
    """
    streams = max(
        plan.streams for exe in executables.values() for plan in exe.artifact.plans.values()
    )
    copies = max(len(allowed_cores()) // streams, 1)
    shifts = [lane * streams for lane in range(copies)] if copies > 1 else [0, 0]
    name = f"free-{copies}x{streams}" if copies > 1 else "free-2-shared"
    serial = {name: _one_lane(exe) for name, exe in executables.items()}
    round_us = sum(lone_us(model.lanes[0].plans[model.batch_sizes[0]]) for model in serial.values())
    free = {
        name: ModelVariant(
            1, tuple(Lane(shift, model.lanes[0].plans) for shift in shifts), model.batch_sizes
        )
        for name, model in serial.items()
    }
    per_round = len(serial) * 1e6 / round_us
    return Mix(
        {name: exe.artifact for name, exe in executables.items()},
        (
            Variant(
                "serial", "serial", streams, 1, serial, round_us, per_round, memory_bytes(serial, 1)
            ),
            Variant(
                name,
                "free",
                streams * copies,
                len(shifts),
                free,
                round_us * len(shifts) / copies,
                per_round * copies,
                memory_bytes(free, len(shifts)),
            ),
        ),
    )


def with_modes(mix: Mix, mode: str) -> Mix:
    """Only the variants of a mode, behind the serial one; ``"auto"`` for all.

    Raises
    ------
    InputError
        If there is no such mode, or no variant of it.
    """
    if mode == "auto":
        return mix
    if mode not in ("serial", "free", "merged"):
        raise InputError(f"no mode {mode!r}; there are: auto, serial, free, merged")
    chosen = tuple(variant for variant in mix.variants[1:] if variant.mode == mode)
    if mode != "serial" and not chosen:
        raise InputError(f"there is no variant of mode {mode!r} in this mix: build it with some")
    return replace(mix, variants=(mix.variants[0], *chosen))


def features_of(mix: Mix, table: VariantTable) -> tuple[VariantFeatures, ...]:
    """What a controller sees of the variants."""
    features = []
    for variant, numbers in zip(mix.variants, table.variants, strict=True):
        work_us, instance_us = [], []
        for model, tasks in zip(numbers.models, table.tasks, strict=True):
            per_task_us = [work / size for work, size in zip(model.work_us, tasks, strict=False)]
            work_us.append(min(per_task_us))
            instance_us.append(model.latency_us[per_task_us.index(work_us[-1])])
        features.append(
            VariantFeatures(
                id=variant.id,
                period_us=numbers.period_us,
                latency_us=tuple(model.latency_us[0] for model in numbers.models),
                work_us=tuple(work_us),
                memory_bytes=variant.memory_bytes,
                instance_us=tuple(instance_us),
            )
        )
    return tuple(features)


def lone_us(plans: Sequence[Plan]) -> float:
    """Time of an instance that has the device to itself, measured if that was done."""
    return sum(plan.measured_us or plan.predicted_us for plan in plans) or 1.0


def _one_lane(exe: Executable) -> ModelVariant:
    plans: dict[int, tuple[Plan, ...]] = {
        batch: (plan,) for batch, plan in sorted(exe.artifact.plans.items())
    }
    return ModelVariant(1, (Lane(0, plans),), tuple(plans))


def _batch_sizes(name: str, mix: Mix) -> list[int]:
    """All batch sizes of a model, in tasks: a task has the smallest."""
    found = sorted({b for variant in mix.variants for b in variant.models[name].batch_sizes})
    if any(batch % found[0] for batch in found):
        raise PlanError(
            f"model {name!r}: batch sizes {found} are not multiples of the smallest, which is what "
            "one task has"
        )
    return [batch // found[0] for batch in found]


def _slowdown(variant: Variant, serial: Variant) -> float:
    """Device time per period relative to the time of all its instances alone, one by one."""
    alone_us = sum(
        len(model.lanes) * _alone_us(serial.models[name], model.batch_sizes[-1])
        for name, model in variant.models.items()
    )
    return variant.period_us / alone_us


def _alone_us(serial: ModelVariant, batch: int) -> float:
    """Time of an instance that has the device to itself; in proportion, where that is not known."""
    plans = serial.lanes[0].plans
    if batch in plans:
        return lone_us(plans[batch])
    smallest = serial.batch_sizes[0]
    return lone_us(plans[smallest]) * batch / smallest


def _model_numbers(
    model: ModelVariant,
    serial: ModelVariant,
    numbers: dict[int, tuple[int, Plan]],
    slowdown: float,
) -> ModelNumbers:
    def number(plan: Plan) -> int:
        return numbers.setdefault(id(plan), (len(numbers), plan))[0]

    lanes = [
        LaneNumbers(
            lane.first_stream,
            [[number(plan) for plan in lane.plans[batch]] for batch in model.batch_sizes],
        )
        for lane in model.lanes
    ]
    latency_us = [
        sum(lone_us(lane.plans[batch]) for lane in model.lanes) / len(model.lanes)
        for batch in model.batch_sizes
    ]
    work_us = [_alone_us(serial, batch) * slowdown for batch in model.batch_sizes]
    return ModelNumbers(model.segments, lanes, latency_us, work_us)
