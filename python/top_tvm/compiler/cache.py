"""Measurements kept on disk between builds: one JSON file per device.

Readers need no lock, as files are only ever replaced by a rename; writers take a lock file, so that
concurrent builds merge what they measured. A cache that cannot be written costs a warning, once.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import tempfile
from pathlib import Path
from typing import Any

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
                fcntl.flock(lock, fcntl.LOCK_EX)
                self.entries = self._read() | self.entries
                self._write()
        except OSError as error:
            if self.path not in _WARNED:
                _WARNED.add(self.path)
                _LOG.warning(
                    "measurements are not kept, the next build measures again: %s: %s",
                    self.path,
                    error.strerror,
                )

    def _read(self) -> dict[str, Any]:
        try:
            entries = json.loads(self.path.read_bytes())
        except (OSError, ValueError):  # none yet, or damaged: measure again
            return {}
        return entries if isinstance(entries, dict) else {}

    def _write(self) -> None:
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.stem)
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(self.entries, file)
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
