"""Variants as the native runtime takes them: numbers instead of names, each plan once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from top_tvm._native import allowed_cores
from top_tvm.artifact import TensorSpec
from top_tvm.errors import InputError, PlanError
from top_tvm.mix import Lane, Mix, ModelVariant, Variant, memory_bytes
from top_tvm.plan import Plan
from top_tvm.runtime.controller.decision import VariantFeatures
from top_tvm.runtime.executable import Executable

_LaneFields = tuple[int, list[list[int]]]
_ModelFields = tuple[int, list[_LaneFields], list[float], list[float]]
_VariantFields = tuple[str, int, bool, float, list[_ModelFields]]
SetFields = tuple[list[str], list[list[int]], list[_VariantFields]]
"""Names of models, batch sizes in tasks per model, and variants: see ``serving_bindings.cc``."""


@dataclass(frozen=True)
class VariantTable:
    """What can be executed.

    Attributes
    ----------
    fields : tuple
        For the native runtime; lanes name plans by their numbers.
    plans : tuple of tuple of Plan
        Per model, by number.
    streams : int
        Streams that the variants use.
    """

    fields: SetFields
    plans: tuple[tuple[Plan, ...], ...]
    streams: int


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
    variants: list[_VariantFields] = []
    for variant in mix.variants:
        barrier = barriers and variant.mode == "merged"
        slowdown = _slowdown(variant, serial)
        models = [
            _model_fields(variant.models[name], serial.models[name], numbers, slowdown)
            for name, numbers in zip(names, plans, strict=True)
        ]
        fields = (variant.id, variant.in_flight, barrier, max(variant.period_us, 1e-3), models)
        variants.append(fields)
    ordered = tuple(tuple(plan for _, plan in numbers.values()) for numbers in plans)
    streams = max(variant.streams for variant in mix.variants)
    return VariantTable((names, sizes, variants), ordered, streams)


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
    _, sizes, variants = table.fields
    features = []
    for variant, (id_, _, _, period_us, models) in zip(mix.variants, variants, strict=True):
        work_us = tuple(
            min(work / size for work, size in zip(model[3], tasks, strict=False))
            for model, tasks in zip(models, sizes, strict=True)
        )
        latency_us = tuple(model[2][0] for model in models)
        features.append(VariantFeatures(id_, period_us, latency_us, work_us, variant.memory_bytes))
    return tuple(features)


def tensors_of(specs: Sequence[TensorSpec]) -> list[tuple[str, str, tuple[int, ...]]]:
    """Inputs or outputs of a model as the native runtime takes them."""
    return [(spec.name, spec.dtype, spec.shape) for spec in specs]


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
    alone_us = 0.0
    for name, model in variant.models.items():
        lane = serial.models[name].lanes[0].plans
        batch = model.batch_sizes[-1]
        scale = 1.0
        if batch not in lane:
            smallest = min(lane)
            scale, batch = batch / smallest, smallest
        alone_us += len(model.lanes) * scale * lone_us(lane[batch])
    return variant.period_us / alone_us if alone_us > 0 else 1.0


def _model_fields(
    model: ModelVariant,
    serial: ModelVariant,
    numbers: dict[int, tuple[int, Plan]],
    slowdown: float,
) -> _ModelFields:
    def number(plan: Plan) -> int:
        return numbers.setdefault(id(plan), (len(numbers), plan))[0]

    lanes: list[_LaneFields] = [
        (
            lane.first_stream,
            [[number(plan) for plan in lane.plans[batch]] for batch in model.batch_sizes],
        )
        for lane in model.lanes
    ]
    latency_us, work_us = [], []
    smallest = serial.batch_sizes[0]
    for batch in model.batch_sizes:
        latency_us.append(
            sum(lone_us(lane.plans[batch]) for lane in model.lanes) / len(model.lanes)
        )
        alone = serial.lanes[0].plans.get(batch)
        alone_us = (
            lone_us(alone) if alone else lone_us(serial.lanes[0].plans[smallest]) * batch / smallest
        )
        work_us.append(alone_us * slowdown)
    return model.segments, lanes, latency_us, work_us
