"""What the page shows, as plain data that becomes JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from top_tvm.artifact import Artifact, OpProfile
from top_tvm.page.dataflow import lifetimes, live_bytes, predecessors
from top_tvm.page.layout import layered_layout
from top_tvm.plan import Call, Plan, Tensor
from top_tvm.report import describe_artifact, describe_plan
from top_tvm.runtime.plan_view import OpView, view_plan

Array = npt.NDArray[Any]
Intervals = list[tuple[float, float]]

# As in compare.py: what neighbours on the machine disturb least, without being a lucky minimum.
_PERCENTILE = 20


def page_data(
    artifact: Artifact,
    timelines: Mapping[int, Array] | None = None,
    *,
    device: str = "",
    not_measured: str = "",
) -> dict[str, Any]:
    """Everything that the page shows.

    Parameters
    ----------
    artifact : Artifact
        The compiled model.
    timelines : mapping of int to numpy.ndarray, optional
        Measured runs by batch size, in microseconds, of shape (runs, calls, 2).
    device : str
        Name of the device that they were measured on.
    not_measured : str
        Why there are no measured runs; ``""`` if there are.
    """
    described = describe_artifact(artifact)
    kept = ("name", "target", "creator", "cpu_features", "libraries", "roofline", "kernels_bytes")
    plans = [
        _plan(artifact, plan, (timelines or {}).get(batch))
        for batch, plan in sorted(artifact.plans.items())
    ]
    return {
        **{key: described[key] for key in kept},
        "precision": _precision(artifact),
        "device": device,
        "not_measured": not_measured,
        "plans": plans,
    }


def _precision(artifact: Artifact) -> str:
    types = {tensor.dtype for plan in artifact.plans.values() for tensor in plan.tensors}
    return "bf16" if "bfloat16" in types else "fp32"


def _plan(artifact: Artifact, plan: Plan, runs: Array | None) -> dict[str, Any]:
    profiles = artifact.profiles.get(plan.batch, ())
    view = view_plan(plan, profiles, artifact.metadata.roofline)
    sources = predecessors(plan)
    layout = layered_layout(sources)
    measured = None if runs is None else _typical_run(runs)
    predicted = _predicted(plan, profiles)
    typical: list[float] | None = None
    if runs is not None:
        typical = np.percentile(runs[:, :, 1] - runs[:, :, 0], _PERCENTILE, axis=0).tolist()
    ops = [
        {
            **_static(op, call, plan),
            "measured": _rounded(measured, index),
            "predicted": _rounded(predicted, index),
            "in_plan_us": None if typical is None else round(typical[index], 3),
            "sources": sources[index],
            "layer": layout.layers[index],
            "y": round(layout.positions[index], 2),
            "lane": [round(y, 2) for y in layout.lanes[index]],
        }
        for index, (op, call) in enumerate(zip(view.ops, plan.calls, strict=True))
    ]
    pieces = lifetimes(plan)
    constants = {t.storage for t in plan.tensors if t.space == "constant"}
    return {
        **describe_plan(plan),
        "runs": 0 if runs is None else len(runs),
        "weights_bytes": sum(artifact.constants[key].nbytes for key in constants),
        "ops": ops,
        "memory": {
            kind: live_bytes(pieces, times)
            for kind, times in (("measured", measured), ("predicted", predicted))
            if times is not None
        },
    }


def _static(op: OpView, call: Call, plan: Plan) -> dict[str, Any]:
    """What is known of an op before it runs."""
    tensors = [plan.tensors[argument] for argument in call.args]
    split = len(tensors) - call.num_outputs
    return {
        "name": op.name,
        "kernel": op.kernel,
        "what": op.origin,
        "reads": _shapes(tensor for tensor in tensors[:split] if tensor.space != "constant"),
        "writes": _shapes(tensors[split:]),
        "stage": op.stage,
        "group": op.group,
        "stream": op.stream,
        "threads": op.threads,
        "solo_us": _significant(op.solo_us),
        "gflops": _significant(op.gflops),
        "gb_per_s": _significant(op.gb_per_s),
        "roofline_percent": _significant(op.roofline_percent),
    }


def _shapes(tensors: Any) -> str:
    return ", ".join(map(_shape, tensors))


def _shape(tensor: Tensor) -> str:
    extents = "×".join(map(str, tensor.shape)) or "scalar"
    return extents if tensor.dtype == "float32" else f"{extents} {tensor.dtype}"


def _typical_run(runs: Array) -> Intervals:
    """A run that happened, unlike the mean of all, and that was hardly disturbed."""
    times = runs[:, :, 1].max(axis=1)
    run = int(np.argsort(times)[(len(times) - 1) * _PERCENTILE // 100])
    return [(start, end) for start, end in runs[run].tolist()]


def _predicted(plan: Plan, profiles: Sequence[OpProfile]) -> Intervals | None:
    """The simulator's run, or None where the file has none."""
    known = {p.name: (p.predicted_start_us, p.predicted_end_us) for p in profiles}
    times = [known.get(call.op, (np.inf, np.inf)) for call in plan.calls]
    return times if np.isfinite(times).all() else None


def _rounded(times: Intervals | None, index: int) -> tuple[float, float] | None:
    return None if times is None else (round(times[index][0], 3), round(times[index][1], 3))


def _significant(number: float | None) -> float | None:
    if number is None or not np.isfinite(number):
        return None
    return float(f"{number:.4g}")
