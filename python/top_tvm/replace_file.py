"""Replace a file as a whole or not at all, whatever happens meanwhile, and leave nothing behind.

A file is written without a name where the file system can do that (``O_TMPFILE``), so that nothing
of it remains when the process is killed. Elsewhere, and for the moment between complete and in
place, it is called ``.NAME.TOKEN.tmp`` and locked by its writer; what is not locked belongs to
nobody any more and is removed by the next writer.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_UNNAMED = os.O_TMPFILE
_MODE = 0o666  # less the umask, as that of any file; the tempfile module's would be private
# What file systems say that have no unnamed files, and kernels that do not know the flag.
_NO_UNNAMED = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file open for reading and writing, which becomes ``path`` when the block ends well.

    The content is on disk before it takes the place of an existing file, in one step.

    Raises
    ------
    OSError
        If the file cannot be written; an existing one is as it was.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        remove_stale(path)
        name = f".{path.name}.{secrets.token_hex(8)}.tmp"
        descriptor, named = _create(path.parent, name, folder)
        try:
            with os.fdopen(descriptor, "r+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                if not named:
                    # Given a directory, Python follows the symbolic link that this is.
                    os.link(f"/proc/self/fd/{file.fileno()}", name, dst_dir_fd=folder)
                    named = True
                os.replace(name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            if named:
                with suppress(OSError):
                    os.unlink(name, dir_fd=folder)
            raise
        os.fsync(folder)  # the rename, too
    finally:
        os.close(folder)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file that is there as a whole or not at all.

    Raises
    ------
    OSError
        If the file cannot be written; an existing one is as it was.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        # A pipe or a terminal, such as /dev/stdout: not to be replaced by a file.
        path.write_text(text, encoding="utf-8")
        return
    with replacing(path) as file:
        file.write(text.encode())


def remove_stale(path: Path) -> None:
    """Remove what killed processes left when they wanted to replace ``path``."""
    for entry in os.scandir(path.parent):
        if not (entry.name.startswith(f".{path.name}.") and entry.name.endswith(".tmp")):
            continue
        with suppress(OSError):  # another process removes it, or it is not ours to remove
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                Path(entry.path).unlink()
            finally:
                os.close(descriptor)


def _create(directory: Path, name: str, folder: int) -> tuple[int, bool]:
    """A new locked file, and whether it has its name yet."""
    try:
        descriptor = os.open(directory, _UNNAMED | os.O_RDWR | os.O_CLOEXEC, _MODE)
    except OSError as error:
        if error.errno not in _NO_UNNAMED:
            raise
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor, False
    while True:
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        descriptor = os.open(name, flags, _MODE, dir_fd=folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, True
        os.close(descriptor)  # removed as stale before it was locked
