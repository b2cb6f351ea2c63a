"""Estimate the memory that a build takes, before it begins."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import tvm

from top_tvm.compiler.check_onnx import GraphMemory, check_model
from top_tvm.compiler.frontend import check_operators, fix_shapes
from top_tvm.compiler.import_program import TranslatedProgram
from top_tvm.compiler.import_relax import import_relax
from top_tvm.compiler.op_graph import OpGraph
from top_tvm.compiler.read_onnx import load_onnx
from top_tvm.compiler.relax_memory import relax_memory
from top_tvm.compiler.sources import Model, open_source
from top_tvm.device import memory_limit_bytes
from top_tvm.errors import ModelError

_LOG = logging.getLogger(__name__)

# Python, TVM and LLVM; measured with models of a few megabytes.
_COMPILER_BYTES = 700_000_000
# The model as it was read and simplified, its constants in Relax, folded and in oneDNN's layouts:
# measured with VGG-19 (575 MB of weights), 6.1 times the weights for one batch size. Every further
# batch size has its own constants in Relax.
_WEIGHTS_ONCE, _WEIGHTS_PER_BATCH = 2.1, 4.1
# Arenas of the plans that are compared, and their inputs and outputs.
_ACTIVATIONS = 4


def estimate_build(
    model: Model,
    shapes: Mapping[str, Sequence[int]] | None,
    batches: Sequence[int | None],
) -> int:
    """Memory in bytes that building a model takes at its peak, roughly.

    Parameters
    ----------
    model : str, Path, bytes, onnx.ModelProto, ExportedProgram or tvm.IRModule
        As for :func:`~top_tvm.compiler.build.build`.
    shapes : mapping of str to sequence of int, optional
        Likewise.
    batches : sequence of int or None
        Batch sizes to build for.

    Raises
    ------
    ModelError
        If the model is not valid, or the estimate is beyond the machine's memory.
    """
    source = open_source(model)
    if isinstance(source, tvm.IRModule):
        imported = [import_relax(source, shapes, batch) for batch in batches]
        name, sizes = imported[0].name, [relax_memory(item.module) for item in imported]
    else:
        onnx_source = source.model if isinstance(source, TranslatedProgram) else source
        name, sizes = _onnx_memory(onnx_source, shapes or {}, batches)
    most = max(sizes, key=lambda memory: memory.activations_bytes)
    weights, activations, largest = most.weights_bytes, most.activations_bytes, most.largest
    factor = _WEIGHTS_ONCE + _WEIGHTS_PER_BATCH * len(batches)
    estimated = int(_COMPILER_BYTES + factor * weights + _ACTIVATIONS * activations)
    limit = memory_limit_bytes()
    _LOG.info(
        "%s: %.0f MB of weights, %.0f MB of tensors at a time: the build takes about %.1f GB of "
        "memory, this machine has %.1f GB",
        *(name, weights / 1e6, activations / 1e6, estimated / 1e9, limit / 1e9),
    )
    if estimated > limit:
        raise ModelError(
            f"{name}: a build takes about {estimated / 1e9:.1f} GB of memory "
            f"({weights / 1e9:.2f} GB of weights, {len(batches)} batch size"
            f"{'s'[: len(batches) - 1]}, {activations / 1e9:.2f} GB of tensors at a time, the "
            f"largest {largest or 'unknown'}), this machine has {limit / 1e9:.1f} GB: build it for "
            "fewer or smaller batches, or on a larger machine"
        )
    return estimated


def estimate_mix(estimates: Mapping[str, int]) -> int:
    """Memory in bytes that building a mix takes, from what its models take alone, by name.

    Raises
    ------
    ModelError
        If it is beyond the machine's memory.
    """
    total = sum(estimates.values()) - (len(estimates) - 1) * _COMPILER_BYTES
    limit = memory_limit_bytes()
    if total > limit:
        each = ", ".join(f"{name} {nbytes / 1e9:.1f} GB" for name, nbytes in estimates.items())
        raise ModelError(
            f"a build of the mix takes about {total / 1e9:.1f} GB of memory (alone, {each}), this "
            f"machine has {limit / 1e9:.1f} GB: build it with fewer models or fewer and smaller "
            "batches, or on a larger machine"
        )
    return total


def _onnx_memory(
    source: str | Path | bytes | onnx.ModelProto,
    shapes: Mapping[str, Sequence[int]],
    batches: Sequence[int | None],
) -> tuple[str, list[GraphMemory]]:
    """Name of the model, and what running it takes with each batch size."""
    loaded, name = load_onnx(source)
    check_operators(loaded, name)
    inputs = onnx.GraphProto(input=loaded.graph.input)
    sizes = []
    for batch in batches:
        del loaded.graph.input[:]
        loaded.graph.input.extend(inputs.input)
        fix_shapes(loaded, name, shapes, batch)
        sizes.append(check_model(loaded, name))
    return name, sizes


def check_graph_memory(graph: OpGraph, name: str) -> None:
    """Refuse an op graph whose ops cannot be given their tensors: the last check before they run.

    The shapes of some tensors are only known once TVM has imported a model.

    Raises
    ------
    ModelError
        Naming the op.
    """
    kept = sum(s.nbytes for s in graph.storages if s.kind != "intermediate")
    limit = memory_limit_bytes()
    for op in graph.ops:
        storages = {graph.values[value].storage for value in (*op.inputs, *op.outputs)}
        used = (graph.storages[index] for index in storages)
        needed = kept + sum(s.nbytes for s in used if s.kind == "intermediate")
        if needed > limit:
            raise ModelError(
                f"{name}: op {op.name!r} ({op.origin}) needs {needed / 1e9:.3g} GB of memory with "
                f"weights, inputs and outputs, this machine has {limit / 1e9:.1f} GB"
            )
