"""An engine: one native runtime with the thread that tells clients what became of their tasks.

A :class:`~top_tvm.runtime.runtime.Runtime` has one engine at a time; when its models change, it
gets another one, and the old one ends its tasks beside it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt

from top_tvm import _native
from top_tvm.artifact import TensorSpec
from top_tvm.errors import (
    Cancelled,
    Closed,
    DeadlineExceeded,
    DeviceError,
    InputError,
    PlanError,
    QueueFull,
    TopTVMError,
)
from top_tvm.mix import Mix
from top_tvm.runtime.controller.decision import (
    Controller,
    Decision,
    VariantFeatures,
    snapshot_from,
    unlimited,
)
from top_tvm.runtime.executable import Executable
from top_tvm.runtime.variant_table import VariantTable

Array = npt.NDArray[Any]
# As TaskState of runtime/serving/task.h.
_QUEUED, _RUNNING, _COMPLETED, _REJECTED, _EXPIRED, _CANCELLED, _FAILED = range(7)
_POLL_S = 0.5


class TaskFuture(Future[dict[str, Array]]):
    """The answer to come. ``result()`` is a new array per output, by its ONNX name.

    ``cancel()`` ends a task that waits, and returns True. One that runs ends when its segment does,
    if that is not its last: ``result()`` then raises :class:`~top_tvm.errors.Cancelled`.

    Once done, ``times_ns`` are submission, launch and end on the clock of ``time.monotonic_ns()``;
    the second is 0 for a task that was not launched.
    """

    def __init__(self, engine: Engine, model: int) -> None:
        super().__init__()
        self._engine = engine
        self._ticket: tuple[int, int] | None = None
        self.model = model
        self.times_ns: tuple[int, int, int] | None = None

    def cancel(self) -> bool:
        """Give the task up; whether it has ended without having been launched."""
        if self._ticket is None or self.done():
            return self.cancelled()
        if self._engine.native.cancel(*self._ticket):
            return super().cancel()
        return self.cancelled()


class _Inputs:
    """What a task of a model must be given."""

    def __init__(self, name: str, specs: tuple[TensorSpec, ...]) -> None:
        self._name = name
        self._specs = [(spec.name, np.dtype(spec.dtype), spec.shape) for spec in specs]

    def match(self, inputs: Mapping[str, Any]) -> list[Array]:
        """Arrays in the order of the model, contiguous."""
        arrays = []
        for name, dtype, shape in self._specs:
            array = inputs.get(name)
            if type(array) is not np.ndarray:
                array = self._convert(name, inputs)
            if array.dtype.newbyteorder("=") != dtype or array.shape != shape:
                raise InputError(
                    f"model '{self._name}', input '{name}': expected {dtype}{list(shape)}, "
                    f"given {array.dtype}{list(array.shape)}"
                )
            if not (array.flags.c_contiguous and array.dtype.isnative):
                array = np.ascontiguousarray(array, dtype)
            arrays.append(array)
        if len(inputs) != len(arrays):
            raise InputError(f"{self._expected()}, given {_names(inputs)}")
        return arrays

    def _convert(self, name: str, inputs: Mapping[str, Any]) -> Array:
        if name not in inputs:
            raise InputError(f"{self._expected()}, given {_names(inputs)}")
        value = inputs[name]
        try:
            return np.from_dlpack(value) if hasattr(value, "__dlpack__") else np.asarray(value)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"model '{self._name}', input '{name}' cannot be read as an array: {error}"
            ) from error

    def _expected(self) -> str:
        return f"model '{self._name}': expected inputs {_names(name for name, *_ in self._specs)}"


def open_runtime(
    mix: Mix, table: VariantTable, executables: Mapping[str, Executable], queue_size: int
) -> _native.LiveRuntime:
    """Make a native runtime; whoever does has to take what it has finished.

    Parameters
    ----------
    mix : Mix
        The models.
    table : VariantTable
        Its variants as numbers.
    executables : mapping of str to Executable
        The models, loaded.
    queue_size : int
        Tasks of each model that may wait.

    Raises
    ------
    PlanError, DeviceError
        Plans do not fit their constants or each other, or kernels are missing.
    """
    metadata = [artifact.metadata for artifact in mix.models.values()]
    executors = [
        [executables[name].native_executor(plan) for plan in plans]
        for name, plans in zip(mix.models, table.plans, strict=True)
    ]
    try:
        return _native.LiveRuntime(
            table.fields,
            executors,
            [_tensors(of_model.inputs) for of_model in metadata],
            [_tensors(of_model.outputs) for of_model in metadata],
            table.streams,
            queue_size,
        )
    except ValueError as error:
        raise PlanError(str(error)) from error
    except MemoryError as error:
        raise DeviceError("not enough memory for the tasks in flight") from error


def _tensors(specs: tuple[TensorSpec, ...]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(spec.name, spec.dtype, spec.shape) for spec in specs]


class Engine:
    """Thread-safe, apart from :meth:`close`.

    Parameters
    ----------
    native : LiveRuntime
        Whose tasks it delivers from now on.
    mix : Mix
        The models of that.
    features : tuple of VariantFeatures
        Of the variants.
    controller : callable
        Chooses between these whenever :meth:`decide` is called.

    Attributes
    ----------
    decision : Decision
        The present one.
    """

    def __init__(
        self,
        native: _native.LiveRuntime,
        mix: Mix,
        features: tuple[VariantFeatures, ...],
        controller: Controller,
    ) -> None:
        self.native = native
        self.features = features
        self.decision = Decision(0, unlimited(len(mix.models)))
        self._controller = controller
        self.names = tuple(mix.models)
        self._index = {name: index for index, name in enumerate(self.names)}
        self._inputs = [
            _Inputs(name, artifact.metadata.inputs) for name, artifact in mix.models.items()
        ]
        self._outputs = [
            tuple(output.name for output in artifact.metadata.outputs)
            for artifact in mix.models.values()
        ]
        self._began_s = time.monotonic()
        self._closing = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._deliver, name="top-tvm delivery", daemon=True)

    def start(self) -> None:
        """Begin to tell clients what became of their tasks."""
        self._thread.start()

    @property
    def streams(self) -> int:
        """Streams that the variants use."""
        return len(self.native.busy_s())

    def decide(self) -> None:
        """Ask the controller, and do what it says."""
        decision = self._controller(snapshot_from(self.native.snapshot()), self.features)
        if decision != self.decision:
            self.apply(decision)
        self.decision = decision  # with a new reason

    def apply(self, decision: Decision) -> None:
        """Change variant and dequeue frequencies.

        Raises
        ------
        InputError
            There is no such variant, or a frequency is not positive.
        """
        try:
            self.native.apply(decision.variant, list(decision.frequency))
        except ValueError as error:
            raise InputError(str(error)) from error
        self.decision = decision

    def submit(
        self, model: str, inputs: Mapping[str, Any], deadline_ms: float | None, priority: int
    ) -> TaskFuture:
        """As :meth:`Runtime.submit`."""
        index = self._index.get(model)
        if index is None:
            raise InputError(f"there is no model {model!r}; there are: {_names(self.names)}")
        arrays = self._inputs[index].match(inputs)
        deadline_us = float("inf") if deadline_ms is None else 1e3 * deadline_ms
        future = TaskFuture(self, index)
        state, *ticket = self.native.submit(index, arrays, priority, deadline_us, future)
        if state == _QUEUED:
            future._ticket = (ticket[0], ticket[1])
            return future
        if state == _REJECTED:
            raise QueueFull(f"model {model!r}: too many tasks wait already; submit it later")
        if state == _EXPIRED:
            raise DeadlineExceeded(
                f"model {model!r}: {deadline_ms:g} ms are not enough for what waits already"
            )
        raise Closed("the runtime is closed")

    def utilisation(self) -> list[float]:
        """Share of the time since the engine was made that each stream's worker was busy."""
        elapsed_s = max(time.monotonic() - self._began_s, 1e-9)
        return [min(busy_s / elapsed_s, 1.0) for busy_s in self.native.busy_s()]

    def statistics(self) -> dict[str, dict[str, Any]]:
        """Counts and times by the names of the models."""
        return dict(zip(self.names, self.native.statistics(), strict=True))

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until all tasks have ended and clients know; whether that is so in time."""
        if threading.current_thread() is self._thread:
            self.native.delivered()  # a callback waits: its own task is told already
        return self.native.wait_idle(timeout_s)

    def close(self, timeout_s: float, *, cancel_queued: bool) -> bool:
        """End all tasks, and the thread; whether that worked in time.

        Tasks whose workers are stuck fail with :class:`DeviceError`.
        """
        self._closing = True
        self.native.close(cancel_queued)
        in_time = self.wait_idle(timeout_s)
        if not in_time:
            self.native.close(True)
            self.native.wait_idle(min(timeout_s, _POLL_S))
            if stuck := self.native.stuck_workers(0.0):
                what = ", ".join(f"op '{op}' of model '{model}'" for _, model, op, _ in stuck)
            else:
                what = "a kernel"
            for future in self.native.abandon():
                future.set_exception(DeviceError(f"closed while {what} was running for too long"))
        self._ended.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(2 * _POLL_S + 1)
        return in_time

    def _deliver(self) -> None:
        while True:
            # Ended: whatever was there then is seen by one more look.
            ended = self._ended.is_set()
            tasks = self.native.wait_finished(0.0 if ended else _POLL_S)
            for future, state, failure, outputs, *times_ns in tasks:
                if future is None:
                    continue  # it was abandoned
                future.times_ns = (times_ns[0], times_ns[1], times_ns[2])
                if state == _COMPLETED:
                    names = self._outputs[future.model]
                    future.set_result(dict(zip(names, outputs, strict=True)))
                elif state == _CANCELLED and times_ns[1] == 0 and not self._closing:
                    # The client does the same, sooner or later.
                    Future.cancel(future)
                    future.set_running_or_notify_cancel()
                elif future.cancelled():
                    future.set_running_or_notify_cancel()
                else:
                    future.set_exception(_error(state, failure, launched=times_ns[1] > 0))
            if ended and not tasks:
                return


def _error(state: int, failure: str, *, launched: bool) -> TopTVMError:
    if state == _EXPIRED:
        return DeadlineExceeded("the task's turn came too late for its deadline")
    if state == _CANCELLED and launched:
        return Cancelled("the task was given up when a segment of it had ended")
    if state == _CANCELLED:
        return Closed("the runtime was closed before the task's turn came")
    return DeviceError(failure)


def _names(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"
