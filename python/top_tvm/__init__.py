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
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from top_tvm.errors import (
    ArtifactError,
    Cancelled,
    Closed,
    DeadlineExceeded,
    DependencyError,
    DeviceError,
    GraphError,
    InputError,
    ModelError,
    PartitionError,
    PlanError,
    QueueFull,
    TopTVMError,
)

if TYPE_CHECKING:
    import onnx
    import tvm
    from torch.export import ExportedProgram

    from top_tvm.runtime.executable import Executable
    from top_tvm.runtime.mix_executable import MixExecutable
    from top_tvm.runtime.runtime import Runtime

    Model: TypeAlias = str | Path | bytes | onnx.ModelProto | ExportedProgram | tvm.IRModule

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "Cancelled",
    "Closed",
    "DeadlineExceeded",
    "DependencyError",
    "DeviceError",
    "Executable",
    "GraphError",
    "InputError",
    "MixExecutable",
    "ModelError",
    "PartitionError",
    "PlanError",
    "QueueFull",
    "Runtime",
    "TopTVMError",
    "__version__",
    "build",
    "estimate_memory",
    "load",
]

_COMPILER_PACKAGES = frozenset({"ml_dtypes", "onnx", "torch", "tvm"})


@overload
def build(
    models: Model,
    *,
    target: str = ...,
    partitioner: str = ...,
    streams: int = ...,
    batch_sizes: Sequence[int] | None = ...,
    shapes: Mapping[str, Sequence[int]] | None = ...,
    precision: str = ...,
    progress: Callable[[str, int, int], None] | None = ...,
) -> Executable: ...


@overload
def build(
    models: Mapping[str, Model],
    *,
    target: str = ...,
    partitioner: str = ...,
    streams: int = ...,
    batch_sizes: Sequence[int] | Mapping[str, Sequence[int]] | None = ...,
    shapes: Mapping[str, Mapping[str, Sequence[int]]] | None = ...,
    precision: str = ...,
    lanes: int | Sequence[int] | None = ...,
    segments: int | Sequence[int] | None = ...,
    progress: Callable[[str, int, int], None] | None = ...,
) -> MixExecutable: ...


def build(  # noqa: PLR0913
    models: Model | Mapping[str, Model],
    *,
    target: str = "cpu",
    partitioner: str = "auto",
    streams: int = 2,
    batch_sizes: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    shapes: Mapping[str, Any] | None = None,
    precision: str = "fp32",
    lanes: int | Sequence[int] | None = None,
    segments: int | Sequence[int] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Executable | MixExecutable:
    """Compile a model, or a mix of models, for this machine.

    Operators are fused, compiled and measured one by one; then a partitioner places them on the
    streams. For a mix, variants of executing tasks of all models together are planned, too.

    Parameters
    ----------
    models : str, Path, bytes, onnx.ModelProto, torch.export.ExportedProgram or tvm.IRModule
        An ONNX model, an exported program of PyTorch, or a Relax module. A path is that of an ONNX
        file, next to which external data is found, too, or of a file that ``torch.export.save``
        wrote (``.pt2``): PyTorch may execute code that it finds there, so give only files that you
        trust. Neither is changed. A mapping of names to such models makes a mix.
    target : str
        ``"cpu"``.
    partitioner : {"auto", "sequential", "greedy", "list", "ios", "gpg"}
        How operators are placed on streams. ``"auto"`` measures the plan of every partitioner and
        keeps the fastest, so that the result is not slower than sequential execution.
    streams : int
        Number of streams: worker threads, each pinned to a core of its own while cores last.
    batch_sizes : sequence of int, optional
        Batch sizes to make plans for: sizes of a symbolic leading dimension. By default 1, or what
        the model fixes. For a mix also a mapping with those of each model.
    shapes : mapping of str to sequence of int, optional
        Full shapes of inputs with other symbolic dimensions. For a mix, such a mapping for each
        model that needs one, by its name.
    precision : {"fp32", "bf16"}
        ``"bf16"`` stores weights and what kernels hand to each other in bfloat16, multiplies in it
        and accumulates in float32; it needs oneDNN and a CPU with AVX512-BF16 or AMX. Inputs and
        outputs stay float32.
    lanes, segments : int or sequence of int, optional
        For a mix: how many tasks of a model may be in the same segment at a time, and how many
        segments models are cut into. There are variants for all pairs; those that are worse than
        others in every respect are dropped. By default 1, 2, 4 up to ``streams``, and 1, 2, 3.
    progress : callable, optional
        Called as ``progress(what, done, total)`` while the build advances.

    Returns
    -------
    Executable or MixExecutable
        Of one model, ready to run, or of a mix; ``save`` writes it to a file.

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
    options: dict[str, Any] = {
        "target": target,
        "partitioner": partitioner,
        "streams": streams,
        "batch_sizes": batch_sizes,
        "shapes": shapes,
        "precision": precision,
        "progress": progress,
    }
    if not isinstance(models, Mapping) and (lanes is not None or segments is not None):
        raise PartitionError("lanes and segments are options of a mix: give a mapping of models")
    with _compiler_needed():
        from top_tvm.compiler.build import build as build_model
        from top_tvm.compiler.build_mix import build_mix
    try:
        if isinstance(models, Mapping):
            return build_mix(models, lanes=lanes, segments=segments, **options)
        return build_model(models, **options)
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


def load(path: str | Path) -> Executable | MixExecutable:
    """Load a ``.top`` file that ``save`` wrote: of one model, or of a mix.

    Needs none of the compiler's packages.

    Raises
    ------
    ArtifactError
        If the file is missing, damaged, of another format version, or built for a CPU with
        instructions that this one lacks.
    """
    from top_tvm import mix_file
    from top_tvm.mix import Mix
    from top_tvm.runtime.executable import Executable
    from top_tvm.runtime.mix_executable import MixExecutable

    content = mix_file.load(path)
    return MixExecutable(content) if isinstance(content, Mix) else Executable(content)


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


_CLASSES = {
    "Executable": "top_tvm.runtime.executable",
    "MixExecutable": "top_tvm.runtime.mix_executable",
    "Runtime": "top_tvm.runtime.runtime",
}


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_CLASSES[name]), name)
