"""The plan: a static multi-stream schedule as plain data.

A plan is the only thing that passes from the compiler to the runtime. It lists kernel calls in one
global issue order; the calls of a stream run in that order, calls with ``threads > 1`` occupy every
stream, and ``waits`` names the calls on other streams that must have finished. Everything is
JSON-serialisable and checked by :meth:`Plan.validate` when it is made and again when it is loaded.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Literal

from top_tvm.errors import PlanError
from top_tvm.strict_json import StrictJSONError, decode, encode, parse
from top_tvm.strides import rows_of

PLAN_FORMAT = 2
ALIGNMENT_BYTES = 64

# Element types that plans and artifacts know, by NumPy name, with their size in bytes. Arrays of
# bfloat16, which NumPy lacks, are described in top_tvm/bfloat16.py.
DTYPE_BYTES = {
    "bool": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
}

Space = Literal["input", "output", "constant", "arena"]


@dataclass(frozen=True)
class Tensor:
    """A view of memory that kernels read or write.

    Attributes
    ----------
    name : str
        Unique within the plan. Inputs and outputs of the model carry their ONNX name.
    dtype : str
        NumPy name of the element type, e.g. ``"float32"``.
    shape : tuple of int
        Extent of every axis.
    space : {"input", "output", "constant", "arena"}
        Which memory it lies in.
    storage : str
        ONNX name of the input or output, or key of the constant. In the arena, ``""`` for a
        tensor with bytes of its own, and for a view of such a tensor its name. A view is another
        shape of the same bytes, or a *slice*: a range of columns of the tensor seen as a matrix.
        Calls may write slices, so that the parts of a concatenation need no copy.
    offset : int
        First byte within that memory; a multiple of 64, as every memory starts at one.
    strides : tuple of int
        Elements from one index to the next per axis; empty for row-major contiguous.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    space: Space
    storage: str = ""
    offset: int = 0
    strides: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """Size of the elements in bytes."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]

    @property
    def extent_bytes(self) -> int:
        """Bytes from the first to the last, with the gaps between the rows of a slice."""
        if not self.strides:
            return self.nbytes
        return rows_of(self.shape, self.strides).extent * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Kernel:
    """What a call executes: a PrimFunc of the kernel library or a library primitive.

    Attributes
    ----------
    library : str
        ``"tvm"`` (symbol of the artifact's kernel library) or ``"onednn"``.
    symbol : str
        Function name, or primitive kind such as ``"conv2d"`` or ``"matmul"``.
    attributes : dict of str to tuple of int or float
        Parameters of a library primitive (strides, padding, ...); empty for TVM kernels. Integers
        stay integers in the file.
    moldable : bool
        Whether the kernel also has an n-thread form.
    """

    library: Literal["tvm", "onednn"]
    symbol: str
    attributes: dict[str, tuple[int | float, ...]] = field(default_factory=dict)
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
    """A complete static schedule for one batch size.

    Attributes
    ----------
    batch, streams : int
        Batch size and number of streams that it was made for.
    partitioner : str
        Which partitioner made the schedule.
    tensors, kernels, calls : tuple
        What the calls use, and the calls in their global issue order.
    inputs, outputs : tuple of int
        Indices into ``tensors``, in the order of the model; their names are the ONNX names. What
        is not in an output's own memory (an input, a constant, one value under two names) is
        copied when all calls have finished.
    arena_bytes : int
        Size of the memory that the tensors in space ``"arena"`` share.
    predicted_us, measured_us : float
        Time of one run in microseconds by the simulator and on the device; 0 when unknown.
    format : int
        Version of this layout.
    """

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

    def validate(self) -> None:
        """Check that the plan is well-formed, free of data races and deadlocks.

        Raises
        ------
        PlanError
            Naming the tensor or call at fault.
        """
        from top_tvm.plan_check import check_plan  # needs the types above

        try:
            decode(Plan, encode(self))
        except StrictJSONError as error:
            raise PlanError(f"plan: {error}") from error
        check_plan(self)

    def to_json(self) -> str:
        """Write the plan as JSON, one tensor, kernel or call per line."""
        return "{\n" + ",\n".join(f" {_member(k, v)}" for k, v in encode(self).items()) + "\n}\n"

    @staticmethod
    def from_json(text: str | bytes) -> Plan:
        """Read and validate what :meth:`to_json` wrote.

        Raises
        ------
        PlanError
            If the text is not JSON, has missing or unknown keys or other types than this version
            writes, or describes a plan that is not valid.
        """
        from top_tvm.plan_check import check_plan

        try:
            document = parse(text)
            if isinstance(document, dict) and document.get("format", PLAN_FORMAT) != PLAN_FORMAT:
                raise PlanError(
                    f"plan: format {document['format']!r:.40} is not supported; this version of "
                    f"top_tvm reads format {PLAN_FORMAT}: build the model again"
                )
            plan = decode(Plan, document)
        except StrictJSONError as error:
            raise PlanError(f"plan: {error}") from error
        check_plan(plan)
        return plan


def _member(key: str, value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        items = ",\n  ".join(map(json.dumps, value))
        return f'"{key}": [\n  {items}\n ]'
    return f'"{key}": {json.dumps(value)}'
