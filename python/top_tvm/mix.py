"""A mix of models, and the ways to execute their tasks: what passes to the asynchronous runtime.

An *instance* is one task, or a batch of tasks of one model. It goes through the *segments* of its
model in order, each executed by a plan. The plans of an instance are linked by name: an input of a
segment's plan is an input of the model, or an output of an earlier segment's plan; every output of
the model is an output of exactly one segment's plan. What one segment writes for another to read is
a *boundary value*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from top_tvm.artifact import Artifact
from top_tvm.errors import PartitionError
from top_tvm.plan import ALIGNMENT_BYTES, Plan

Mode = Literal["serial", "free", "merged"]


@dataclass(frozen=True)
class Lane:
    """Where one of the tasks of a model runs.

    Attributes
    ----------
    first_stream : int
        Stream ``i`` of the plans is stream ``first_stream + i`` of the device.
    plans : dict of int to tuple of Plan
        By batch size: one plan per segment.
    """

    first_stream: int
    plans: dict[int, tuple[Plan, ...]]


@dataclass(frozen=True)
class ModelVariant:
    """How a variant executes one of the models.

    Attributes
    ----------
    segments : int
        Parts that the model is cut into.
    lanes : tuple of Lane
        As many instances may be in the same segment at the same time. All have the same batch
        sizes; the same plan may stand in several.
    batch_sizes : tuple of int
        Ascending.
    """

    segments: int
    lanes: tuple[Lane, ...]
    batch_sizes: tuple[int, ...]


@dataclass(frozen=True)
class Variant:
    """A way to execute the tasks of a mix.

    Attributes
    ----------
    id : str
        ``"serial"``, ``"free-2x1"`` (2 lanes of 1 stream), ``"merged-f2k3"`` (2 lanes, 3 segments),
        with ``"-b4"`` where batches go up to 4 and beyond the smallest size.
    mode : {"serial", "free", "merged"}
        One instance at a time on all streams; instances side by side on streams of their own; or
        instances at different progress, scheduled together on all streams.
    streams : int
        Streams of the device that it uses.
    in_flight : int
        Most instances at a time over all models; 0 if only the lanes limit them.
    models : dict of str to ModelVariant
        All models of the mix.
    period_us : float
        Time in which all that runs side by side is executed once, in microseconds: all models one
        after the other (serial, and in every lane if free), or every lane of every segment.
        Predicted until measured, see :func:`with_measured`.
    capacity_per_s : float
        Tasks per second when all models have as many tasks, and enough to fill all batches.
    memory_bytes : int
        Arenas, boundary values, inputs and outputs of all instances that can be in flight.
    """

    id: str
    mode: Mode
    streams: int
    in_flight: int
    models: dict[str, ModelVariant]
    period_us: float
    capacity_per_s: float
    memory_bytes: int


@dataclass(frozen=True, eq=False)
class Mix:
    """Several compiled models, and how their tasks may be executed.

    Attributes
    ----------
    models : dict of str to Artifact
        By name. They have the same kernel library and the same constants.
    variants : tuple of Variant
        The first is ``"serial"``.
    """

    models: dict[str, Artifact]
    variants: tuple[Variant, ...]


def instance_bytes(model: ModelVariant) -> int:
    """Memory of one instance of the largest batch size, in bytes.

    These are its inputs, the boundary values, its outputs, and one arena, as large as the largest
    of the segments in any lane needs. Each begins at a multiple of 64 bytes.
    """
    largest = 0
    for batch in model.batch_sizes:
        plans = [plan for lane in model.lanes for plan in lane.plans[batch]]
        values = {
            plan.tensors[index].name: _aligned(plan.tensors[index].nbytes)
            for plan in plans
            for index in (*plan.inputs, *plan.outputs)
        }
        arena_bytes = max((_aligned(plan.arena_bytes) for plan in plans), default=0)
        largest = max(largest, sum(values.values()) + arena_bytes)
    return largest


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def memory_bytes(models: Mapping[str, ModelVariant], in_flight: int) -> int:
    """Memory of all instances that can be in flight, in bytes.

    Parameters
    ----------
    models : mapping of str to ModelVariant
        All models of a variant.
    in_flight : int
        Most instances over all models; 0 if only the lanes limit them.
    """
    sizes = []
    for model in models.values():
        sizes += [instance_bytes(model)] * (len(model.lanes) * model.segments)
    return sum(sorted(sizes, reverse=True)[: in_flight or None])


def with_measured(mix: Mix, measured: Mapping[str, float]) -> Mix:
    """Replace the predictions of some variants.

    Parameters
    ----------
    mix : Mix
        Stays as it is.
    measured : mapping of str to float
        ``capacity_per_s`` by the variant's id. The time of a period is as wrong as that was.

    Raises
    ------
    PartitionError
        If there is no variant of such an id.
    """
    if unknown := sorted(measured.keys() - {variant.id for variant in mix.variants}):
        raise PartitionError(f"the mix has no variants {', '.join(unknown)}")
    variants = []
    for variant in mix.variants:
        capacity_per_s = measured.get(variant.id, variant.capacity_per_s)
        period_us = variant.period_us * variant.capacity_per_s / capacity_per_s
        variants.append(replace(variant, period_us=period_us, capacity_per_s=capacity_per_s))
    return replace(mix, variants=tuple(variants))
