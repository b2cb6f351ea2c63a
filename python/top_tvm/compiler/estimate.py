"""Estimate the memory that a build takes, before it begins."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from top_tvm.compiler.check_onnx import check_model
from top_tvm.compiler.frontend import check_operators, fix_shapes
from top_tvm.compiler.op_graph import OpGraph
from top_tvm.compiler.read_onnx import load_onnx
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
    model: str | Path | bytes | onnx.ModelProto,
    shapes: Mapping[str, Sequence[int]] | None,
    batches: Sequence[int | None],
) -> int:
    """Memory in bytes that building a model takes at its peak, roughly.

    Parameters
    ----------
    model : str, Path, bytes or onnx.ModelProto
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
    loaded, name = load_onnx(model)
    weights, activations, largest = 0, 0, ""
    check_operators(loaded, name)
    inputs = onnx.GraphProto(input=loaded.graph.input)
    for batch in batches:
        del loaded.graph.input[:]
        loaded.graph.input.extend(inputs.input)
        fix_shapes(loaded, name, shapes or {}, batch)
        memory = check_model(loaded, name)
        weights = memory.weights_bytes
        if memory.activations_bytes >= activations:
            activations, largest = memory.activations_bytes, memory.largest
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
