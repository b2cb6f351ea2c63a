"""Options that commands share, and their small languages: shapes, batch sizes, lists of names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from top_tvm.errors import TopTVMError

if TYPE_CHECKING:
    from top_tvm.artifact import Artifact
    from top_tvm.mix import Mix


PARTITIONERS = ("auto", "sequential", "greedy", "list", "ios", "gpg")

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="An ONNX file.")]
FileArgument = Annotated[str, typer.Argument(metavar="FILE.top", help="A compiled model.")]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="NAME=1,3,224,224", help="Shape of an input; repeatable."),
]
StreamsOption = Annotated[
    int, typer.Option("--streams", min=1, help="Streams: worker threads that execute operators.")
]
PrecisionOption = Annotated[
    str,
    typer.Option("--precision", help="fp32, or bf16 where the CPU has AVX512-BF16 or AMX."),
]
ModelOption = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help="Which model of a mix.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of the random inputs.")]


class UsageError(TopTVMError):
    """An option has a value that cannot be understood."""


def examples(*lines: str) -> str:
    """Epilog of a command's help."""
    # \b: keep the line breaks that follow.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


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
    return parse_counts("--batch", text, "1,4")


def parse_counts(option: str, text: str, example: str) -> tuple[int, ...]:
    """Parse different positive numbers."""
    try:
        counts = tuple(int(number) for number in text.split(","))
    except ValueError:
        counts = (0,)
    if min(counts) < 1 or len(set(counts)) < len(counts):
        raise UsageError(f"{option} {text}: expected different positive sizes such as {example}")
    return counts


def parse_models(texts: Sequence[str]) -> str | dict[str, str]:
    """One path, or the paths of a mix by the names of models.

    A file's stem is its model's name; ``NAME=PATH`` gives another.
    """
    if len(texts) == 1 and ("=" not in texts[0] or Path(texts[0]).is_file()):
        check_file(texts[0])
        return texts[0]
    models: dict[str, str] = {}
    for text in texts:
        name, path = Path(text).stem, text
        if not Path(text).is_file() and "=" in text:
            name, _, path = text.partition("=")
        check_file(path)
        if not name or name in models:
            raise UsageError(f"{text}: give every model a name of its own: NAME=PATH")
        models[name] = path
    return models


def split_shapes(
    shapes: Mapping[str, tuple[int, ...]] | None, models: Collection[str]
) -> dict[str, dict[str, tuple[int, ...]]] | None:
    """The shapes of a mix, whose names are ``MODEL:NAME``, by model."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in (shapes or {}).items():
        model, _, name = key.partition(":")
        if model not in models or not name:
            raise UsageError(f"--shape {key}: expected MODEL:NAME=1,3,224,224 with a model's name")
        found.setdefault(model, {})[name] = shape
    return found or None


def choose_model(file: str, content: Artifact | Mix, name: str | None) -> Artifact:
    """The model of a file that ``--model`` names; it has to, and may, where there are several."""
    from top_tvm.artifact import Artifact

    if isinstance(content, Artifact):
        if name is not None:
            raise UsageError(f"--model {name}: {file} is no mix, but one model: leave it out")
        return content
    known = ", ".join(content.models)
    if name is None:
        raise UsageError(f"{file} is a mix of {known}: choose one with --model")
    if name not in content.models:
        raise UsageError(f"--model {name}: {file} has the models {known}")
    return content.models[name]


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
