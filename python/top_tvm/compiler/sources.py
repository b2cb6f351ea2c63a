"""The kinds of model that can be built: ONNX, exported programs of PyTorch, Relax modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import onnx
import tvm

from top_tvm.compiler.frontend import Imported, import_onnx
from top_tvm.compiler.import_program import (
    TranslatedProgram,
    import_program,
    is_exported_program,
    load_program,
    translate_program,
)
from top_tvm.compiler.import_relax import import_relax
from top_tvm.errors import ModelError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Model: TypeAlias = (
    "str | Path | bytes | onnx.ModelProto | ExportedProgram | TranslatedProgram | tvm.IRModule"
)
Source: TypeAlias = str | Path | bytes | onnx.ModelProto | TranslatedProgram | tvm.IRModule


def open_source(model: Model) -> Source:
    """What :func:`import_source` reads, for every batch size again.

    Raises
    ------
    ModelError
        If this is nothing that can be built, or an exported program that cannot be translated.
    DependencyError
        If PyTorch is needed and not installed.
    """
    if is_exported_program(model):
        return translate_program(model)
    if isinstance(model, (str, Path)) and Path(model).suffix == ".pt2":
        return translate_program(load_program(Path(model)), str(model))
    if isinstance(
        model, (str, Path, bytes, bytearray, onnx.ModelProto, TranslatedProgram, tvm.IRModule)
    ):
        return model
    hint = ""
    if any(base.__module__.startswith("torch.nn") for base in type(model).__mro__):
        hint = "; export the module first: torch.export.export(module, example_inputs)"
    raise ModelError(
        f"cannot build a {type(model).__module__}.{type(model).__name__}: give the path of an ONNX "
        f"or .pt2 file, an onnx.ModelProto, a torch.export.ExportedProgram, or a tvm.IRModule{hint}"
    )


def import_source(
    source: Source, shapes: Mapping[str, Sequence[int]] | None, batch: int | None
) -> Imported:
    """Import with static shapes.

    Raises
    ------
    ModelError
        If the model cannot be read, has open dimensions or something unsupported.
    """
    if isinstance(source, TranslatedProgram):
        return import_program(source, shapes, batch)
    if isinstance(source, tvm.IRModule):
        return import_relax(source, shapes, batch)
    return import_onnx(source, shapes, batch)
