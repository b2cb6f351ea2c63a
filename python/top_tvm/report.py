"""What there is to say about an artifact, as plain data that can become JSON."""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from typing import Any

from top_tvm.artifact import Artifact
from top_tvm.mix import Mix, Variant
from top_tvm.plan import Kernel, Plan
from top_tvm.runtime.plan_view import view_plan


def describe_plan(plan: Plan) -> dict[str, Any]:
    """Size and times of one plan; a time is None where it is not known."""
    return {
        "batch": plan.batch,
        "streams": plan.streams,
        "partitioner": plan.partitioner,
        "ops": len(plan.calls),
        "stages": len({call.stage for call in plan.calls}),
        "groups": len({(call.stage, call.group) for call in plan.calls}),
        "predicted_us": plan.predicted_us or None,
        "measured_us": plan.measured_us or None,
        "arena_bytes": plan.arena_bytes,
        "layout_changes": sum(_changes_layout(plan.kernels[call.kernel]) for call in plan.calls),
    }


def _changes_layout(kernel: Kernel) -> bool:
    """Whether a kernel only reorders elements: TVM names kernels by what they do."""
    return (
        kernel.library == "tvm"
        and re.search(r"transpose|layout_transform", kernel.symbol) is not None
    )


def describe_artifact(artifact: Artifact) -> dict[str, Any]:
    """Plans, variants and memory of an artifact.

    Returns
    -------
    dict
        ``ops`` and ``layout_changes`` count ops, and those that only change a layout, of the
        smallest batch size, and ``operators`` has their kernels, times and speeds; ``roofline``
        holds the limits of the device that their per cent refer to. A variant is a way to run: with
        ``lanes`` tasks at a time, cut into ``segments`` pieces, ``batch`` inputs each; it takes
        ``period_us`` and gives ``capacity_per_s`` inferences per second. ``memory_bytes`` is what
        stays allocated while every plan is loaded: weights, kernels and one arena per plan.
    """
    plans = [describe_plan(plan) for _, plan in sorted(artifact.plans.items())]
    variants = [_variant(plan) for plan in plans]
    capacities = [v["capacity_per_s"] for v in variants if v["capacity_per_s"] is not None]
    weights = sum(constant.nbytes for constant in artifact.constants.values())
    arenas = sum(plan["arena_bytes"] for plan in plans)
    return {
        "name": artifact.metadata.name,
        "target": artifact.metadata.target,
        "creator": artifact.metadata.creator,
        "cpu_features": list(artifact.metadata.cpu_features),
        "libraries": dict(artifact.metadata.libraries),
        "ops": plans[0]["ops"],
        "layout_changes": plans[0]["layout_changes"],
        "operators": _operators(artifact),
        "roofline": {k: _finite(v) for k, v in asdict(artifact.metadata.roofline).items()},
        "plans": plans,
        "variants": variants,
        "capacity_per_s": max(capacities, default=None),
        "memory_bytes": weights + len(artifact.kernels) + arenas,
        "weights_bytes": weights,
        "kernels_bytes": len(artifact.kernels),
    }


def describe_mix(mix: Mix) -> dict[str, Any]:
    """Models, plans, variants and memory of a mix.

    Returns
    -------
    dict
        Keys as of :func:`describe_artifact`. ``models`` describes each model by name; ``ops`` is
        their sum. ``plans`` are those for one task at a time, with the ``model`` of each.
        ``capacity_per_s`` is that of the best variant, when all models have as many tasks.
        ``memory_bytes`` is that of weights, kernels, and the instances in flight of the variant
        with the largest ones.
    """
    described = {name: describe_artifact(artifact) for name, artifact in mix.models.items()}
    first = next(iter(described.values()))
    variants = [_mix_variant(variant) for variant in mix.variants]
    in_flight = max(variant.memory_bytes for variant in mix.variants)
    # Models share constants, by key, and kernels.
    constants = {
        k: array for artifact in mix.models.values() for k, array in artifact.constants.items()
    }
    weights = sum(array.nbytes for array in constants.values())
    kernels = first["kernels_bytes"]
    keys = ("name", "ops", "layout_changes", "operators")
    return {
        **{key: first[key] for key in ("target", "creator", "cpu_features", "roofline")},
        "models": {
            name: {key: artifact[key] for key in keys} for name, artifact in described.items()
        },
        "ops": sum(artifact["ops"] for artifact in described.values()),
        "plans": [
            {"model": name, **plan}
            for name, artifact in described.items()
            for plan in artifact["plans"]
        ],
        "variants": variants,
        "capacity_per_s": max(variant["capacity_per_s"] for variant in variants),
        "memory_bytes": weights + kernels + in_flight,
        "weights_bytes": weights,
        "kernels_bytes": kernels,
    }


def _mix_variant(variant: Variant) -> dict[str, Any]:
    models = variant.models.values()
    return {
        "id": variant.id,
        "mode": variant.mode,
        "lanes": max(len(model.lanes) for model in models),
        "segments": max(model.segments for model in models),
        "batch": max(model.batch_sizes[-1] for model in models),
        "streams": variant.streams,
        "in_flight": variant.in_flight,
        "period_us": variant.period_us,
        "capacity_per_s": variant.capacity_per_s,
        "memory_bytes": variant.memory_bytes,
    }


def _operators(artifact: Artifact) -> list[dict[str, Any]]:
    batch = min(artifact.plans)
    profiles = artifact.profiles.get(batch, ())
    view = view_plan(artifact.plans[batch], profiles, artifact.metadata.roofline)
    return [
        {
            "name": op.name,
            "kernel": op.kernel,
            "what": op.origin,
            "threads": op.threads,
            "time_us": _finite(op.solo_us),
            "gflops": _finite(op.gflops),
            "gb_per_s": _finite(op.gb_per_s),
            "roofline_percent": _finite(op.roofline_percent),
        }
        for op in view.ops
    ]


def _finite(number: float | None) -> float | None:
    """None for what JSON has no number for."""
    return number if number is not None and math.isfinite(number) else None


def _variant(plan: dict[str, Any]) -> dict[str, Any]:
    period_us = plan["measured_us"] or plan["predicted_us"]
    return {
        "id": f"b{plan['batch']}",
        "lanes": 1,
        "segments": 1,
        "batch": plan["batch"],
        "streams": plan["streams"],
        "period_us": period_us,
        "capacity_per_s": plan["batch"] / period_us * 1e6 if period_us else None,
    }
