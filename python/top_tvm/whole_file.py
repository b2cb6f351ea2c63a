"""Text files that appear complete or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Write a file beside its place and move it there: nobody ever sees half of it.

    Raises
    ------
    OSError
        If it cannot be written; a file that was at ``path`` is still there then.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        # A pipe or a terminal, such as /dev/stdout: not to be replaced by a file.
        path.write_text(text, encoding="utf-8")
        return
    # Not tempfile: its files are private, and the mode would stay when they are renamed.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
