"""``model.top``: everything that running a model needs, in one file.

A sealed ZIP archive (:mod:`top_tvm.container`) of, in this order, ``weights.safetensors`` (aligned
and mapped on load, :mod:`top_tvm.weights`), ``kernels.so``, ``plans/BATCH.json``,
``profiles/BATCH.json`` and ``metadata.json``, which holds a SHA-256 of every other part. Everything
is checked on load, and nothing in a file is executed by loading it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path

from top_tvm.container import sealed
from top_tvm.cost import DeviceModel, OpCost
from top_tvm.device import missing_features
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
from top_tvm.plan import Plan
from top_tvm.plan_check import MAX_STREAMS
from top_tvm.roofline import Roofline
from top_tvm.weights import Array


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of an input or output, the shape for the smallest batch size."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class OpProfile:
    """What one op was measured to cost, alone on the device, and when a run should come to it.

    Attributes
    ----------
    name : str
        Op of the plan.
    flops, nbytes : int
        Arithmetic operations, and bytes that must be read and written.
    single_us, gang_us : float
        Time in microseconds on one thread and on all; infinite where there is no such form.
    origin : str
        The ONNX nodes or Relax operators that the op came from.
    predicted_start_us, predicted_end_us : float
        When the simulator has it run under the plan, in microseconds since the run was requested;
        infinite where that is not known.
    single_bandwidth, gang_bandwidth, single_compute, gang_compute : float
        Demands of either form on what ops side by side share, 0 to 1: see :class:`OpCost`.
    """

    name: str
    flops: int
    nbytes: int
    single_us: float
    gang_us: float
    origin: str
    predicted_start_us: float = math.inf
    predicted_end_us: float = math.inf
    single_bandwidth: float = 0.0
    gang_bandwidth: float = 0.0
    single_compute: float = 0.0
    gang_compute: float = 0.0

    @property
    def cost(self) -> OpCost:
        """What the simulator needs to know of the op."""
        return OpCost(
            self.single_us,
            self.gang_us,
            self.single_bandwidth,
            self.gang_bandwidth,
            self.single_compute,
            self.gang_compute,
        )


@dataclass(frozen=True)
class Metadata:
    """What an artifact is and needs.

    Attributes
    ----------
    name : str
        Name of the model.
    target : str
        What it was compiled for, e.g. ``"cpu"``.
    cpu_features : tuple of str
        CPU features that the kernels use, as Linux names them (``avx2``, ``avx512f``).
    libraries : dict of str to str
        Version of each kernel library that the plans call, e.g. ``{"onednn": "3.2.0"}``.
    creator : str
        What made the file, with its version.
    inputs, outputs : tuple of TensorSpec
        In the order of the model.
    format : int
        Version of the file's layout.
    roofline : Roofline
        Limits of the machine on which the profiles were measured.
    device : DeviceModel
        What synchronisation costs on that machine; all zero where that is not known.
    """

    name: str
    target: str
    cpu_features: tuple[str, ...]
    libraries: dict[str, str]
    creator: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    format: int = FILE_FORMAT
    roofline: Roofline = field(default_factory=Roofline)
    device: DeviceModel = field(default_factory=lambda: DeviceModel(streams=1))


@dataclass(frozen=True, eq=False)
class Artifact:
    """A compiled model.

    Attributes
    ----------
    metadata : Metadata
        What it is and needs.
    kernels : bytes
        ELF shared library of the TVM kernels; empty if the plans use none.
    constants : mapping of str to numpy.ndarray
        Weights by the key that plans use. Those of a loaded artifact lie in the mapped file:
        read-only, at multiples of 64 bytes.
    plans : mapping of int to Plan
        By batch size.
    profiles : mapping of int to tuple of OpProfile
        By batch size, for those that were measured.
    """

    metadata: Metadata
    kernels: bytes
    constants: Mapping[str, Array]
    plans: Mapping[int, Plan]
    profiles: Mapping[int, tuple[OpProfile, ...]]


@dataclass(frozen=True)
class _Profile:
    ops: tuple[OpProfile, ...]


@dataclass(frozen=True)
class _Document:
    """Content of ``metadata.json``."""

    metadata: Metadata
    parts: dict[str, Digest]


def save(artifact: Artifact, path: str | PathLike[str]) -> None:
    """Write an artifact; the same artifact always gives the same bytes.

    A file that exists at ``path`` is replaced at the very end, in one step: whatever goes wrong, it
    is either the old or the new one. Loaded artifacts go on using the old file.

    Raises
    ------
    ArtifactError
        If the artifact is not consistent, or the file cannot be written.
    """
    path = Path(path)
    with save_errors(path):
        for plan in artifact.plans.values():
            plan.validate()
        check_artifact(artifact)
        with sealed(path) as file:
            writer = PartWriter(file)
            writer.add_weights(artifact.constants)
            writer.add(KERNELS, artifact.kernels)
            add_model(writer, "", artifact)
            writer.add_metadata(_Document(artifact.metadata, writer.digests()))


def load(path: str | PathLike[str], *, any_cpu: bool = False) -> Artifact:
    """Read and check an artifact; its constants are mapped into memory, not copied.

    The file may be replaced (by :func:`save` or a rename) while the artifact is in use, but must
    not be changed in place.

    Parameters
    ----------
    path : str or path-like
        The file.
    any_cpu : bool
        Also read files for CPUs with more than this one has, to look at what must not run here.

    Raises
    ------
    ArtifactError
        If the file is missing, damaged, of another format version, or uses CPU features that this
        machine lacks; or if it holds a mix of models, which :func:`top_tvm.load` reads.
    """
    path = Path(path)
    with load_errors(path):
        return read_artifact(open_parts(path), any_cpu=any_cpu)


def read_artifact(parts: PartReader, *, any_cpu: bool) -> Artifact:
    """Read the parts of a file that holds one model."""
    if parts.holds_mix:
        raise ArtifactError("it holds a mix of models: load it with top_tvm.load")
    description = parts.document(_Document)
    check_cpu(description.metadata, any_cpu=any_cpu)
    parts.check_digests(description.parts)
    constants, kernels = parts.weights(), parts.take(KERNELS)
    artifact = read_model(parts, "", description.metadata, kernels, constants)
    parts.check_all_taken()
    check_artifact(artifact)
    return artifact


def check_cpu(metadata: Metadata, *, any_cpu: bool) -> None:
    """Refuse kernels that this machine cannot execute."""
    missing = missing_features(metadata.cpu_features)
    if missing and not any_cpu:
        raise ArtifactError(
            f"this machine's CPU lacks {', '.join(missing)}, which the kernels use: build the "
            "model on this machine"
        )


def add_model(writer: PartWriter, folder: str, artifact: Artifact) -> None:
    """Write the plans and profiles of a model."""
    for batch, plan in sorted(artifact.plans.items()):
        writer.add(f"{folder}plans/{batch}.json", plan.to_json().encode())
    for batch, profile in sorted(artifact.profiles.items()):
        writer.add_json(f"{folder}profiles/{batch}.json", _Profile(profile))


def read_model(
    parts: PartReader,
    folder: str,
    metadata: Metadata,
    kernels: bytes,
    constants: Mapping[str, Array],
) -> Artifact:
    """Read the plans and profiles of a model, and join them with what is shared."""
    plans = {
        batch: parts.plan(f"{folder}plans/{batch}.json")
        for batch in parts.numbers(f"{folder}plans/")
    }
    profiles = {
        batch: parts.json(_Profile, f"{folder}profiles/{batch}.json").ops
        for batch in parts.numbers(f"{folder}profiles/")
    }
    return Artifact(metadata, kernels, constants, plans, profiles)


def check_artifact(artifact: Artifact) -> None:
    """Check that plans, profiles and metadata fit each other.

    Raises
    ------
    ArtifactError
        Saying what does not fit.
    """
    if not artifact.plans:
        raise ArtifactError("there is no plan")
    _check_metadata(artifact.metadata)
    for batch, plan in artifact.plans.items():
        if plan.batch != batch:
            raise ArtifactError(f"plan for batch {batch}: it says batch {plan.batch}")
        _check_plan_fits(artifact, plan, exact=batch == min(artifact.plans))
    for batch, profile in artifact.profiles.items():
        if batch not in artifact.plans:
            raise ArtifactError(f"profile for batch {batch}: there is no such plan")
        for op in profile:
            _check_profile(batch, op)


def _check_metadata(metadata: Metadata) -> None:
    if metadata.format != FILE_FORMAT:
        raise ArtifactError(f"metadata: format is {metadata.format}, expected {FILE_FORMAT}")
    if not all(limit > 0 for limit in asdict(metadata.roofline).values()):
        raise ArtifactError(f"metadata: not all limits are positive: {metadata.roofline}")
    device = metadata.device
    streams = 1 <= device.streams <= MAX_STREAMS
    if not streams or not all(0 <= overhead < math.inf for overhead in device.overheads_us):
        raise ArtifactError(f"metadata: there is no such device: {device}")


def _check_profile(batch: int, op: OpProfile) -> None:
    times = (op.single_us, op.gang_us, op.predicted_start_us, op.predicted_end_us)
    numbers = (op.flops, op.nbytes, *times)
    if not all(number >= 0 for number in numbers):  # nor NaN
        raise ArtifactError(f"profile for batch {batch}: op {op.name!r} has costs {numbers}")
    cost = op.cost
    demands = (cost.single_bandwidth, cost.gang_bandwidth, cost.single_compute, cost.gang_compute)
    if not all(0 <= demand <= 1 for demand in demands):
        raise ArtifactError(f"profile for batch {batch}: op {op.name!r} has demands {demands}")


def _check_plan_fits(artifact: Artifact, plan: Plan, *, exact: bool) -> None:
    """Check a plan against what it refers to; ``exact``: the specifications have its shapes."""
    place = f"plan for batch {plan.batch}"
    check_references(artifact, plan, place)
    metadata = artifact.metadata
    for role, indices, specs in (
        ("inputs", plan.inputs, metadata.inputs),
        ("outputs", plan.outputs, metadata.outputs),
    ):
        tensors = [plan.tensors[index] for index in indices]
        found = [(t.name, t.dtype, t.shape if exact else ()) for t in tensors]
        expected = [(s.name, s.dtype, s.shape if exact else ()) for s in specs]
        if found != expected:
            raise ArtifactError(f"{place}: its {role} are {found}, the metadata's {expected}")


def check_references(artifact: Artifact, plan: Plan, place: str) -> None:
    """Check that there are the constants and kernels that a plan uses; ``place`` is for messages.

    Raises
    ------
    ArtifactError
        Naming what is missing.
    """
    for tensor in plan.tensors:
        if tensor.space == "constant":
            constant = artifact.constants.get(tensor.storage)
            if constant is None:
                raise ArtifactError(f"{place}: there is no constant {tensor.storage!r}")
            if tensor.offset + tensor.nbytes > constant.nbytes:
                raise ArtifactError(
                    f"{place}: tensor {tensor.name!r} ends after constant {tensor.storage!r}"
                )
    if not artifact.kernels and any(kernel.library == "tvm" for kernel in plan.kernels):
        raise ArtifactError(f"{place}: it calls TVM kernels, but there are none")
