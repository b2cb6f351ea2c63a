"""The executable: an artifact that is loaded and ready to run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from top_tvm import _native, artifact
from top_tvm.artifact import Artifact, TensorSpec
from top_tvm.bfloat16 import raw
from top_tvm.device import memory_limit_bytes
from top_tvm.errors import DeviceError, InputError, PlanError
from top_tvm.plan import Plan, Tensor
from top_tvm.runtime.native import ONEDNN_SWITCH, onednn_module
from top_tvm.runtime.plan_view import PlanView, view_plan

Array = npt.NDArray[Any]


class Executable:
    """A compiled model, loaded.

    Thread-safe: any number of threads may call :meth:`run` at the same time. All executables of a
    process share one set of pinned worker threads.

    Parameters
    ----------
    artifact : Artifact
        What :func:`top_tvm.build` makes and :func:`top_tvm.load` reads.
    library : KernelLibrary, optional
        The artifact's kernels, where they are loaded already.

    Raises
    ------
    PlanError
        A plan does not fit its constants.
    DeviceError
        A library or a kernel that the plans call is missing, or a plan needs more memory than this
        machine has.
    """

    def __init__(self, artifact: Artifact, *, library: _native.KernelLibrary | None = None) -> None:
        self._artifact = artifact
        _check_memory(artifact.plans)
        try:
            if library is None and artifact.kernels:
                library = _native.KernelLibrary(artifact.kernels)
        except RuntimeError as error:
            raise DeviceError(str(error)) from error
        self._library = library
        self._constants: dict[str, Array] = {}
        self._executors = {
            batch: self._prepare(plan) for batch, plan in sorted(artifact.plans.items())
        }

    def native_executor(self, plan: Plan) -> _native.Executor:
        """What runs a plan that uses this model's kernels and constants: one of its own, or new.

        Raises
        ------
        PlanError, DeviceError
            As for the constructor.
        """
        for batch, own in self._artifact.plans.items():
            if own is plan:
                return self._executors[batch]
        return self._prepare(plan)

    def _prepare(self, plan: Plan) -> _native.Executor:
        needs_onednn = any(kernel.library == "onednn" for kernel in plan.kernels)
        module = onednn_module() if needs_onednn else None
        if needs_onednn and module is None:
            raise DeviceError(
                "the model was compiled for oneDNN, which is missing or switched off by "
                f"{ONEDNN_SWITCH}=0: install onednn-cpu-gomp, or build the model on this machine"
            )
        try:
            for tensor in plan.tensors:
                if tensor.space == "constant" and tensor.storage not in self._constants:
                    array = self._artifact.constants[tensor.storage]
                    self._constants[tensor.storage] = _ready(raw(array))
            used = {t.storage for t in plan.tensors if t.space == "constant"}
            constants = {key: self._constants[key] for key in used}
            return _native.Executor(plan, constants, self._library, module)
        except ValueError as error:
            raise PlanError(str(error)) from error
        except RuntimeError as error:
            raise DeviceError(str(error)) from error
        except MemoryError as error:
            raise DeviceError("not enough memory to prepare the weights") from error

    @property
    def artifact(self) -> Artifact:
        """What was loaded."""
        return self._artifact

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Names, dtypes and shapes of the inputs, for the smallest batch size."""
        return self._artifact.metadata.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Names, dtypes and shapes of the outputs, for the smallest batch size."""
        return self._artifact.metadata.outputs

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Batch sizes that have a plan, ascending."""
        return tuple(self._executors)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Run the model once.

        Parameters
        ----------
        inputs : mapping of str to array
            One array per input, by its ONNX name: NumPy arrays, or tensors in CPU memory that speak
            DLPack. Contiguous arrays aligned to 64 bytes are used in place, others are copied. Do
            not write to them until the call returns.

        Returns
        -------
        dict of str to numpy.ndarray
            One new array per output, by its ONNX name.

        Raises
        ------
        InputError
            A name, dtype or shape is not what the model expects.
        DeviceError
            A kernel failed; the message names the op. The executable stays usable.
        """
        batch, arrays = self._match(inputs)
        with _kernel_errors():
            results = self._executors[batch].run(arrays)
        names = (output.name for output in self.outputs)
        return dict(zip(names, results, strict=True))

    def time(self, inputs: Mapping[str, Any], warmup: int = 5, repeats: int = 50) -> Array:
        """Time runs of the model without the cost of Python.

        Parameters
        ----------
        inputs : mapping of str to array
            As for :meth:`run`.
        warmup, repeats : int
            Runs before the measurement, and measured runs.

        Returns
        -------
        numpy.ndarray
            Microseconds from submission to completion of each run, float64, shape ``(repeats,)``.
        """
        batch, arrays = self._match(inputs)
        with _kernel_errors():
            return self._executors[batch].time(arrays, warmup, repeats)

    def timeline(self, inputs: Mapping[str, Any], warmup: int = 5, repeats: int = 1) -> Array:
        """When each op of the plan ran.

        Parameters
        ----------
        inputs : mapping of str to array
            As for :meth:`run`.
        warmup, repeats : int
            Runs before the measurement, and measured runs.

        Returns
        -------
        numpy.ndarray
            Start and end of every call in microseconds since the run was submitted, float64, shape
            ``(repeats, calls, 2)``, calls in the order of the plan.
        """
        batch, arrays = self._match(inputs)
        with _kernel_errors():
            return self._executors[batch].timeline(arrays, warmup, repeats)

    def plan(self, batch: int = 1) -> PlanView:
        """Stages, groups and ops of the plan for a batch size, with their times.

        Raises
        ------
        InputError
            There is no plan for this batch size.
        """
        if batch not in self._executors:
            sizes = ", ".join(map(str, self.batch_sizes))
            raise InputError(f"there is no plan for batch size {batch}; built for {sizes}")
        profiles = self._artifact.profiles.get(batch, ())
        return view_plan(self._artifact.plans[batch], profiles, self._artifact.metadata.roofline)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the artifact to a file that :func:`top_tvm.load` reads."""
        artifact.save(self._artifact, path)

    def __repr__(self) -> str:
        sizes = ", ".join(map(str, self.batch_sizes))
        return f"<Executable {self._artifact.metadata.name!r}, batch sizes {sizes}>"

    def _match(self, inputs: Mapping[str, Any]) -> tuple[int, list[Array]]:
        """Choose the plan whose input shapes are given, and order the inputs as it wants them."""
        expected = [spec.name for spec in self.inputs]
        if set(inputs) != set(expected):
            raise InputError(f"expected inputs {_names(expected)}, given {_names(inputs)}")
        arrays = {name: _as_array(name, value) for name, value in inputs.items()}
        for spec in self.inputs:
            given = arrays[spec.name].dtype.name
            if given != spec.dtype:
                raise InputError(f"input '{spec.name}': expected dtype {spec.dtype}, given {given}")
        for batch, plan in self._artifact.plans.items():
            tensors = _input_tensors(plan)
            if all(arrays[tensor.storage].shape == tensor.shape for tensor in tensors):
                return batch, [_ready(arrays[tensor.storage]) for tensor in tensors]
        raise InputError(self._wrong_shapes(arrays))

    def _wrong_shapes(self, arrays: Mapping[str, Array]) -> str:
        given = ", ".join(f"'{spec.name}' {arrays[spec.name].shape}" for spec in self.inputs)
        expected = "; or ".join(
            ", ".join(f"'{tensor.storage}' {tensor.shape}" for tensor in _input_tensors(plan))
            for _, plan in sorted(self._artifact.plans.items())
        )
        return f"expected input shapes {expected}; given {given}"


def _check_memory(plans: Mapping[int, Plan]) -> None:
    """Refuse a plan that no run could allocate its memory for."""
    limit = memory_limit_bytes()
    for batch, plan in plans.items():
        boundary = sum(plan.tensors[index].nbytes for index in (*plan.inputs, *plan.outputs))
        needed = plan.arena_bytes + boundary
        if needed > limit:
            raise DeviceError(
                f"the plan for batch {batch} needs {needed / 1e9:.1f} GB for one run (inputs, "
                f"outputs and intermediate tensors), this machine has {limit / 1e9:.1f} GB: build "
                "the model with a smaller batch size"
            )


@contextmanager
def _kernel_errors() -> Iterator[None]:
    """What native code raises during a run, as :class:`DeviceError`."""
    try:
        yield
    except RuntimeError as error:
        raise DeviceError(str(error)) from error
    except MemoryError as error:
        raise DeviceError("not enough memory for the tensors of this run") from error


def _input_tensors(plan: Plan) -> list[Tensor]:
    return [plan.tensors[index] for index in plan.inputs]


def _names(names: Mapping[str, Any] | list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _as_array(name: str, value: Any) -> Array:
    if isinstance(value, np.ndarray):
        return value
    try:
        return np.from_dlpack(value) if hasattr(value, "__dlpack__") else np.asarray(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"input '{name}' cannot be read as an array: {error}") from error


def _ready(array: Array) -> Array:
    """Contiguous and aligned to 64 bytes, as kernels need it: the array itself or a copy."""
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if _native.is_ready(array):
        return array
    copy = _native.aligned_empty(array.shape, str(array.dtype))
    copy[...] = array
    return copy
