"""Files of GPG's weights and checkpoints: safetensors, with JSON values as metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from top_tvm.errors import PartitionError
from top_tvm.replace_file import replacing
from top_tvm.strict_json import StrictJSONError, parse

Tensors = Mapping[str, torch.Tensor]


def unusable(path: Path, why: str) -> PartitionError:
    """An error that names the file, what is wrong with it, and what to do."""
    return PartitionError(
        f"{path} {why}; give another file, or make one: top-tvm train gpg --out FILE.safetensors"
    )


def save_tensors(path: Path, tensors: Tensors, about: Mapping[str, object]) -> None:
    """Write tensors and, as JSON, what there is to say about them; all of it or nothing.

    Raises
    ------
    OSError
        If the file cannot be written; an existing one is as it was.
    """
    metadata = {key: json.dumps(value) for key, value in about.items()}
    with replacing(path) as file:
        file.write(safetensors.torch.save(dict(tensors), metadata))


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """Read what :func:`save_tensors` wrote.

    Raises
    ------
    PartitionError
        If there is no such file, or it is damaged.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except OSError as error:
        raise unusable(path, f"cannot be read: {error}") from error
    except safetensors.SafetensorError as error:
        raise unusable(path, f"is not valid safetensors: {error}") from error
    try:
        return tensors, {key: parse(text) for key, text in metadata.items()}
    except StrictJSONError as error:
        raise unusable(path, f"has metadata that is not ours: {error}") from error


def check_tensors(path: Path, given: Tensors, expected: Tensors) -> None:
    """Refuse tensors that have not the names, types and shapes of others, or are not finite.

    Raises
    ------
    PartitionError
        Naming the file and the tensor.
    """
    for name in sorted(given.keys() ^ expected.keys()):
        raise unusable(path, f"{'lacks' if name in expected else 'has an unknown'} tensor {name!r}")
    for name, tensor in given.items():
        have, want = (f"{t.dtype} of shape {tuple(t.shape)}" for t in (tensor, expected[name]))
        if have != want:
            raise unusable(path, f"has tensor {name!r} as {have}, expected {want}")
        if not bool(torch.isfinite(tensor).all()):
            raise unusable(path, f"has numbers in tensor {name!r} that are not finite")
