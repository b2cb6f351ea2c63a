"""The small languages of command-line options: shapes, batch sizes, lists of names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from top_tvm.errors import TopTVMError


class UsageError(TopTVMError):
    """An option has a value that cannot be understood."""


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]] | None:
    """Parse ``NAME=1,3,224,224`` options."""
    shapes = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        try:
            shape = tuple(int(size) for size in sizes.split(","))
        except ValueError:
            shape = ()
        if not name or not shape or min(shape) < 1:
            raise UsageError(f"--shape {text}: expected NAME=1,3,224,224 with positive sizes")
        shapes[name] = shape
    return shapes or None


def parse_batches(text: str) -> tuple[int, ...]:
    """Parse ``1,4``."""
    try:
        batches = tuple(int(size) for size in text.split(","))
    except ValueError:
        batches = (0,)
    if min(batches) < 1 or len(set(batches)) < len(batches):
        raise UsageError(f"--batch {text}: expected different positive sizes such as 1,4")
    return batches


def parse_names(text: str) -> list[str]:
    """Parse ``a,b``; an empty text names nothing."""
    return [name.strip() for name in text.split(",") if name.strip()]


def unique_names(names: Sequence[str]) -> list[str]:
    """Number the repetitions: ``a``, ``b``, ``a #2``."""
    return [
        name if name not in names[:index] else f"{name} #{names[: index + 1].count(name)}"
        for index, name in enumerate(names)
    ]


def check_file(path: str) -> None:
    """Refuse a path that is not a file."""
    if not Path(path).is_file():
        raise UsageError(f"{path}: there is no such file")


def check_choices(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Refuse a name that is not known, and list those that are."""
    for name in given:
        if name not in known:
            raise UsageError(f"{option}: {name!r} is not one of {', '.join(known)}")
