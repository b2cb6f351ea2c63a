"""Checks of a mix: its models, and that the plans of its variants fit them and link up."""

from __future__ import annotations

import math
from collections.abc import Iterator

from top_tvm.artifact import check_artifact, check_references
from top_tvm.errors import ArtifactError
from top_tvm.mix import Lane, Mix, ModelVariant, Variant, memory_bytes
from top_tvm.plan import Plan, Tensor
from top_tvm.plan_check import MAX_STREAMS

MAX_MODELS = 1_000
MAX_VARIANTS = 1_000
MAX_LANES = MAX_STREAMS
MAX_SEGMENTS = 1_000
MAX_IN_FLIGHT = 1_000_000
# The time of the checks is bounded by it: inputs and outputs of all plans of all lanes.
MAX_LINKS = 2_000_000

_Signature = tuple[str, tuple[int, ...]]  # dtype and shape


def check_mix(mix: Mix) -> None:
    """Check a mix whose plans are valid.

    Raises
    ------
    ArtifactError
        Naming the model or variant at fault.
    """
    if not 1 <= len(mix.models) <= MAX_MODELS:
        raise ArtifactError(f"{len(mix.models)} models; expected 1 to {MAX_MODELS}")
    for name, artifact in mix.models.items():
        if not name:
            raise ArtifactError("a model has no name")
        try:
            check_artifact(artifact)
        except ArtifactError as error:
            raise ArtifactError(f"model {name!r}: {error}") from error
    if not 1 <= len(mix.variants) <= MAX_VARIANTS:
        raise ArtifactError(f"{len(mix.variants)} variants; expected 1 to {MAX_VARIANTS}")
    if mix.variants[0].id != "serial":
        raise ArtifactError(f"the first variant is {mix.variants[0].id!r}, expected 'serial'")
    if len({variant.id for variant in mix.variants}) != len(mix.variants):
        raise ArtifactError("two variants have the same id")
    checker = _Checker(mix)
    for variant in mix.variants:
        try:
            checker.check(variant)
        except ArtifactError as error:
            raise ArtifactError(f"variant {variant.id!r:.80}: {error}") from error


class _Checker:
    def __init__(self, mix: Mix) -> None:
        self.mix = mix
        self.links = 0
        self.fitting: set[tuple[str, int]] = set()  # model, id of plan

    def check(self, variant: Variant) -> None:
        if not variant.id or not 1 <= variant.streams <= MAX_STREAMS:
            raise ArtifactError(f"streams is {variant.streams}, expected 1 to {MAX_STREAMS}")
        if not 0 <= variant.in_flight <= MAX_IN_FLIGHT:
            raise ArtifactError(f"in_flight is {variant.in_flight}")
        if not (0 < variant.period_us < math.inf and 0 < variant.capacity_per_s < math.inf):
            raise ArtifactError(
                f"period_us and capacity_per_s are {variant.period_us} and "
                f"{variant.capacity_per_s}, expected positive numbers"
            )
        if variant.models.keys() != self.mix.models.keys():
            raise ArtifactError(
                f"its models are {sorted(variant.models)}, the mix's {sorted(self.mix.models)}"
            )
        for name, model in variant.models.items():
            try:
                self._check_model(variant, name, model)
            except ArtifactError as error:
                raise ArtifactError(f"model {name!r}: {error}") from error
        self._check_mode(variant)
        expected = memory_bytes(variant.models, variant.in_flight)
        if variant.memory_bytes != expected:
            raise ArtifactError(f"memory_bytes is {variant.memory_bytes}, but it uses {expected}")

    def _check_mode(self, variant: Variant) -> None:
        shapes = {(model.segments, len(model.lanes)) for model in variant.models.values()}
        if variant.mode == "serial" and (variant.in_flight != 1 or shapes != {(1, 1)}):
            raise ArtifactError("serial, but not one instance of one segment at a time")
        if variant.mode == "free" and {segments for segments, _ in shapes} != {1}:
            raise ArtifactError("free, but cut into segments")

    def _check_model(self, variant: Variant, name: str, model: ModelVariant) -> None:
        if not 1 <= len(model.lanes) <= MAX_LANES or not 1 <= model.segments <= MAX_SEGMENTS:
            raise ArtifactError(f"{len(model.lanes)} lanes of {model.segments} segments")
        sizes, artifact = model.batch_sizes, self.mix.models[name]
        if not sizes or list(sizes) != sorted(set(sizes)):
            raise ArtifactError(f"its batch sizes are {sizes}, expected ascending ones")
        if unknown := set(sizes) - artifact.plans.keys():
            raise ArtifactError(f"the model has no plans for batch {sorted(unknown)}")
        for lane in model.lanes:
            if lane.plans.keys() != set(sizes):
                raise ArtifactError(f"a lane has batch sizes {sorted(lane.plans)}, not {sizes}")
            for batch, plans in lane.plans.items():
                if len(plans) != model.segments:
                    raise ArtifactError(f"{len(plans)} plans for {model.segments} segments")
                for segment, plan in enumerate(plans):
                    place = f"batch {batch}, segment {segment}"
                    _check_place(variant, lane, plan, batch, place)
                    self._check_fit(name, plan, place)
                _check_chain(artifact.plans[batch], plans, f"batch {batch}")

    def _check_fit(self, name: str, plan: Plan, place: str) -> None:
        self.links += len(plan.inputs) + len(plan.outputs)
        if self.links > MAX_LINKS:
            raise ArtifactError(f"more than {MAX_LINKS} inputs and outputs of all plans together")
        if (name, id(plan)) not in self.fitting:
            check_references(self.mix.models[name], plan, place)
            self.fitting.add((name, id(plan)))


def _check_place(variant: Variant, lane: Lane, plan: Plan, batch: int, place: str) -> None:
    if plan.batch != batch:
        raise ArtifactError(f"{place}: its plan says batch {plan.batch}")
    first, last = lane.first_stream, lane.first_stream + plan.streams
    if not 0 <= first < last <= variant.streams:
        raise ArtifactError(f"{place}: streams {first} to {last - 1} of {variant.streams}")


def _check_chain(whole: Plan, plans: tuple[Plan, ...], place: str) -> None:
    """Check that segments read what is there, and that all outputs are written, once."""
    known = dict(_signatures(whole, whole.inputs))
    wanted = dict(_signatures(whole, whole.outputs))
    passed_through = wanted.keys() & known.keys()
    written: set[str] = set()
    for segment, plan in enumerate(plans):
        for name, signature in _signatures(plan, plan.inputs):
            if known.get(name) != signature:
                raise ArtifactError(
                    f"{place}, segment {segment}: its input {name!r:.80} is {signature}, but "
                    f"{known.get(name, 'nothing')} is there"
                )
        for name, signature in _signatures(plan, plan.outputs):
            if name in written or (name in known and name not in passed_through):
                raise ArtifactError(f"{place}, segment {segment}: {name!r:.80} is there already")
            written.add(name)
            known[name] = signature
    for name, signature in wanted.items():
        if name not in written or known[name] != signature:
            raise ArtifactError(f"{place}: no segment writes the output {name!r:.80}, {signature}")


def _signatures(plan: Plan, indices: tuple[int, ...]) -> Iterator[tuple[str, _Signature]]:
    tensors: tuple[Tensor, ...] = tuple(plan.tensors[index] for index in indices)
    return ((tensor.name, (tensor.dtype, tensor.shape)) for tensor in tensors)
