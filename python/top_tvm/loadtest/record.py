"""What became of the tasks of a load test, and what was seen meanwhile."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from top_tvm.runtime.segment_runs import SegmentRun

MOST_SEGMENTS = 20_000
"""Segments that a record has at most: the latest."""

ENDS = ("completed", "rejected", "expired", "cancelled", "failed")
"""How a task can end."""


@dataclass(slots=True)
class LoadTask:
    """A task: times in seconds since the beginning of the test.

    ``arrival_s`` is when it was to arrive, whenever it was submitted. ``end`` is one of
    :data:`ENDS`, or ``"waiting"`` until it has ended.
    """

    model: str
    arrival_s: float
    submitted_s: float = math.nan
    finished_s: float = math.nan
    end: str = "waiting"


@dataclass(frozen=True)
class Sample:
    """The runtime at a moment: id of its variant, and busy seconds of all streams so far."""

    time_s: float
    variant: str
    busy_s: float


@dataclass
class Record:
    """A whole test.

    Attributes
    ----------
    models : tuple of str
        Names of all models.
    streams : int
        Streams of the device.
    work_us : tuple of float
        Per model: device time of a task. Says how models share the time that streams are busy.
    tasks : list of LoadTask
        By time of submission.
    samples : list of Sample
        By time.
    segments : list of SegmentRun
        What was executed when, by the end; microseconds since the beginning of the test.
    elapsed_s : float
        From the first possible arrival to the end of the last task, and at least the duration.
    interrupted : bool
        Whether the test ended early.
    """

    models: tuple[str, ...]
    streams: int
    work_us: tuple[float, ...]
    tasks: list[LoadTask] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    segments: list[SegmentRun] = field(default_factory=list)
    elapsed_s: float = 0.0
    interrupted: bool = False
