"""The op graph: fused operators, the values between them, and what each one costs to execute.

A *value* is a typed view; a *storage* is the memory behind one or more values (a reshape makes a
second value on the same storage). Dependencies follow storages: an op depends on the op that wrote
the storage it reads. Every storage has at most one writer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from top_tvm.plan import Kernel

StorageKind = Literal["input", "output", "constant", "intermediate"]


@dataclass(frozen=True)
class Storage:
    """Memory behind values: ``key`` is the ONNX name (input, output) or the constant's key."""

    kind: StorageKind
    key: str
    nbytes: int


@dataclass(frozen=True)
class Value:
    """Contiguous typed view of a whole storage."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    storage: int


@dataclass(frozen=True)
class Op:
    """One kernel call after fusion.

    ``inputs`` and ``outputs`` index ``OpGraph.values``; ``origin`` names the ONNX nodes or Relax
    operators it came from; ``fingerprint`` identifies kernel + shapes for the profile cache.
    """

    name: str
    kernel: Kernel
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    flops: int
    nbytes: int
    origin: str
    fingerprint: str


@dataclass(frozen=True)
class OpGraph:
    """DAG of ops in a topological order."""

    storages: tuple[Storage, ...]
    values: tuple[Value, ...]
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    output_names: tuple[str, ...]
