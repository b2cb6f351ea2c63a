"""The variants of a mix: ways to execute the tasks of several models, planned and compared.

*Serial* executes one instance at a time, by the fastest plan for it. *Free* gives each of several
lanes streams of its own. *Merged* cuts every model into segments and schedules all lanes of all
segments together, as in a full pipeline; each segment then gets what is its own of that schedule.
Where that schedule lets ops use all streams together, there is another one in which none does: it
waits less where a stream's core is disturbed.
All times here are simulated; whoever can run the variants replaces them by measured ones
(:func:`top_tvm.mix.with_measured`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from top_tvm.compiler.assemble import assemble
from top_tvm.compiler.partition import (
    PARTITIONERS,
    PartitionProblem,
    Schedule,
    available_partitioners,
    simulate,
)
from top_tvm.compiler.partition.merge import merge_segments
from top_tvm.compiler.profile import Progress
from top_tvm.compiler.segment_plans import (
    LanePlace,
    MeasuredModel,
    SegmentPlans,
    narrow,
    shift,
    without_gangs,
)
from top_tvm.mix import Lane, Mode, ModelVariant, Variant, memory_bytes
from top_tvm.plan import Plan

MOST_VARIANTS = 12
_LOG = logging.getLogger(__name__)
_PREDICTION_MARGIN = 0.15
_MEASUREMENT_MARGIN = 0.03
# A model without ops takes no time by the simulator.
_LEAST_US = 1e-3
# What is tried for graphs of several tasks; the exact search takes too long for them.
_FOR_MERGED = ("sequential", "list", "gpg")


def plan_variants(
    models: Mapping[str, MeasuredModel],
    *,
    lanes: Sequence[int],
    segments: Sequence[int],
    partitioner: str,
    progress: Progress,
) -> tuple[Variant, ...]:
    """Plan the variants of a mix that are worth measuring.

    Serial and free ones are, and merged ones that are not much worse than another in every respect.

    Parameters
    ----------
    models : mapping of str to MeasuredModel
        All for the same device.
    lanes, segments : sequence of int
        Numbers of lanes and of segments of merged variants. A model that cannot be cut so often has
        fewer segments.
    partitioner : str
        As for :func:`~top_tvm.compiler.build.build`.
    progress : callable
        Called with (what, done, total).

    Returns
    -------
    tuple of Variant
        The first is ``"serial"``.
    """
    found = all_variants(
        models, lanes=lanes, segments=segments, partitioner=partitioner, progress=progress
    )
    # Predictions err: what a measurement may prefer stays.
    promising = {variant.id for variant in prune(found, margin=_PREDICTION_MARGIN)}
    return tuple(v for v in found if v.mode != "merged" or v.id in promising)


def all_variants(
    models: Mapping[str, MeasuredModel],
    *,
    lanes: Sequence[int],
    segments: Sequence[int],
    partitioner: str,
    progress: Progress,
) -> tuple[Variant, ...]:
    """Plan the variants of a mix, good and bad; parameters are those of :func:`plan_variants`."""
    planner = _Planner(models, partitioner)
    streams = planner.streams
    widths = [streams // count for count in range(2, streams + 1) if streams % count == 0]
    possible = sorted({planner.most_segments(count) for count in segments})
    shapes = [(f, k) for f in sorted(set(lanes)) for k in possible if f * k > 1]
    total = len(planner.levels) * (1 + len(widths) + len(shapes))
    variants: list[Variant] = []
    for level in planner.levels:
        variants.append(planner.serial(level))
        for width in widths:
            variants.append(planner.free(level, width))
        for count, parts in shapes:
            progress("plan variants", len(variants), total)
            variants.append(planner.merged(level, count, parts))
            if planner.has_gangs(level, count, parts):
                variants.append(planner.merged(level, count, parts, gangs=False))
    progress("plan variants", total, total)
    return tuple(variants)


def prune(
    variants: Sequence[Variant], most: int = MOST_VARIANTS, *, margin: float = 0.0
) -> tuple[Variant, ...]:
    """Drop what another variant beats, or equals, in capacity, lone latency and memory.

    The first variant stays whatever it is. Of more than ``most``, those of most capacity stay. With
    a margin, capacity and latency must be better by that share.
    """
    scores = [(v.capacity_per_s, -lone_latency_us(v), -v.memory_bytes) for v in variants]
    generous = [
        (capacity * (1 + margin), latency / (1 + margin), memory)
        for capacity, latency, memory in scores
    ]
    kept = [variants[0]]
    for index in range(1, len(variants)):
        own = generous[index]
        beaten = any(
            all(a >= b for a, b in zip(other, own, strict=True))
            and (other != own or number < index)
            for number, other in enumerate(scores)
            if number != index
        )
        if beaten:
            _LOG.info("variant %s: another is better in every respect", variants[index].id)
        else:
            kept.append(variants[index])
    best = sorted(kept[1:], key=lambda variant: -variant.capacity_per_s)[: most - 1]
    chosen = {variant.id for variant in best}
    return (kept[0], *(variant for variant in kept[1:] if variant.id in chosen))


def worthwhile(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """Of measured variants, those worth switching to.

    As :func:`prune` says, and more in capacity than any before it that has as little latency and
    memory, by more than measurements err. The best free one is always kept: it is the one whose
    streams need nothing of each other, should synchronising them become slow.
    """
    kept: list[Variant] = []
    for variant in prune(variants):
        similar = [other for other in kept if _hardly_worse(other, variant)]
        if similar:
            _LOG.info("variant %s: %s is hardly worse", variant.id, similar[0].id)
        else:
            kept.append(variant)
    free = [variant for variant in variants if variant.mode == "free"]
    best = max(free, key=lambda variant: variant.capacity_per_s, default=None)
    ids = {variant.id for variant in kept} | ({best.id} if best else set())
    return tuple(variant for variant in variants if variant.id in ids)


def _hardly_worse(other: Variant, variant: Variant) -> bool:
    return (
        other.capacity_per_s * (1 + _MEASUREMENT_MARGIN) >= variant.capacity_per_s
        and lone_latency_us(other) <= lone_latency_us(variant)
        and other.memory_bytes <= variant.memory_bytes
    )


def lone_latency_us(variant: Variant) -> float:
    """Predicted time of a task of each model that has the device to itself, summed over models."""
    total_us = 0.0
    for model in variant.models.values():
        smallest = model.batch_sizes[0]
        times_us = [sum(p.predicted_us for p in lane.plans[smallest]) for lane in model.lanes]
        total_us += sum(times_us) / len(times_us)
    return total_us


@dataclass(frozen=True)
class _Merge:
    """Plans of every model and lane, the time of a period, and whether ops use all streams."""

    plans: dict[str, list[tuple[Plan, ...]]]
    period_us: float
    has_gangs: bool


class _Planner:
    def __init__(self, models: Mapping[str, MeasuredModel], partitioner: str) -> None:
        self.models = models
        self.segment_plans = {name: SegmentPlans(name, model) for name, model in models.items()}
        # What batch sizes go up to; the smallest of those that lead to the same sizes.
        batches = sorted({batch for model in models.values() for batch in model.graphs})
        by_sizes = {tuple(self.sizes(batch).values()): batch for batch in reversed(batches)}
        self.levels = sorted(by_sizes.values())
        first = next(iter(models.values()))
        self.device = next(iter(first.problems.values())).device
        self.streams = self.device.streams
        self.partitioner = partitioner
        self.narrow_schedules: dict[tuple[str, int, int], tuple[str, Schedule]] = {}
        self.narrow_plans: dict[tuple[str, int, int], Plan] = {}
        self.merges: dict[tuple[int, int, int, bool], _Merge] = {}

    def sizes(self, level: int) -> dict[str, int]:
        """Largest batch size of every model up to a level, or its smallest."""
        return {
            name: max((b for b in model.graphs if b <= level), default=min(model.graphs))
            for name, model in self.models.items()
        }

    def sizes_up_to(self, level: int) -> dict[str, tuple[int, ...]]:
        """All batch sizes of every model up to a level, ascending; at least its smallest."""
        sizes = self.sizes(level)
        return {
            name: tuple(sorted(b for b in model.graphs if b <= sizes[name]))
            for name, model in self.models.items()
        }

    def most_segments(self, wanted: int) -> int:
        """So many segments, or fewer if no model can be cut so often."""
        cuts = [plans.bounds(wanted) for plans in self.segment_plans.values()]
        return max(len(bounds) - 1 for of_model in cuts for bounds in of_model.values())

    def serial(self, level: int) -> Variant:
        """One instance at a time."""
        models = {}
        for name, sizes in self.sizes_up_to(level).items():
            plans: dict[int, tuple[Plan, ...]] = {
                batch: (self.models[name].plans[batch],) for batch in sizes
            }
            models[name] = ModelVariant(1, (Lane(0, plans),), sizes)
        return self._variant(
            "serial", "serial", level, models, 1, 1, sum(self._lone_us(level).values())
        )

    def free(self, level: int, width: int) -> Variant:
        """As many lanes of ``width`` streams as there are."""
        count = self.streams // width
        models = {}
        for name, sizes in self.sizes_up_to(level).items():
            plans: dict[int, tuple[Plan, ...]] = {
                batch: (self._narrow_plan(name, batch, width),) for batch in sizes
            }
            lanes = tuple(Lane(lane * width, plans) for lane in range(count))
            models[name] = ModelVariant(1, lanes, sizes)
        id_ = f"free-{count}x{width}"
        return self._variant(id_, "free", level, models, count, count, self._free_us(level, width))

    def has_gangs(self, level: int, lanes: int, segments: int) -> bool:
        """Whether ops use all streams together in the merged schedule of any level up to it."""
        return any(
            self._merge(lower, lanes, segments, gangs=True).has_gangs
            for lower in self.levels
            if lower <= level
        )

    def merged(self, level: int, lanes: int, segments: int, *, gangs: bool = True) -> Variant:
        """All lanes of all segments scheduled together, with ops on all streams or without."""
        plans: dict[str, list[dict[int, tuple[Plan, ...]]]] = {
            name: [{} for _ in range(lanes)] for name in self.models
        }
        # What is planned for the largest sizes goes together; smaller batches are exceptions.
        for lower in (other for other in self.levels if other <= level):
            merge = self._merge(lower, lanes, segments, gangs=gangs)
            for name, batch in self.sizes(lower).items():
                for lane in range(lanes):
                    plans[name][lane][batch] = merge.plans[name][lane]
        models = {}
        for name, sizes in self.sizes_up_to(level).items():
            count = len(plans[name][0][sizes[0]])
            models[name] = ModelVariant(count, tuple(Lane(0, own) for own in plans[name]), sizes)
        period_us = self._merge(level, lanes, segments, gangs=gangs).period_us
        id_ = f"merged-f{lanes}k{segments}" + ("" if gangs else "-nogang")
        return self._variant(id_, "merged", level, models, 0, lanes, period_us)

    def _variant(
        self,
        id_: str,
        mode: Mode,
        level: int,
        models: dict[str, ModelVariant],
        in_flight: int,
        lanes: int,
        period_us: float,
    ) -> Variant:
        """A variant that executes ``lanes`` instances of every model in a period."""
        sizes = self.sizes(level)
        beyond = [batch for name, batch in sizes.items() if batch > min(self.models[name].graphs)]
        if beyond:
            id_ += f"-b{max(beyond)}"
        # Of an even mix, models with larger batches need fewer instances.
        times_us = self._lone_us(level)
        per_task_us = sum(time_us / sizes[name] for name, time_us in times_us.items())
        period_us = max(period_us, _LEAST_US)
        tasks = lanes * len(sizes) * sum(times_us.values()) / per_task_us
        return Variant(
            id=id_,
            mode=mode,
            streams=self.streams,
            in_flight=in_flight,
            models=models,
            period_us=period_us,
            capacity_per_s=tasks / period_us * 1e6,
            memory_bytes=memory_bytes(models, in_flight),
        )

    def _lone_us(self, level: int) -> dict[str, float]:
        """Time of one instance of every model, alone."""
        return {
            name: max(self.models[name].plans[batch].predicted_us, _LEAST_US)
            for name, batch in self.sizes(level).items()
        }

    def _narrow(self, name: str, batch: int, width: int) -> tuple[str, Schedule]:
        """Partitioner and schedule of a model on fewer streams."""
        key = (name, batch, width)
        if key not in self.narrow_schedules:
            problem = narrow(self.models[name].problems[batch], width)
            known = self._partitioners(PARTITIONERS) if width > 1 else ("sequential",)
            self.narrow_schedules[key] = _best(problem, known)
        return self.narrow_schedules[key]

    def _narrow_plan(self, name: str, batch: int, width: int) -> Plan:
        key = (name, batch, width)
        if key not in self.narrow_plans:
            model = self.models[name]
            partitioner, schedule = self._narrow(name, batch, width)
            self.narrow_plans[key] = assemble(
                model.graphs[batch],
                schedule,
                streams=width,
                partitioner=partitioner,
                batch=batch,
                predicted_us=simulate(narrow(model.problems[batch], width), schedule).makespan_us,
            )
        return self.narrow_plans[key]

    def _free_us(self, level: int, width: int) -> float:
        """Time in which every lane executes every model once, each lane in another order."""
        sizes = self.sizes(level)
        names = list(self.models)
        instances = []
        for turn in range(len(names)):
            for lane in range(self.streams // width):
                instances.append((names[(turn + lane) % len(names)], lane))
        problems = [self.models[name].problems[sizes[name]] for name, _ in instances]
        side_by_side = merge_segments(
            problems, [1] * len(problems), [(0, problem.num_ops) for problem in problems]
        )
        schedule, first = [], 0
        for (name, lane), problem in zip(instances, problems, strict=True):
            schedule += shift(self._narrow(name, sizes[name], width)[1], first, lane * width)
            first += problem.num_ops
        makespan_us = simulate(side_by_side.problem, tuple(schedule)).makespan_us
        return makespan_us + (len(names) - 1) * self.device.run_us  # of which it has one

    def _merge(self, level: int, lanes: int, segments: int, *, gangs: bool) -> _Merge:
        key = (level, lanes, segments, gangs)
        if key not in self.merges:
            sizes = self.sizes(level)
            bounds = {n: self.segment_plans[n].bounds(segments)[b] for n, b in sizes.items()}
            problems = [self.models[name].problems[batch] for name, batch in sizes.items()]
            if not gangs:
                problems = [without_gangs(problem) for problem in problems]
            merged = merge_segments(problems, [lanes] * len(sizes), list(bounds.values()))
            partitioner, schedule = _best(merged.problem, self._partitioners(_FOR_MERGED))
            plans = {
                name: [
                    self.segment_plans[name].of_lane(
                        merged,
                        schedule,
                        partitioner,
                        LanePlace(model, lane, sizes[name], bounds[name]),
                    )
                    for lane in range(lanes)
                ]
                for model, name in enumerate(sizes)
            }
            self.merges[key] = _Merge(
                plans,
                simulate(merged.problem, schedule).makespan_us,
                any(placement.threads > 1 for placement in schedule),
            )
        return self.merges[key]

    def _partitioners(self, wanted: Collection[str]) -> tuple[str, ...]:
        if self.partitioner != "auto":
            return (self.partitioner,)
        return tuple(name for name in available_partitioners() if name in wanted)


def _best(problem: PartitionProblem, partitioners: Sequence[str]) -> tuple[str, Schedule]:
    """Name and schedule of the partitioner whose schedule the simulator likes best."""
    schedules = {name: PARTITIONERS[name](problem) for name in partitioners}
    best = min(schedules, key=lambda name: simulate(problem, schedules[name]).makespan_us)
    return best, schedules[best]
