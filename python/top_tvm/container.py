"""A sealed archive of named parts: a ZIP file in which every byte is covered by a checksum.

Any unzip program reads it. What this module accepts is narrower: parts are stored, never compressed
or encrypted, so nothing can expand, and nothing is extracted by name, so no name can escape. The
writer of the parts checks their content by a digest per part; the *seal*, a digest in the archive's
comment, covers all bytes between the parts and the metadata part, which holds those digests.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from top_tvm.errors import ArtifactError
from top_tvm.replace_file import replacing

METADATA = "metadata.json"

# One chunk of a part; large parts are written from arrays without joining them in memory.
Chunk = bytes | memoryview

_SEAL_PREFIX = b"top_tvm seal "
_SEAL_HEX = 64
_LOCAL_HEADER_BYTES = 30
_MAX_PARTS = 10_000
_MAX_DIRECTORY_BYTES = 4 * 2**20
_FIXED_DATE = (1980, 1, 1, 0, 0, 0)  # the same artifact gives the same file


class Part:
    """Where a part lies in the file, and its digest."""

    def __init__(self, offset: int, nbytes: int, sha256: str) -> None:
        self.offset = offset
        self.nbytes = nbytes
        self.sha256 = sha256


class Writer:
    """Appends parts to a file; :func:`sealed` makes it and finishes the file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        self.parts: dict[str, Part] = {}

    def add(self, name: str, nbytes: int, chunks: Callable[[int], Iterable[Chunk]]) -> None:
        """Append a part.

        Parameters
        ----------
        name : str
            Unique name.
        nbytes : int
            Its size, or an upper bound.
        chunks : callable
            Gets the offset at which the part begins in the file, and returns its content.
        """
        info = zipfile.ZipInfo(name, _FIXED_DATE)
        info.create_system = 3  # Unix, whatever the host
        info.external_attr = 0o644 << 16
        info.file_size = nbytes
        digest = hashlib.sha256()
        with self._zip.open(info, "w") as part:
            offset = self._file.tell()
            for chunk in chunks(offset):
                digest.update(chunk)
                part.write(chunk)
            written = self._file.tell() - offset
        self.parts[name] = Part(offset, written, digest.hexdigest())

    def abandon(self) -> None:
        """Let go of the file, while it is open, after a failure."""
        # zipfile would write its directory when it is collected, and complain of a closed file.
        with suppress(OSError, ValueError):
            self._zip.close()

    def close(self) -> None:
        """Write the directory and the seal."""
        self._zip.comment = _SEAL_PREFIX + bytes(_SEAL_HEX)
        self._zip.close()
        self._file.flush()
        size = self._file.seek(0, os.SEEK_END)
        digest = hashlib.sha256()
        for begin, end in _sealed_ranges(self.parts, size):
            self._file.seek(begin)
            digest.update(self._file.read(end - begin))
        self._file.seek(size - _SEAL_HEX)
        self._file.write(digest.hexdigest().encode())


@contextmanager
def sealed(path: Path) -> Iterator[Writer]:
    """Write a sealed archive that appears at ``path`` complete or not at all."""
    with replacing(path) as file:
        writer = Writer(file)
        try:
            yield writer
            writer.close()
        except BaseException:
            writer.abandon()
            raise


def open_sealed(data: memoryview, file: IO[bytes]) -> dict[str, memoryview]:
    """Find the parts of an archive and check its seal, but not the parts' own digests.

    Parameters
    ----------
    data : memoryview
        The whole file.
    file : binary file
        The same file, for reading its directory.

    Returns
    -------
    dict of str to memoryview
        Content by name, in the order of the file.

    Raises
    ------
    ArtifactError
        If the file is not such an archive, or is damaged.
    """
    try:
        # zipfile takes any object with these methods.
        with zipfile.ZipFile(cast("IO[bytes]", _DirectoryReader(file))) as archive:
            entries, comment = archive.infolist(), archive.comment
        parts = {entry.filename: _locate(entry, data) for entry in entries}
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error) as error:
        raise ArtifactError(f"damaged, or not a .top file: {error}") from error
    if len(parts) != len(entries):
        raise ArtifactError("damaged: two parts have the same name")
    if len(parts) > _MAX_PARTS:
        raise ArtifactError(f"damaged: {len(parts)} parts; at most {_MAX_PARTS} are expected")
    if not comment.startswith(_SEAL_PREFIX) or len(comment) != len(_SEAL_PREFIX) + _SEAL_HEX:
        raise ArtifactError("not a .top file: it has no seal")
    digest = hashlib.sha256()
    for begin, end in _sealed_ranges(parts, len(data)):
        digest.update(data[begin:end])
    if digest.hexdigest().encode() != comment[-_SEAL_HEX:]:
        raise ArtifactError("damaged: the checksum of its structure or metadata does not match")
    return {name: data[p.offset : p.offset + p.nbytes] for name, p in parts.items()}


class _DirectoryReader:
    """A file from which zipfile reads no directory that would take long and much memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self.seek = file.seek
        self.tell = file.tell
        self._file = file

    def seekable(self) -> bool:
        return True

    def read(self, nbytes: int = -1) -> bytes:
        if nbytes > _MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(
                f"a directory of {nbytes} bytes; at most {_MAX_DIRECTORY_BYTES} are read"
            )
        return self._file.read(nbytes)


def _locate(entry: zipfile.ZipInfo, data: memoryview) -> Part:
    """Where the content of an entry lies; the directory knows only where its header does."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise zipfile.BadZipFile(f"part {entry.filename!r:.80} is compressed")
    if entry.flag_bits & ~0x800:  # all but "the name is UTF-8"
        raise zipfile.BadZipFile(f"part {entry.filename!r:.80} has flags {entry.flag_bits:#x}")
    header = data[entry.header_offset : entry.header_offset + _LOCAL_HEADER_BYTES]
    name_bytes, extra_bytes = struct.unpack_from("<HH", header, 26)
    offset = entry.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes
    if entry.header_offset < 0 or offset + entry.file_size > len(data):
        raise zipfile.BadZipFile(f"part {entry.filename!r:.80} ends outside the file")
    return Part(offset, entry.file_size, "")


def _sealed_ranges(parts: dict[str, Part], size: int) -> Iterator[tuple[int, int]]:
    """All of a file but the seal's digest and the parts that the metadata holds digests of."""
    begin = 0
    others = (part for name, part in parts.items() if name != METADATA)
    for part in sorted(others, key=lambda part: (part.offset, part.nbytes)):
        if part.offset < begin:
            raise ArtifactError("damaged: two parts overlap")
        yield begin, part.offset
        begin = part.offset + part.nbytes
    yield begin, size - _SEAL_HEX
