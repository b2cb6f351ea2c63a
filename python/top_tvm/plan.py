"""The plan: a static multi-stream schedule as plain data.

A plan is the only thing that passes from the compiler to the runtime. It lists kernel calls in one
global issue order; the calls of a stream run in that order, calls with ``threads > 1`` occupy every
stream, and ``waits`` names the calls on other streams that must have finished. Everything is
JSON-serialisable and checked by :meth:`Plan.validate` when it is made and again when it is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

PLAN_FORMAT = 1
ALIGNMENT_BYTES = 64

Space = Literal["input", "output", "constant", "arena"]


@dataclass(frozen=True)
class Tensor:
    """A view of memory that kernels read or write.

    Attributes
    ----------
    name : str
        Name for people; unique within the plan.
    dtype : str
        NumPy name of the element type, e.g. ``"float32"``.
    shape : tuple of int
        Row-major contiguous shape.
    space : {"input", "output", "constant", "arena"}
        Which memory it lies in.
    storage : str
        ONNX name of the input or output, key of the constant, ``""`` for the arena.
    offset : int
        First byte within that memory; a multiple of 64 in the arena.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    space: Space
    storage: str = ""
    offset: int = 0


@dataclass(frozen=True)
class Kernel:
    """What a call executes: a PrimFunc of the kernel library or a library primitive.

    Attributes
    ----------
    library : str
        ``"tvm"`` (symbol of the artifact's kernel library) or ``"onednn"``.
    symbol : str
        Function name, or primitive kind such as ``"conv2d"`` or ``"matmul"``.
    attributes : dict of str to tuple of int
        Parameters of a library primitive (strides, padding, ...); empty for TVM kernels.
    moldable : bool
        Whether the kernel also has an n-thread form.
    """

    library: Literal["tvm", "onednn"]
    symbol: str
    attributes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    moldable: bool = False


@dataclass(frozen=True)
class Call:
    """One operator of the plan.

    Attributes
    ----------
    op : str
        Name of the operator, unique within the plan.
    kernel : int
        Index into ``Plan.kernels``.
    args : tuple of int
        Indices into ``Plan.tensors``: inputs first, then outputs.
    num_outputs : int
        How many of the last ``args`` are written.
    stage, group, stream : int
        Place in the schedule. Groups are numbered within their stage.
    threads : int
        1, or the number of streams: such a call starts when every stream has reached it.
    waits : tuple of int
        Indices of earlier calls on other streams that must have finished.
    """

    op: str
    kernel: int
    args: tuple[int, ...]
    num_outputs: int
    stage: int
    group: int
    stream: int
    threads: int
    waits: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A complete static schedule for one batch size."""

    batch: int
    streams: int
    partitioner: str
    tensors: tuple[Tensor, ...]
    kernels: tuple[Kernel, ...]
    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    arena_bytes: int
    predicted_us: float = 0.0
    measured_us: float = 0.0
    format: int = PLAN_FORMAT
