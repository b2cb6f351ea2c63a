"""Measurements kept on disk between builds: one JSON file per device, with a checksum.

Readers need no lock, as files are only ever replaced as a whole; writers take a lock file, so that
concurrent builds merge what they measured. A cache that cannot be written, or is damaged, costs a
warning, once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import time
from pathlib import Path
from typing import IO, Any

from top_tvm.replace_file import replacing

_LOCK_SECONDS = 10.0  # updates take milliseconds
_LOG = logging.getLogger(__name__)
_WARNED: set[Path] = set()


def cache_directory() -> Path:
    """``$TOP_TVM_CACHE_DIR``, else ``$XDG_CACHE_HOME/top_tvm``, else ``~/.cache/top_tvm``."""
    if chosen := os.environ.get("TOP_TVM_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "top_tvm"


class MeasurementCache:
    """Dictionary on disk of what was measured on one device.

    Parameters
    ----------
    device : str
        Identifies the device; part of the file name.
    directory : Path, optional
        Where the files are; :func:`cache_directory` by default.
    """

    def __init__(self, device: str, directory: Path | None = None) -> None:
        folder = directory if directory is not None else cache_directory()
        self.path = folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', device).strip('-')}.json"
        self.entries = self._read()

    def get(self, key: str) -> Any:
        """Value of a key, or None."""
        return self.entries.get(key)

    def update(self, entries: dict[str, Any]) -> None:
        """Add entries, here and on disk, merged with what other processes wrote meanwhile."""
        if not entries:
            return
        self.entries.update(entries)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.with_suffix(".lock").open("w") as lock:
                _take(lock)
                self.entries = self._read() | self.entries
                with replacing(self.path) as file:
                    file.write(_encoded(self.entries))
        except OSError as error:
            _warn_once(
                self.path,
                f"measurements are not kept, the next build measures again: {self.path}: "
                f"{error.strerror or error}",
            )

    def _read(self) -> dict[str, Any]:
        try:
            content = self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            _warn_once(self.path, f"measurements cannot be read: {self.path}: {error.strerror}")
            return {}
        entries = _decoded(content)
        if entries is None:
            _warn_once(self.path, f"{self.path} is damaged: measuring again, and replacing it")
        return entries or {}


def _encoded(entries: dict[str, Any]) -> bytes:
    return json.dumps({"sha256": _checksum(entries), "entries": entries}).encode()


def _decoded(content: bytes) -> dict[str, Any] | None:
    """The entries, or None when they are not those that were written."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    match document:
        case {"sha256": str(checksum), "entries": dict(entries)} if checksum == _checksum(entries):
            return entries
    return None


def _checksum(entries: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _take(lock: IO[str]) -> None:
    """Lock the file, unless another process holds it for longer than anybody needs it."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                message = f"another process has locked {lock.name} for {_LOCK_SECONDS:.0f} s"
                raise OSError(error.errno, message) from error
            time.sleep(0.01)


def _warn_once(path: Path, message: str) -> None:
    if path not in _WARNED:
        _WARNED.add(path)
        _LOG.warning("%s", message)
