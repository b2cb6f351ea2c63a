"""Load on a live runtime: at given times, or by clients that wait for each answer.

A test with given times is an open loop: tasks are submitted when they are due, whether others have
been answered or not, and latency counts from that moment, not from that of the submission. So a
runtime that stalls is charged with everything that it made wait (no coordinated omission).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from top_tvm.errors import Cancelled, Closed, DeadlineExceeded, QueueFull
from top_tvm.loadtest.arrivals import Arrivals
from top_tvm.loadtest.record import MOST_SEGMENTS, LoadTask, Record, Sample
from top_tvm.runtime.engine import TaskFuture
from top_tvm.runtime.runtime import Runtime

Inputs = Mapping[str, npt.NDArray[Any]]
Progress = Callable[[Record, float], None]

# The last stretch before a task is due: a sleeping thread may wake too late by about this much.
_SPIN_S = 100e-6
# How soon a request to stop is seen, and how often the runtime is sampled.
_NAP_S = 0.05
_LEAST_DRAIN_S = 2.0
_CLOSE_S = 1.0
_RETRY_S = 1e-3


class Stop:
    """A request to end a test, which a signal handler may make: it takes no lock."""

    def __init__(self) -> None:
        self.requested = False


def run_open_loop(
    runtime: Runtime,
    arrivals: Arrivals,
    inputs: Mapping[str, Sequence[Inputs]],
    *,
    duration_s: float,
    deadline_ms: float | None = None,
    stop: Stop | None = None,
    progress: Progress | None = None,
) -> Record:
    """Submit every task when it is due, then wait until all have ended; closes the runtime.

    Parameters
    ----------
    runtime : Runtime
        New: what it counts is not used, but its queues should be empty.
    arrivals : Arrivals
        The tasks.
    inputs : mapping of str to sequence of inputs
        What tasks of each model are given, in turns.
    duration_s : float
        Least duration of the test: rates refer to it.
    deadline_ms : float, optional
        Of every task, from its intended arrival on.
    stop : Stop, optional
        Once it is requested, nothing is submitted any more, and tasks that have not ended after 2 s
        are cancelled.
    progress : callable, optional
        Called as ``progress(record, seconds)`` about 20 times a second.
    """
    test = _Test(runtime, inputs, duration_s, deadline_ms, stop or Stop())
    producer = threading.Thread(target=test.submit_all, args=(arrivals,), daemon=True)
    return test.run([producer], progress)


def run_closed_loop(
    runtime: Runtime,
    clients: Sequence[np.random.Generator],
    shares: Mapping[str, float],
    inputs: Mapping[str, Sequence[Inputs]],
    *,
    duration_s: float,
    deadline_ms: float | None = None,
    stop: Stop | None = None,
    progress: Progress | None = None,
) -> Record:
    """Let clients submit tasks, each as soon as its last one has ended; closes the runtime.

    Parameters
    ----------
    clients : sequence of numpy.random.Generator
        One per client, a thread that has one task going; it draws the models of its tasks.
    shares : mapping of str to float
        Relative frequency of every model.
    runtime, inputs, duration_s, deadline_ms, stop, progress
        As for :func:`run_open_loop`.
    """
    test = _Test(runtime, inputs, duration_s, deadline_ms, stop or Stop())
    threads = [
        threading.Thread(target=test.ask_again_and_again, args=(own, shares), daemon=True)
        for own in clients
    ]
    return test.run(threads, progress)


class _Test:
    """One run: producers submit, the delivery thread of the runtime says what became of it."""

    def __init__(
        self,
        runtime: Runtime,
        inputs: Mapping[str, Sequence[Inputs]],
        duration_s: float,
        deadline_ms: float | None,
        stop: Stop,
    ) -> None:
        self._runtime = runtime
        self._inputs = inputs
        self._duration_s = duration_s
        self._deadline_ms = deadline_ms
        self._stop = stop
        variants = runtime.variants
        self._record = Record(runtime.models, runtime.streams, variants[0].latency_us)
        self._ids = [variant.id for variant in variants]
        self._start_s = 0.0
        self._next_input = dict.fromkeys(inputs, 0)
        self._failure: BaseException | None = None

    def run(self, producers: Sequence[threading.Thread], progress: Progress | None) -> Record:
        """Start the producers, watch until they have ended and their tasks have, and close."""
        self._runtime.keep_segments(MOST_SEGMENTS)
        self._start_s = time.monotonic()
        try:
            for producer in producers:
                producer.start()
            while any(producer.is_alive() for producer in producers):
                self._look(progress)
            self._record.interrupted = self._stop.requested
            give_up_s: float | None = None
            while not self._runtime.drain(0.0):
                if self._stop.requested and give_up_s is None:
                    self._record.interrupted = True
                    give_up_s = self._now_s() + _LEAST_DRAIN_S
                if give_up_s is not None and self._now_s() > give_up_s:
                    break
                self._look(progress)
            self._sample()
            self._record.segments = [
                replace(
                    one,
                    begin_us=one.begin_us - 1e6 * self._start_s,
                    end_us=one.end_us - 1e6 * self._start_s,
                )
                for one in self._runtime.segments()
            ]
        finally:
            self._stop.requested = True
            self._runtime.close(_CLOSE_S)
        for producer in producers:
            producer.join()
        if self._failure is not None:
            raise self._failure
        record = self._record
        last_s = max((task.finished_s for task in record.tasks), default=0.0)
        least_s = 0.0 if record.interrupted else self._duration_s
        record.elapsed_s = max(last_s, least_s, 1e-3)
        return record

    def submit_all(self, arrivals: Arrivals) -> None:
        """Be the thread that submits tasks in time."""
        try:
            for arrival_s, model in zip(arrivals.times_s.tolist(), arrivals.models, strict=True):
                if not self._wait_until(self._start_s + arrival_s):
                    return
                self._submit(model, arrival_s)
        except BaseException as error:  # raised by the thread that waits
            self._failure = error

    def ask_again_and_again(
        self, generator: np.random.Generator, shares: Mapping[str, float]
    ) -> None:
        """Be the thread of a client."""
        names = list(shares)
        weights = np.array(list(shares.values()))
        weights /= weights.sum()
        try:
            while self._now_s() < self._duration_s and not self._stop.requested:
                model = names[generator.choice(len(names), p=weights)]
                future = self._submit(model, self._now_s())
                if future is None:
                    time.sleep(_RETRY_S)
                    continue
                # It ends at the latest when the runtime is closed.
                future.exception()
        except Cancelled:
            pass
        except BaseException as error:  # raised by the thread that waits
            self._failure = error

    def _submit(self, model: str, arrival_s: float) -> TaskFuture | None:
        task = LoadTask(model, arrival_s)
        pool = self._inputs[model]
        number = self._next_input[model]
        self._next_input[model] = (number + 1) % len(pool)
        task.submitted_s = task.finished_s = self._now_s()
        left_ms = self._deadline_ms
        if left_ms is not None:
            left_ms -= 1e3 * (task.submitted_s - arrival_s)
        future = None
        try:
            if left_ms is not None and left_ms <= 0:
                task.end = "expired"
            else:
                future = self._runtime.submit(model, pool[number], deadline_ms=left_ms)
        except QueueFull:
            task.end = "rejected"
        except DeadlineExceeded:
            task.end = "expired"
        except Closed:
            task.end = "cancelled"
        self._record.tasks.append(task)
        if future is not None:
            future.add_done_callback(partial(self._ended, task))
        return future

    def _ended(self, task: LoadTask, future: TaskFuture) -> None:
        times_ns = future.times_ns
        # A task that was given up has not been through the delivery.
        task.finished_s = self._now_s() if times_ns is None else 1e-9 * times_ns[2] - self._start_s
        if future.cancelled():
            task.end = "cancelled"
            return
        error = future.exception()
        if error is None:
            task.end = "completed"
        elif isinstance(error, DeadlineExceeded):
            task.end = "expired"
        elif isinstance(error, Cancelled | Closed):
            task.end = "cancelled"
        else:
            task.end = "failed"

    def _wait_until(self, due_s: float) -> bool:
        """Sleep, then spin; whether the test goes on."""
        while not self._stop.requested:
            left_s = due_s - time.monotonic()
            if left_s <= 0:
                return True
            if left_s > _SPIN_S:
                time.sleep(min(left_s - _SPIN_S, _NAP_S))
        return False

    def _now_s(self) -> float:
        return time.monotonic() - self._start_s

    def _look(self, progress: Progress | None) -> None:
        self._sample()
        if progress is not None:
            progress(self._record, self._now_s())
        time.sleep(_NAP_S)

    def _sample(self) -> None:
        variant = self._ids[self._runtime.snapshot().variant]
        self._record.samples.append(Sample(self._now_s(), variant, self._runtime.busy_seconds()))
