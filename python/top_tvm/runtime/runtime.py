"""The asynchronous runtime: tasks of several models, arriving at any moment, on one device."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy.typing as npt

from top_tvm.artifact import Artifact
from top_tvm.device import memory_limit_bytes
from top_tvm.errors import Closed, DeviceError, InputError
from top_tvm.mix import Mix
from top_tvm.runtime.controller.decision import (
    Controller,
    Decision,
    Snapshot,
    VariantFeatures,
    snapshot_from,
)
from top_tvm.runtime.controller.named import controller_named
from top_tvm.runtime.engine import Engine, TaskFuture, open_runtime
from top_tvm.runtime.executable import Executable
from top_tvm.runtime.mix_executable import MixExecutable
from top_tvm.runtime.segment_runs import SegmentRun, segment_runs
from top_tvm.runtime.statistics import add_statistics
from top_tvm.runtime.supervisor import Supervisor
from top_tvm.runtime.variant_table import features_of, make_table, mix_of, with_modes

Array = npt.NDArray[Any]

_RUNNING: weakref.WeakSet[Runtime] = weakref.WeakSet()
MAX_PRIORITY = 7
_POLL_S = 0.5


class Runtime:
    """Executes tasks of several models as they come.

    Thread-safe. Every model has a bounded queue; a launcher dequeues tasks, first come first served
    within a priority and by deadline across models, in fair shares; instances of all models proceed
    side by side as the current *variant* says. A controller chooses the variant at intervals. Use
    it as a context manager, or call :meth:`close`.

    Parameters
    ----------
    models : MixExecutable, or mapping of str to Executable
        What :func:`top_tvm.build` made of several models, with the variants that it planned; or
        models that were built one by one, which run one after the other or side by side.
    queue_size : int
        Tasks of each model that may wait.
    mode : {"auto", "serial", "free", "merged"}
        Which variants may be chosen.
    controller : str or callable
        ``"heuristic"``; ``"static:ID"`` for one variant; or a function of a snapshot and the
        variants' features that returns a decision.
    control_interval_ms : float
        Time between decisions.
    stall_timeout_s : float
        A worker that has been inside one operator for so long is reported: in the log, and by
        :meth:`stats`.
    barriers : bool
        Segments of merged variants wait for each other, period by period: an ablation.

    Raises
    ------
    InputError
        There is no such mode, variant or controller, or no model.
    PlanError
        The variants' plans do not fit each other.
    DeviceError
        The models need more memory than this machine has, or kernels are missing.
    """

    def __init__(
        self,
        models: MixExecutable | Mapping[str, Executable],
        *,
        queue_size: int = 256,
        mode: str = "auto",
        controller: str | Controller = "heuristic",
        control_interval_ms: float = 20.0,
        stall_timeout_s: float = 5.0,
        barriers: bool = False,
    ) -> None:
        if queue_size < 1:
            raise InputError(f"queue_size must be at least 1, not {queue_size}")
        if not control_interval_ms > 0:
            raise InputError(f"control_interval_ms must be positive, not {control_interval_ms}")
        self._options = (queue_size, mode, controller, barriers)
        self._pid = os.getpid()
        self._lock = threading.Lock()  # of changes of the engine
        self._executables: dict[str, Executable] = {}
        self._old: list[Engine] = []
        self._past: dict[str, dict[str, Any]] = {}  # statistics of engines that have ended
        self._closed = False
        self._started_s = time.monotonic()
        self._engine = self._make_engine(models)
        self._supervisor = Supervisor(self._engines, control_interval_ms, stall_timeout_s)
        self._supervisor.start()
        _RUNNING.add(self)

    # --- Tasks ---

    def submit(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        deadline_ms: float | None = None,
        priority: int = 0,
    ) -> TaskFuture:
        """Hand in a task.

        Parameters
        ----------
        model : str
            Name of the model.
        inputs : mapping of str to array
            One array per input, by its ONNX name, with the shape for the smallest batch size. They
            are copied.
        deadline_ms : float, optional
            Time that the answer may take from now on. A task that cannot meet its deadline is
            refused, or given up when its turn comes, before work is done for it.
        priority : int
            0 to 7, the most urgent. Strict within a model.

        Returns
        -------
        concurrent.futures.Future
            Of a new array per output, by its ONNX name. ``cancel()`` works while the task waits.

        Raises
        ------
        InputError
            A name, dtype or shape is not what the model expects, or an option is out of range.
        QueueFull
            Too many tasks of the model wait.
        DeadlineExceeded
            The deadline cannot be met with what waits already.
        Closed
            The runtime is closed, or belongs to the parent process.
        """
        if deadline_ms is not None and not deadline_ms > 0:
            raise InputError(f"deadline_ms must be positive, not {deadline_ms}")
        if not 0 <= priority <= MAX_PRIORITY:
            raise InputError(f"priority must be 0 to {MAX_PRIORITY}, not {priority}")
        self._check_process()
        self._supervisor.task_submitted()
        engine = self._engine
        try:
            return engine.submit(model, inputs, deadline_ms, priority)
        except Closed:
            if self._closed or engine is self._engine:
                raise
        return self._engine.submit(model, inputs, deadline_ms, priority)

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        deadline_ms: float | None = None,
        priority: int = 0,
    ) -> dict[str, Array]:
        """Hand in a task and await its outputs; parameters and errors are those of submit."""
        future = self.submit(model, inputs, deadline_ms=deadline_ms, priority=priority)
        return await asyncio.wrap_future(future)

    # --- Models ---

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that tasks may be submitted for."""
        return self._engine.names

    def load(self, name: str, executable: Executable) -> None:
        """Serve one more model, or another one under the name, while tasks go on.

        Tasks that were submitted before end with the model that they were submitted for.

        Raises
        ------
        DeviceError
            There is not enough memory for it; nothing has changed then.
        InputError
            The runtime serves a mix, whose models were planned together: see :meth:`replace`.
        """
        with self._lock:
            self._check_open()
            if not self._executables:
                raise InputError("the models of a mix are planned together: use replace()")
            self._switch_to({**self._executables, name: executable})

    def unload(self, name: str) -> None:
        """Serve a model no longer; its tasks that were submitted before are still executed.

        Raises
        ------
        InputError
            There is no such model, or it is the last one, or the models are a mix.
        """
        with self._lock:
            self._check_open()
            if name not in self._executables or len(self._executables) == 1:
                raise InputError(f"{name!r} cannot be unloaded; there are: {list(self.models)}")
            rest = {key: exe for key, exe in self._executables.items() if key != name}
            self._switch_to(rest)

    def replace(self, models: MixExecutable | Mapping[str, Executable]) -> None:
        """Serve other models, or the same with other variants, while tasks go on.

        Raises
        ------
        InputError, PlanError, DeviceError
            As for the constructor; nothing has changed then.
        """
        with self._lock:
            self._check_open()
            self._switch_to(models)

    def _switch_to(self, models: MixExecutable | Mapping[str, Executable]) -> None:
        old, self._engine = self._engine, self._make_engine(models)
        # From here on nobody submits to the old one, but who had it in hand already.
        self._old.append(old)
        threading.Thread(target=self._retire, args=(old,), daemon=True).start()

    def _make_engine(self, models: MixExecutable | Mapping[str, Executable]) -> Engine:
        """An engine that has decided once; if that cannot be made, nothing has changed."""
        queue_size, mode, controller, barriers = self._options
        if isinstance(models, MixExecutable):
            executables, mix = models.models, models.mix
        else:
            executables = dict(models)
            if not executables:
                raise InputError("a runtime needs at least one model")
            mix = mix_of(executables)
        mix = with_modes(mix, mode)
        table = make_table(mix, barriers=barriers)
        features = features_of(mix, table)
        chosen = controller_named(controller, features, mode=mode)
        _check_memory(mix, executables)
        engine = Engine(open_runtime(mix, table, executables, queue_size), mix, features, chosen)
        engine.decide()
        engine.start()
        self._executables = {} if isinstance(models, MixExecutable) else executables
        return engine

    def _retire(self, engine: Engine) -> None:
        """Let an engine end its tasks, unless everything is closed meanwhile."""
        engine.native.close(False)
        while not engine.native.wait_idle(_POLL_S):
            if self._closed:
                return
        engine.close(0.0, cancel_queued=False)
        with self._lock:
            for name, statistics in engine.statistics().items():
                self._past[name] = add_statistics(self._past.get(name), statistics)
            self._old.remove(engine)

    def _engines(self) -> tuple[Engine, ...]:
        return (*self._old, self._engine)

    # --- Control ---

    def snapshot(self) -> Snapshot:
        """Queues, arrivals and progress of the models at this moment."""
        self._check_process()
        return snapshot_from(self._engine.native.snapshot())

    @property
    def streams(self) -> int:
        """Streams that the variants use."""
        return self._engine.streams

    @property
    def variants(self) -> tuple[VariantFeatures, ...]:
        """What may be chosen, in the order of their numbers in decisions."""
        return self._engine.features

    def apply(self, decision: Decision) -> None:
        """Change variant and dequeue frequencies now; a controller may change them again.

        Raises
        ------
        InputError
            There is no such variant, or a frequency is not positive.
        """
        self._check_process()
        self._engine.apply(decision)

    # --- State ---

    def stats(self) -> dict[str, Any]:
        """What has happened so far, and what is going on.

        Returns
        -------
        dict
            ``models``: per model ``submitted``, ``completed``, ``rejected`` (queue full),
            ``expired`` (deadline), ``cancelled``, ``failed``, ``late`` (completed after the
            deadline), ``launches`` (instances), ``queued`` and ``in_flight``, and ``queue``,
            ``compute`` and ``end_to_end`` times in microseconds (``count``, ``mean_us``,
            ``p50_us``, ``p95_us``, ``p99_us``, ``max_us``) of tasks that were completed since the
            models last changed. ``utilisation``: per stream, share of the time since then in which
            its worker had something to execute. ``variant``, ``reason`` (of the decision),
            ``dequeue_frequency`` per model (tasks per period), ``pace``, ``memory_bytes``,
            ``uptime_s``, and ``stuck`` workers.
        """
        self._check_process()
        with self._lock:
            engines, past = self._engines(), dict(self._past)
        models = {}
        for engine in engines:
            for name, statistics in engine.statistics().items():
                past[name] = add_statistics(past.get(name), statistics)
        current = engines[-1]
        snapshot = snapshot_from(current.native.snapshot())
        for name, statistics in past.items():
            index = current.names.index(name) if name in current.names else None
            view = None if index is None else snapshot.models[index]
            models[name] = {
                **statistics,
                "queued": 0 if view is None else view.queued,
                "in_flight": 0 if view is None else view.in_flight,
            }
        return {
            "models": models,
            "variant": current.features[snapshot.variant].id,
            "reason": current.decision.reason,
            "dequeue_frequency": {
                name: model.frequency
                for name, model in zip(current.names, snapshot.models, strict=True)
            },
            "pace": snapshot.pace[snapshot.variant],
            "utilisation": current.utilisation(),
            "memory_bytes": sum(engine.native.memory_bytes for engine in engines),
            "uptime_s": time.monotonic() - self._started_s,
            "stuck": list(self._supervisor.stuck),
        }

    def keep_segments(self, count: int) -> None:
        """Keep the latest ``count`` executed segments for :meth:`segments`; 0 for none.

        Applies to the present models, until they change.
        """
        if count < 0:
            raise InputError(f"count must be 0 or more, not {count}")
        self._check_process()
        self._engine.native.keep_segments(count)

    def segments(self) -> list[SegmentRun]:
        """Which segments of which tasks were executed when, in the order in which they ended."""
        self._check_process()
        engine = self._engine
        return segment_runs(engine.native.segments(), engine.names, engine.features)

    def busy_seconds(self) -> float:
        """Time that streams have had something to execute, summed over them.

        Counts from when the models last changed.
        """
        return sum(self._engine.native.busy_s())

    def drain(self, timeout_s: float = float("inf")) -> bool:
        """Wait until all tasks that were submitted have ended; whether they have in time."""
        self._check_process()
        end_s = time.monotonic() + timeout_s
        with self._lock:
            engines = self._engines()
        return all(engine.wait_idle(max(end_s - time.monotonic(), 0.0)) for engine in engines)

    def close(self, timeout_s: float = 5.0) -> None:
        """Take no more tasks, cancel those that wait, and wait for those that run.

        Tasks that run for longer than the timeout fail with :class:`DeviceError`. Every future is
        resolved when this returns. Closing again does nothing.
        """
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            engines = self._engines()
        self._supervisor.stop()
        end_s = time.monotonic() + timeout_s
        for engine in engines:
            engine.close(max(end_s - time.monotonic(), 0.0), cancel_queued=True)
        _RUNNING.discard(self)

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close: after all tasks have ended, or at once if the block was left by an exception."""
        if kind is None and os.getpid() == self._pid and not self._closed:
            self.drain()
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"variant {self.stats()['variant']!r}"
        return f"<Runtime of {', '.join(self.models)}; {state}>"

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise Closed("the runtime belongs to the parent process: make one after fork()")

    def _check_open(self) -> None:
        self._check_process()
        if self._closed:
            raise Closed("the runtime is closed")


def _check_memory(mix: Mix, executables: Mapping[str, Executable]) -> None:
    """Refuse models whose instances and weights would not fit this machine."""
    weights: dict[int, int] = {}
    for exe in executables.values():
        artifact: Artifact = exe.artifact
        weights |= {id(array): array.nbytes for array in artifact.constants.values()}
    flying = max(variant.memory_bytes for variant in mix.variants)
    needed, limit = flying + sum(weights.values()), memory_limit_bytes()
    if needed > limit:
        raise DeviceError(
            f"the models need {needed / 1e9:.1f} GB for weights and tasks in flight, this machine "
            f"has {limit / 1e9:.1f} GB: use fewer models, lanes or segments"
        )


def _close_all() -> None:
    for runtime in list(_RUNNING):
        runtime.close()


# Before the native module's own exit handler, because registered after it.
atexit.register(_close_all)
