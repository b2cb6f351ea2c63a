"""``mix.top``: several models, and the variants of executing their tasks, in one file.

Parts and checks are as in the file of one model (:mod:`top_tvm.artifact`). ``weights.safetensors``
and ``kernels.so`` are those of all models; ``models/INDEX/plans/BATCH.json`` and
``models/INDEX/profiles/BATCH.json`` are those of one; ``variants/NUMBER.json`` are further plans,
each of them stored once, however many variants and lanes use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path

import numpy as np

from top_tvm.artifact import (
    Artifact,
    Metadata,
    add_model,
    check_cpu,
    read_artifact,
    read_model,
)
from top_tvm.container import sealed
from top_tvm.errors import ArtifactError
from top_tvm.file_parts import (
    FILE_FORMAT,
    KERNELS,
    Digest,
    PartReader,
    PartWriter,
    load_errors,
    open_parts,
    save_errors,
)
from top_tvm.mix import Lane, Mix, Mode, ModelVariant, Variant
from top_tvm.mix_check import MAX_MODELS, check_mix
from top_tvm.plan import Plan
from top_tvm.weights import Array


@dataclass(frozen=True)
class _LaneRecord:
    first_stream: int
    plans: dict[str, tuple[str, ...]]  # names of parts by batch size


@dataclass(frozen=True)
class _ModelRecord:
    segments: int
    lanes: tuple[_LaneRecord, ...]
    batch_sizes: tuple[int, ...]


@dataclass(frozen=True)
class _VariantRecord:
    id: str
    mode: Mode
    streams: int
    in_flight: int
    models: tuple[_ModelRecord, ...]
    period_us: float
    capacity_per_s: float
    memory_bytes: int


@dataclass(frozen=True)
class _MixMetadata:
    format: int
    names: tuple[str, ...]
    models: tuple[Metadata, ...]
    variants: tuple[_VariantRecord, ...]


@dataclass(frozen=True)
class _Document:
    """Content of ``metadata.json``."""

    mix: _MixMetadata
    parts: dict[str, Digest]


def save(mix: Mix, path: str | PathLike[str]) -> None:
    """Write a mix; the same mix always gives the same bytes.

    As :func:`top_tvm.artifact.save`, this leaves the old file or the new one, whatever goes wrong.

    Raises
    ------
    ArtifactError
        If the mix is not consistent, or the file cannot be written.
    """
    path = Path(path)
    with save_errors(path):
        parts = _name_plans(mix)
        for plan in parts.plans.values():
            plan.validate()
        check_mix(mix)
        constants, kernels = _shared(mix)
        records = tuple(_record(variant, tuple(mix.models), parts) for variant in mix.variants)
        with sealed(path) as file:
            writer = PartWriter(file)
            writer.add_weights(constants)
            writer.add(KERNELS, kernels)
            for index, artifact in enumerate(mix.models.values()):
                add_model(writer, _folder(index), artifact)
            for name, plan in parts.plans.items():
                if name.startswith(_VARIANTS):
                    writer.add(name, plan.to_json().encode())
            metadata = tuple(artifact.metadata for artifact in mix.models.values())
            described = _MixMetadata(FILE_FORMAT, tuple(mix.models), metadata, records)
            writer.add_metadata(_Document(described, writer.digests()))


def load(path: str | PathLike[str], *, any_cpu: bool = False) -> Artifact | Mix:
    """Read and check a file of one model or of a mix; constants are mapped into memory.

    Parameters are those of :func:`top_tvm.artifact.load`.

    Raises
    ------
    ArtifactError
        If the file is missing, damaged, of another format version, or uses CPU features that this
        machine lacks.
    """
    path = Path(path)
    with load_errors(path):
        parts = open_parts(path)
        if parts.holds_mix:
            return _read(parts, any_cpu=any_cpu)
        return read_artifact(parts, any_cpu=any_cpu)


_VARIANTS = "variants/"


def _folder(index: int) -> str:
    return f"models/{index}/"


class _PlanNames:
    """Parts by name, and the name of each plan; equal plans have one."""

    def __init__(self) -> None:
        self.plans: dict[str, Plan] = {}
        self._by_text: dict[str, str] = {}
        self._by_id: dict[int, str] = {}

    def add(self, plan: Plan, name: str) -> None:
        """Give a plan this name, unless it, or an equal one, has another."""
        if id(plan) not in self._by_id:
            name = self._by_text.setdefault(plan.to_json(), name)
            self._by_id[id(plan)] = name
            self.plans.setdefault(name, plan)

    def of(self, plan: Plan) -> str:
        return self._by_id[id(plan)]


def _name_plans(mix: Mix) -> _PlanNames:
    parts = _PlanNames()
    for index, artifact in enumerate(mix.models.values()):
        for batch, plan in sorted(artifact.plans.items()):
            parts.add(plan, f"{_folder(index)}plans/{batch}.json")
    number = 0
    for variant in mix.variants:
        for model in variant.models.values():
            for lane in model.lanes:
                for plan in (plan for _, plans in sorted(lane.plans.items()) for plan in plans):
                    name = f"{_VARIANTS}{number}.json"
                    parts.add(plan, name)
                    number += name in parts.plans
    return parts


def _shared(mix: Mix) -> tuple[dict[str, Array], bytes]:
    """Constants of all models, and their one kernel library."""
    constants: dict[str, Array] = {}
    libraries = {artifact.kernels for artifact in mix.models.values()}
    if len(libraries) > 1:
        raise ArtifactError("the models have different kernel libraries")
    for name, artifact in mix.models.items():
        for key, array in artifact.constants.items():
            known = constants.setdefault(key, array)
            if known is not array and not _same(known, array):
                raise ArtifactError(f"model {name!r}: another one has another constant {key!r}")
    return constants, libraries.pop()


def _same(first: Array, second: Array) -> bool:
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    one, other = (np.ascontiguousarray(array).reshape(-1) for array in (first, second))
    return bool(np.array_equal(one.view(np.uint8), other.view(np.uint8)))


def _record(variant: Variant, names: tuple[str, ...], parts: _PlanNames) -> _VariantRecord:
    def lane_record(lane: Lane) -> _LaneRecord:
        named = {
            str(batch): tuple(map(parts.of, plans)) for batch, plans in sorted(lane.plans.items())
        }
        return _LaneRecord(lane.first_stream, named)

    models = tuple(
        _ModelRecord(model.segments, tuple(map(lane_record, model.lanes)), model.batch_sizes)
        for model in (variant.models[name] for name in names)
    )
    others = {f.name: getattr(variant, f.name) for f in fields(Variant) if f.name != "models"}
    return _VariantRecord(models=models, **others)


def _read(parts: PartReader, *, any_cpu: bool) -> Mix:
    description = parts.document(_Document)
    described = description.mix
    for metadata in described.models:
        check_cpu(metadata, any_cpu=any_cpu)
    names = described.names
    if len(names) != len(described.models) or len(set(names)) != len(names):
        raise ArtifactError("metadata.json: the names of the models are not one each")
    if len(names) > MAX_MODELS:
        raise ArtifactError(f"{len(names)} models; at most {MAX_MODELS} are read")
    parts.check_digests(description.parts)
    constants, kernels = parts.weights(), parts.take(KERNELS)
    models: dict[str, Artifact] = {}
    plans: dict[str, Plan] = {}
    for index, (name, metadata) in enumerate(zip(names, described.models, strict=True)):
        artifact = read_model(parts, _folder(index), metadata, kernels, constants)
        plans |= {f"{_folder(index)}plans/{b}.json": plan for b, plan in artifact.plans.items()}
        models[name] = artifact
    for number in parts.numbers(_VARIANTS):
        plans[f"{_VARIANTS}{number}.json"] = parts.plan(f"{_VARIANTS}{number}.json")
    parts.check_all_taken()
    variants = tuple(_variant(record, names, plans) for record in described.variants)
    mix = Mix(models, variants)
    check_mix(mix)
    return mix


def _variant(record: _VariantRecord, names: tuple[str, ...], plans: Mapping[str, Plan]) -> Variant:
    if len(record.models) != len(names):
        raise ArtifactError(
            f"variant {record.id!r:.80}: {len(record.models)} models, the mix has {len(names)}"
        )

    def find(name: str) -> Plan:
        if name not in plans:
            raise ArtifactError(f"variant {record.id!r:.80}: there is no plan {name!r:.80}")
        return plans[name]

    def lane(lane_record: _LaneRecord, batch_sizes: tuple[int, ...]) -> Lane:
        size_of = {str(batch): batch for batch in batch_sizes}
        if lane_record.plans.keys() != size_of.keys():
            raise ArtifactError(
                f"variant {record.id!r:.80}: a lane has plans for batch "
                f"{', '.join(lane_record.plans)!r:.80}, expected {', '.join(size_of)!r:.80}"
            )
        found = {size_of[size]: tuple(map(find, p)) for size, p in lane_record.plans.items()}
        return Lane(lane_record.first_stream, found)

    models = {
        name: ModelVariant(
            model.segments,
            tuple(lane(lane_record, model.batch_sizes) for lane_record in model.lanes),
            model.batch_sizes,
        )
        for name, model in zip(names, record.models, strict=True)
    }
    others = {f.name: getattr(record, f.name) for f in fields(Variant) if f.name != "models"}
    return Variant(models=models, **others)
