"""Multi-stream compilation and execution of neural networks.

>>> import top_tvm
>>> exe = top_tvm.build("model.onnx", streams=2)  # doctest: +SKIP
>>> outputs = exe.run({"data": x})  # doctest: +SKIP

Importing this package is light: the compiler (TVM, ONNX) is imported by the first :func:`build`,
the native runtime by the first :func:`load`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from top_tvm.errors import (
    ArtifactError,
    DependencyError,
    DeviceError,
    GraphError,
    InputError,
    ModelError,
    PartitionError,
    PlanError,
    TopTVMError,
)

if TYPE_CHECKING:
    import onnx
    import tvm
    from torch.export import ExportedProgram

    from top_tvm.runtime.executable import Executable

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "DependencyError",
    "DeviceError",
    "Executable",
    "GraphError",
    "InputError",
    "ModelError",
    "PartitionError",
    "PlanError",
    "TopTVMError",
    "__version__",
    "build",
    "estimate_memory",
    "load",
]

_COMPILER_PACKAGES = frozenset({"ml_dtypes", "onnx", "torch", "tvm"})


def build(
    model: str | Path | bytes | onnx.ModelProto | ExportedProgram | tvm.IRModule,
    *,
    target: str = "cpu",
    partitioner: str = "auto",
    streams: int = 2,
    batch_sizes: Sequence[int] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    precision: str = "fp32",
    progress: Callable[[str, int, int], None] | None = None,
) -> Executable:
    """Compile a model into a multi-stream executable for this machine.

    Operators are fused, compiled and measured one by one; then a partitioner places them on the
    streams.

    Parameters
    ----------
    model : str, Path, bytes, onnx.ModelProto, torch.export.ExportedProgram or tvm.IRModule
        An ONNX model, an exported program of PyTorch, or a Relax module. A path is that of an ONNX
        file, next to which external data is found, too, or of a file that ``torch.export.save``
        wrote (``.pt2``): PyTorch may execute code that it finds there, so give only files that you
        trust. Neither is changed.
    target : str
        ``"cpu"``.
    partitioner : {"auto", "sequential", "greedy", "list", "ios", "gpg"}
        How operators are placed on streams. ``"auto"`` measures the plan of every partitioner and
        keeps the fastest, so that the result is not slower than sequential execution.
    streams : int
        Number of streams: worker threads, each pinned to a core of its own while cores last.
    batch_sizes : sequence of int, optional
        Batch sizes to make plans for: sizes of a symbolic leading dimension. By default 1, or what
        the model fixes.
    shapes : mapping of str to sequence of int, optional
        Full shapes of inputs with other symbolic dimensions.
    precision : {"fp32", "bf16"}
        ``"bf16"`` stores weights and what kernels hand to each other in bfloat16, multiplies in it
        and accumulates in float32; it needs oneDNN and a CPU with AVX512-BF16 or AMX. Inputs and
        outputs stay float32.
    progress : callable, optional
        Called as ``progress(what, done, total)`` while the build advances.

    Returns
    -------
    Executable
        Ready to run; :meth:`~top_tvm.runtime.executable.Executable.save` writes it to a file.

    Raises
    ------
    ModelError
        If the model cannot be read, has open dimensions, or uses unsupported operators.
    PartitionError
        If an option is not one of those above.
    DeviceError
        If this machine cannot compute in the precision, or a kernel cannot be made or run.
    DependencyError
        If the compiler's packages are not installed.
    """
    with _compiler_needed():
        from top_tvm.compiler.build import build as compile_model
    try:
        return compile_model(
            model,
            target=target,
            partitioner=partitioner,
            streams=streams,
            batch_sizes=batch_sizes,
            shapes=shapes,
            precision=precision,
            progress=progress,
        )
    except MemoryError as error:
        raise DeviceError("not enough memory is left to build the model") from error
    except RuntimeError as error:  # what the native half and TVM raise
        raise DeviceError(f"the build failed: {error}") from error


def estimate_memory(
    model: str | Path | bytes | onnx.ModelProto | ExportedProgram | tvm.IRModule,
    *,
    batch_sizes: Sequence[int] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> int:
    """Memory in bytes that :func:`build` takes at its peak, roughly; parameters are as there.

    Raises
    ------
    ModelError
        If the model cannot be read or built, or the estimate is beyond this machine's memory.
    DependencyError
        If the compiler's packages are not installed.
    """
    with _compiler_needed():
        from top_tvm.compiler.estimate import estimate_build
    return estimate_build(
        model, shapes, list(dict.fromkeys(batch_sizes)) if batch_sizes else [None]
    )


def load(path: str | Path) -> Executable:
    """Load a ``.top`` file that :meth:`Executable.save` wrote.

    Needs none of the compiler's packages.

    Raises
    ------
    ArtifactError
        If the file is missing, damaged, of another format version, or built for a CPU with
        instructions that this one lacks.
    """
    from top_tvm.artifact import load as load_artifact
    from top_tvm.runtime.executable import Executable

    return Executable(load_artifact(path))


@contextmanager
def _compiler_needed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _COMPILER_PACKAGES:
            raise
        raise DependencyError(
            f"building a model needs the package {package!r}: pip install 'top_tvm[compile]'"
        ) from error


def __getattr__(name: str) -> Any:
    if name == "Executable":
        from top_tvm.runtime.executable import Executable

        return Executable
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
