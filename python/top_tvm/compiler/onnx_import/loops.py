"""Kernels that are loops with side effects rather than one expression per element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T


def loop_kernel(
    name: str,
    inputs: Sequence[te.Tensor],
    outputs: Sequence[tuple[Sequence[int], str]],
    body: Callable[..., None],
) -> Any:
    """Tensor, or list of tensors, that loops write.

    Parameters
    ----------
    name : str
        Of the kernel.
    inputs : sequence of te.Tensor
        What it reads.
    outputs : sequence of (shape, dtype)
        What it writes.
    body : callable
        Called with the buffers of the inputs, then those of the outputs, emits the loops.
    """

    def emit(given: Sequence[tirx.Buffer], written: Sequence[tirx.Buffer]) -> tirx.Stmt:
        with IRBuilder() as builder:
            with T.serial(0, 1):  # statements need one around them; it goes away
                body(*given, *written)
            return builder.get()

    # Of exactly the type of other kernels' buffers, else TVM cannot fuse the kernel with casts.
    given = [tirx.decl_buffer(i.shape, i.dtype, i.op.name, layout=None) for i in inputs]
    written = [
        tirx.decl_buffer(list(shape), dtype, f"{name}_{index}", layout=None)
        for index, (shape, dtype) in enumerate(outputs)
    ]
    return te.extern(
        [buffer.shape for buffer in written],
        list(inputs),
        emit,
        dtype=[dtype for _, dtype in outputs],
        in_buffers=given,
        out_buffers=written,
        name=name,
    )


def loops(stack: ExitStack, extents: Sequence[Any], parallel: bool = True) -> list[Any]:
    """Enter nested loops, the outermost one in parallel if it repeats; return their variables."""
    variables = []
    for position, extent in enumerate(extents):
        outermost = parallel and position == 0 and int(extent) > 1
        variables.append(stack.enter_context((T.parallel if outermost else T.serial)(0, extent)))
    return variables


class Variable:
    """A number that changes while a kernel runs."""

    def __init__(self, dtype: str) -> None:
        self._buffer = T.alloc_buffer((1,), dtype, scope="local")

    @property
    def value(self) -> Any:
        """Expression that reads it."""
        return self._buffer[0]

    def set(self, value: Any) -> None:
        """Emit an assignment."""
        T.buffer_store(self._buffer, value, [0])
