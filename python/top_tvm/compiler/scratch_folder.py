"""A folder for the files of a compilation, of which nothing accumulates when builds are killed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "top_tvm-"
# Between the creation of a folder and its lock passes less.
_STALE_SECONDS = 60.0


@contextmanager
def scratch_folder(nbytes: int) -> Iterator[Path]:
    """A new folder that goes with the block; those of processes that were killed go first.

    Raises
    ------
    OSError
        If it cannot be made, or there is no room for so many bytes: LLVM ends the whole process
        when it cannot write a file.
    """
    parent = Path(tempfile.gettempdir())
    _remove_stale(parent)
    free = shutil.disk_usage(parent).free
    if free < nbytes:
        message = f"{free / 1e6:.0f} MB are free, some {nbytes / 1e6:.0f} MB are needed"
        raise OSError(errno.ENOSPC, message, str(parent))
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name:
        lock = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield Path(name)
        finally:
            os.close(lock)


def _remove_stale(parent: Path) -> None:
    """Remove old folders that no process has locked."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another process removes it, or it is another user's
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                status = os.fstat(lock)
                if status.st_uid == os.getuid() and time.time() - status.st_mtime > _STALE_SECONDS:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
            finally:
                os.close(lock)
