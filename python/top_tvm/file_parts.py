"""The parts of ``.top`` files: reading and writing them one by one, with limits and checksums."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from top_tvm.container import METADATA, Writer, open_sealed
from top_tvm.errors import ArtifactError, PlanError
from top_tvm.plan import Plan
from top_tvm.strict_json import StrictJSONError, decode, encode, parse
from top_tvm.weights import Array, decode_weights, encode_weights, encoded_bytes

FILE_FORMAT = 4
KERNELS = "kernels.so"
WEIGHTS = "weights.safetensors"
# Parsed JSON takes up to 30 times its size. A plan of 1,000 ops has some 0.6 MB.
_MAX_JSON_BYTES = 64 * 2**20  # of all plans, profiles and the metadata together
_MAX_KERNELS_BYTES = 256 * 2**20  # they are copied to a file for the dynamic loader

T = TypeVar("T")


@dataclass(frozen=True)
class Digest:
    """Size and checksum of a part."""

    nbytes: int
    sha256: str


@contextmanager
def save_errors(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is written into errors that name it."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(f"{path}: cannot write: {error.strerror or error}") from error
    except (ArtifactError, PlanError, StrictJSONError) as error:
        raise ArtifactError(f"{path}: not saved: {error}") from error


@contextmanager
def load_errors(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read into errors that name it."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(f"{path}: cannot read: {error.strerror or error}") from error
    except (ArtifactError, PlanError) as error:
        raise ArtifactError(f"{path}: {error}") from error


class PartWriter:
    """Writes parts, and checks what a reader would refuse."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._json_bytes = 0

    def add(self, name: str, content: bytes) -> None:
        """Append a part."""
        if name.endswith(".json"):
            self._json_bytes += len(content)
        _check_sizes(self._json_bytes, len(content) if name == KERNELS else 0)
        self._writer.add(name, len(content), lambda _: (content,))

    def add_json(self, name: str, value: object) -> None:
        """Append a dataclass."""
        self.add(name, (json.dumps(encode(value), indent=1) + "\n").encode())

    def add_weights(self, constants: Mapping[str, Array]) -> None:
        """Append the constants."""
        self._writer.add(
            WEIGHTS, encoded_bytes(constants), lambda offset: encode_weights(constants, offset)
        )

    def digests(self) -> dict[str, Digest]:
        """What the metadata says of the parts so far."""
        return {name: Digest(p.nbytes, p.sha256) for name, p in self._writer.parts.items()}

    def add_metadata(self, value: object) -> None:
        """Append the last part."""
        self.add_json(METADATA, value)


def open_parts(path: Path) -> PartReader:
    """Map a file into memory and find its parts; their digests are not checked yet."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        # Reading from a pipe or a terminal would wait for somebody to write.
        raise ArtifactError("is not a regular file")
    with path.open("rb") as file:
        if not file.read(1):
            raise ArtifactError("the file is empty")
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return PartReader(open_sealed(data, file))


class PartReader:
    """Reads the parts of a file, each at most once."""

    def __init__(self, parts: dict[str, memoryview]) -> None:
        if METADATA not in parts:
            raise ArtifactError(f"damaged, or not a .top file: it has no {METADATA}")
        json_bytes = sum(len(content) for name, content in parts.items() if name.endswith(".json"))
        _check_sizes(json_bytes, len(parts.get(KERNELS, b"")))
        self._parts = parts
        self._document = _parse(METADATA, parts.pop(METADATA))
        self._taken: set[str] = set()
        _check_format(self._document)

    @property
    def holds_mix(self) -> bool:
        """Whether the file is one of a mix of models."""
        return isinstance(self._document, dict) and "mix" in self._document

    def document(self, kind: type[T]) -> T:
        """Content of the metadata."""
        return _decode(METADATA, kind, self._document)

    def check_digests(self, digests: Mapping[str, Digest]) -> None:
        """Check that the file has these parts, and that they are undamaged."""
        _check_names(self._parts.keys() ^ digests.keys())
        for name, content in self._parts.items():
            digest = digests[name]
            if (
                len(content) != digest.nbytes
                or hashlib.sha256(content).hexdigest() != digest.sha256
            ):
                raise ArtifactError(f"damaged: the checksum of {name} does not match")

    def take(self, name: str) -> bytes:
        """Content of a part."""
        return bytes(self._view(name))

    def weights(self) -> dict[str, Array]:
        """The constants, mapped."""
        return decode_weights(self._view(WEIGHTS))

    def plan(self, name: str) -> Plan:
        """Read and validate a plan."""
        try:
            return Plan.from_json(self.take(name))
        except PlanError as error:
            raise ArtifactError(f"{name}: {error}") from error

    def json(self, kind: type[T], name: str) -> T:
        """Read a dataclass."""
        return _decode(name, kind, _parse(name, self._view(name)))

    def numbers(self, folder: str) -> list[int]:
        """The n of parts ``FOLDERn.json``, in the order of the file."""
        names = (name for name in self._parts if name.startswith(folder))
        stems = (name.removeprefix(folder).removesuffix(".json") for name in names)
        found = (int(s) for s in stems if s.isascii() and s.isdigit() and len(s) < 10)
        return [number for number in found if f"{folder}{number}.json" in self._parts]

    def check_all_taken(self) -> None:
        """Check that there is no part that nobody read."""
        _check_names(self._parts.keys() - self._taken)

    def _view(self, name: str) -> memoryview:
        if name not in self._parts:
            raise ArtifactError(f"damaged: parts are missing or unknown: {name}")
        self._taken.add(name)
        return self._parts[name]


def _check_names(different: set[str]) -> None:
    if different:
        listed = ", ".join(sorted(different))
        raise ArtifactError(f"damaged: parts are missing or unknown: {listed}")


def _check_sizes(json_bytes: int, kernels_bytes: int) -> None:
    """Refuse what would take much memory or time to read."""
    for what, nbytes, limit in (
        ("plans, profiles and metadata", json_bytes, _MAX_JSON_BYTES),
        (KERNELS, kernels_bytes, _MAX_KERNELS_BYTES),
    ):
        if nbytes > limit:
            raise ArtifactError(f"{nbytes} bytes of {what}; at most {limit} are read")


def _check_format(document: object) -> None:
    """Tell a newer file from a damaged one, before anything else of it is understood."""
    version = None
    if isinstance(document, dict):
        described = document.get("metadata", document.get("mix"))
        version = described.get("format") if isinstance(described, dict) else None
    if type(version) is not int:
        raise ArtifactError("damaged, or not a .top file: it has no format version")
    if version > FILE_FORMAT:
        raise ArtifactError(
            f"format version {version} is newer than {FILE_FORMAT}, the newest that this "
            "top_tvm reads: upgrade top_tvm"
        )
    if version != FILE_FORMAT:
        raise ArtifactError(f"format version {version} is no longer read: build the model again")


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
