"""What was executed when: the merged timeline of the tasks of all models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from top_tvm.runtime.controller.decision import VariantFeatures


@dataclass(frozen=True)
class SegmentRun:
    """One instance, which is a task or a batch of them, in one segment.

    Attributes
    ----------
    instance : int
        Counts launches.
    variant, model : str
        Which segment of which model.
    segment, lane : int
        From 0.
    tasks : int
        In the batch.
    begin_us, end_us : float
        On the clock of ``time.monotonic``, or the virtual one.
    """

    instance: int
    variant: str
    model: str
    segment: int
    lane: int
    tasks: int
    begin_us: float
    end_us: float


def segment_runs(
    fields: Sequence[tuple[int, int, int, int, int, int, float, float]],
    names: Sequence[str],
    features: Sequence[VariantFeatures],
) -> list[SegmentRun]:
    """Read what a native runtime says of them."""
    return [
        SegmentRun(
            instance, features[variant].id, names[model], segment, lane, tasks, begin_us, end_us
        )
        for instance, variant, model, segment, lane, tasks, begin_us, end_us in fields
    ]
