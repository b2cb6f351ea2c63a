"""``model.top``: everything that running a model needs, in one file.

A sealed ZIP archive (:mod:`top_tvm.container`) of, in this order, ``weights.safetensors`` (aligned
and mapped on load, :mod:`top_tvm.weights`), ``kernels.so``, ``plans/BATCH.json``,
``profiles/BATCH.json`` and ``metadata.json``, which holds a SHA-256 of every other part. Everything
is checked on load, and nothing in a file is executed by loading it.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import IO, TypeVar

from top_tvm.container import METADATA, Writer, open_sealed, sealed
from top_tvm.cost import DeviceModel, OpCost
from top_tvm.device import missing_features
from top_tvm.errors import ArtifactError, PlanError
from top_tvm.plan import Plan
from top_tvm.roofline import Roofline
from top_tvm.strict_json import StrictJSONError, decode, encode, parse
from top_tvm.weights import Array, decode_weights, encode_weights, encoded_bytes

ARTIFACT_FORMAT = 3

_WEIGHTS = "weights.safetensors"
_KERNELS = "kernels.so"
# Parsed JSON takes up to 30 times its size. A plan of 1,000 ops has some 0.6 MB.
_MAX_JSON_BYTES = 64 * 2**20  # of all plans, profiles and the metadata together
_MAX_KERNELS_BYTES = 256 * 2**20  # they are copied to a file for the dynamic loader

T = TypeVar("T")


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
    format: int = ARTIFACT_FORMAT
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
class _Digest:
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class _Profile:
    ops: tuple[OpProfile, ...]


@dataclass(frozen=True)
class _Document:
    """Content of ``metadata.json``."""

    metadata: Metadata
    parts: dict[str, _Digest]


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
    try:
        for plan in artifact.plans.values():
            plan.validate()
        _check_consistency(artifact)
        with sealed(path) as writer:
            _write(artifact, writer)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot write: {error.strerror or error}") from error
    except (ArtifactError, PlanError, StrictJSONError) as error:
        raise ArtifactError(f"{path}: not saved: {error}") from error


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
        machine lacks.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        # Reading from a pipe or a terminal would wait for somebody to write.
        raise ArtifactError(f"{path}: is not a regular file")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise ArtifactError("the file is empty")
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            return _read(data, file, any_cpu)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot read: {error.strerror or error}") from error
    except (ArtifactError, PlanError) as error:
        raise ArtifactError(f"{path}: {error}") from error


def _write(artifact: Artifact, writer: Writer) -> None:
    constants = artifact.constants
    writer.add(_WEIGHTS, encoded_bytes(constants), lambda offset: encode_weights(constants, offset))
    _write_bytes(writer, _KERNELS, artifact.kernels)
    for batch, plan in sorted(artifact.plans.items()):
        _write_bytes(writer, _plan_name(batch), plan.to_json().encode())
    for batch, profile in sorted(artifact.profiles.items()):
        _write_bytes(writer, _profile_name(batch), _to_json(_Profile(profile)))
    digests = {name: _Digest(part.nbytes, part.sha256) for name, part in writer.parts.items()}
    _write_bytes(writer, METADATA, _to_json(_Document(artifact.metadata, digests)))


def _read(data: memoryview, file: IO[bytes], any_cpu: bool) -> Artifact:
    parts = open_sealed(data, file)
    if METADATA not in parts:
        raise ArtifactError(f"damaged, or not a .top file: it has no {METADATA}")
    _check_sizes(parts)
    text = parts.pop(METADATA)
    document = _parse(METADATA, text)
    _check_format(document)
    description = _decode(METADATA, _Document, document)
    metadata = description.metadata
    missing = missing_features(metadata.cpu_features)
    if missing and not any_cpu:
        raise ArtifactError(
            f"this machine's CPU lacks {', '.join(missing)}, which the kernels use: build the "
            "model on this machine"
        )
    _check_parts(parts, description.parts)
    plans = {int(b): _read_plan(name, parts[name]) for b, name in _by_batch("plans", parts)}
    profiles = {
        int(b): _decode(name, _Profile, _parse(name, parts[name])).ops
        for b, name in _by_batch("profiles", parts)
    }
    names = {_WEIGHTS, _KERNELS, *map(_plan_name, plans), *map(_profile_name, profiles)}
    if names != parts.keys():
        different = ", ".join(sorted(names ^ parts.keys()))
        raise ArtifactError(f"damaged: parts are missing or unknown: {different}")
    constants = decode_weights(parts[_WEIGHTS])
    artifact = Artifact(metadata, bytes(parts[_KERNELS]), constants, plans, profiles)
    _check_consistency(artifact)
    return artifact


def _check_sizes(parts: Mapping[str, memoryview]) -> None:
    """Refuse what would take much memory or time to read."""
    json_bytes = sum(len(content) for name, content in parts.items() if name.endswith(".json"))
    kernels_bytes = len(parts.get(_KERNELS, b""))
    for what, nbytes, limit in (
        ("plans, profiles and metadata", json_bytes, _MAX_JSON_BYTES),
        (_KERNELS, kernels_bytes, _MAX_KERNELS_BYTES),
    ):
        if nbytes > limit:
            raise ArtifactError(f"damaged: {nbytes} bytes of {what}; at most {limit} are read")


def _check_format(document: object) -> None:
    """Tell a newer file from a damaged one, before anything else of it is understood."""
    metadata = document.get("metadata") if isinstance(document, dict) else None
    version = metadata.get("format") if isinstance(metadata, dict) else None
    if type(version) is not int:
        raise ArtifactError("damaged, or not a .top file: it has no format version")
    if version > ARTIFACT_FORMAT:
        raise ArtifactError(
            f"format version {version} is newer than {ARTIFACT_FORMAT}, the newest that this "
            "top_tvm reads: upgrade top_tvm"
        )
    if version != ARTIFACT_FORMAT:
        raise ArtifactError(f"format version {version} is no longer read: build the model again")


def _check_parts(parts: Mapping[str, memoryview], digests: Mapping[str, _Digest]) -> None:
    if parts.keys() != digests.keys():
        different = ", ".join(sorted(parts.keys() ^ digests.keys()))
        raise ArtifactError(f"damaged: parts are missing or unknown: {different}")
    for name, content in parts.items():
        digest = digests[name]
        if len(content) != digest.nbytes or hashlib.sha256(content).hexdigest() != digest.sha256:
            raise ArtifactError(f"damaged: the checksum of {name} does not match")


def _check_consistency(artifact: Artifact) -> None:
    if not artifact.plans:
        raise ArtifactError("there is no plan")
    if artifact.metadata.format != ARTIFACT_FORMAT:
        raise ArtifactError(
            f"metadata: format is {artifact.metadata.format}, expected {ARTIFACT_FORMAT}"
        )
    if not all(limit > 0 for limit in asdict(artifact.metadata.roofline).values()):
        raise ArtifactError(f"metadata: not all limits are positive: {artifact.metadata.roofline}")
    for batch, plan in artifact.plans.items():
        if plan.batch != batch:
            raise ArtifactError(f"plan for batch {batch}: it says batch {plan.batch}")
        _check_plan_fits(artifact, plan, exact=batch == min(artifact.plans))
    for batch, profile in artifact.profiles.items():
        if batch not in artifact.plans:
            raise ArtifactError(f"profile for batch {batch}: there is no such plan")
        for op in profile:
            times = (op.single_us, op.gang_us, op.predicted_start_us, op.predicted_end_us)
            numbers = (op.flops, op.nbytes, *times)
            if not all(number >= 0 for number in numbers):  # nor NaN
                raise ArtifactError(
                    f"profile for batch {batch}: op {op.name!r} has costs {numbers}"
                )


def _check_plan_fits(artifact: Artifact, plan: Plan, *, exact: bool) -> None:
    """Check a plan against what it refers to; ``exact``: the specifications have its shapes."""
    place = f"plan for batch {plan.batch}"
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


def _plan_name(batch: int) -> str:
    return f"plans/{batch}.json"


def _profile_name(batch: int) -> str:
    return f"profiles/{batch}.json"


def _by_batch(folder: str, names: Iterable[str]) -> list[tuple[str, str]]:
    """Batch sizes, as text, and names of the parts that a folder has for them."""
    stems = ((n.removeprefix(f"{folder}/").removesuffix(".json"), n) for n in names)
    return [(s, n) for s, n in stems if s.isascii() and s.isdigit() and len(s) < 10]


def _read_plan(name: str, content: memoryview) -> Plan:
    try:
        return Plan.from_json(bytes(content))
    except PlanError as error:
        raise ArtifactError(f"{name}: {error}") from error


def _parse(name: str, content: memoryview) -> object:
    try:
        return parse(bytes(content))
    except StrictJSONError as error:
        raise ArtifactError(f"{name}: {error}") from error


def _decode(name: str, kind: type[T], document: object) -> T:
    try:
        return decode(kind, document)
    except StrictJSONError as error:
        raise ArtifactError(f"{name}: {error}") from error


def _to_json(value: object) -> bytes:
    return (json.dumps(encode(value), indent=1) + "\n").encode()


def _write_bytes(writer: Writer, name: str, content: bytes) -> None:
    writer.add(name, len(content), lambda _: (content,))
