"""A plan for people: stages, groups and ops with predicted and measured times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from top_tvm.artifact import OpProfile
from top_tvm.plan import Plan
from top_tvm.roofline import Roofline

_SPEEDS = ("us", "GFLOP/s", "GB/s", "% roof")


@dataclass(frozen=True)
class OpView:
    """One op of a plan.

    Attributes
    ----------
    name, kernel : str
        Name of the op; library and symbol of its kernel, e.g. ``"onednn:conv2d"``.
    stage, group, stream, threads : int
        Its place in the schedule.
    solo_us : float or None
        Time alone on the device in microseconds in this thread form, if it was measured.
    flops : int or None
        Arithmetic operations, if profiled.
    gflops, gb_per_s : float or None
        Speed of its arithmetic and of its memory traffic at that time.
    roofline_percent : float or None
        Share of what the device could do at best.
    origin : str
        ONNX nodes or Relax operators that it came from.
    """

    name: str
    kernel: str
    stage: int
    group: int
    stream: int
    threads: int
    solo_us: float | None
    flops: int | None
    gflops: float | None
    gb_per_s: float | None
    roofline_percent: float | None
    origin: str


@dataclass(frozen=True)
class GroupView:
    """Ops of one stage that run in order on one stream."""

    index: int
    ops: tuple[OpView, ...]


@dataclass(frozen=True)
class StageView:
    """Groups that run concurrently."""

    index: int
    groups: tuple[GroupView, ...]


@dataclass(frozen=True)
class PlanView:
    """A plan, readable: ``print(executable.plan())``.

    Attributes
    ----------
    batch, streams : int
        Batch size and number of streams of the plan.
    partitioner : str
        What made it.
    predicted_us, measured_us : float
        Time of a run in microseconds, simulated and measured when it was built; 0 if unknown.
    arena_bytes : int
        Memory for intermediate tensors.
    ops : tuple of OpView
        In issue order.
    """

    batch: int
    streams: int
    partitioner: str
    predicted_us: float
    measured_us: float
    arena_bytes: int
    ops: tuple[OpView, ...]

    @property
    def stages(self) -> tuple[StageView, ...]:
        """The ops by stage and group."""
        numbers = sorted({op.stage for op in self.ops})
        return tuple(self._stage(number) for number in numbers)

    def _stage(self, number: int) -> StageView:
        ops = [op for op in self.ops if op.stage == number]
        groups = (
            GroupView(group, tuple(op for op in ops if op.group == group))
            for group in sorted({op.group for op in ops})
        )
        return StageView(number, tuple(groups))

    def __str__(self) -> str:
        head = (
            f"batch {self.batch}, {len(self.ops)} ops in {len(self.stages)} stages on "
            f"{self.streams} streams by {self.partitioner}; arena {self.arena_bytes / 1e6:.1f} MB; "
            f"predicted {_time(self.predicted_us or None)} us, "
            f"measured {_time(self.measured_us or None)} us"
        )
        titles = ("stage", "group", "stream", "threads", *_SPEEDS, "kernel", "op", "what")
        return "\n".join([head, *_table(titles, (_row(op) for op in self.ops))])


def view_plan(
    plan: Plan, profiles: Iterable[OpProfile], roofline: Roofline | None = None
) -> PlanView:
    """Join a plan with the profiles of its ops and the limits of the device."""
    by_name = {profile.name: profile for profile in profiles}
    ops = []
    for call in plan.calls:
        kernel = plan.kernels[call.kernel]
        profile = by_name.get(call.op)
        speed = _speed(profile, call.threads > 1, roofline or Roofline())
        ops.append(
            OpView(
                name=call.op,
                kernel=f"{kernel.library}:{kernel.symbol}",
                stage=call.stage,
                group=call.group,
                stream=call.stream,
                threads=call.threads,
                solo_us=speed[0],
                flops=profile.flops if profile is not None else None,
                gflops=speed[1],
                gb_per_s=speed[2],
                roofline_percent=speed[3],
                origin=profile.origin if profile is not None else "",
            )
        )
    return PlanView(
        batch=plan.batch,
        streams=plan.streams,
        partitioner=plan.partitioner,
        predicted_us=plan.predicted_us,
        measured_us=plan.measured_us,
        arena_bytes=plan.arena_bytes,
        ops=tuple(ops),
    )


def _speed(
    profile: OpProfile | None, gang: bool, roofline: Roofline
) -> tuple[float | None, float | None, float | None, float | None]:
    """Time in us, GFLOP/s, GB/s and per cent of the roofline of an op in one thread form."""
    if profile is None:
        return None, None, None, None
    time_us = profile.gang_us if gang else profile.single_us
    percent = roofline.percent(profile.flops, profile.nbytes, time_us, gang=gang)
    if not time_us > 0:
        return time_us, None, None, percent
    return time_us, profile.flops / time_us / 1e3, profile.nbytes / time_us / 1e3, percent


def _time(time_us: float | None) -> str:
    return "?" if time_us is None else f"{time_us:.1f}"


def _row(op: OpView) -> tuple[str, ...]:
    stream = "all" if op.threads > 1 else str(op.stream)
    place = (str(op.stage), str(op.group), stream, str(op.threads))
    library = op.kernel.partition(":")[0]
    speeds = map(_time, (op.solo_us, op.gflops, op.gb_per_s, op.roofline_percent))
    return (*place, *speeds, library, op.name, op.origin)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of columns: numbers to the right, names to the left."""
    table = [titles, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(titles))]
    left = {titles.index(title) for title in ("kernel", "op", "what")}
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
