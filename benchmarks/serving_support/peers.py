"""Other systems behind the common front: a pool of ONNX Runtime sessions, and OpenVINO."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serving_support.front import Front, Task
from serving_support.systems import Done, Inputs
from top_tvm.compare import compile_openvino, onnxruntime_system

PEERS = ("onnxruntime-1x2", "onnxruntime-2x1", "openvino-2x1")
_WARMUP_RUNS = 3
_TIMED_RUNS = 5


class OnnxRuntimePool:
    """Workers with a session of every model each, and so many threads per session."""

    def __init__(
        self, models: Mapping[str, bytes], inputs: Inputs, workers: int, threads: int
    ) -> None:
        self.name = f"onnxruntime-{workers}x{threads}"
        sessions = [
            {
                model: onnxruntime_system(self.name, content, inputs[model], threads).run
                for model, content in models.items()
            }
            for _ in range(workers)
        ]
        self._front = Front(_service_s(sessions[0]), workers)
        self._threads = [threading.Thread(target=self._work, args=(own,)) for own in sessions]
        for thread in self._threads:
            thread.start()

    def submit(self, model: str, deadline_s: float, done: Done) -> None:
        self._front.submit(model, deadline_s, done)

    def detail(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        self._front.close()
        for thread in self._threads:
            thread.join()

    def _work(self, runs: Mapping[str, Callable[[], object]]) -> None:
        while (task := self._front.take()) is not None:
            begin_s = time.perf_counter()
            runs[task.model]()
            self._front.finished(task, time.perf_counter() - begin_s)


class OpenVinoQueue:
    """An AsyncInferQueue per model: streams of one thread, and as many tasks at a time.

    The plugin gives every model streams of its own; the front holds the tasks of all models
    together to the number of the device's cores.
    """

    def __init__(self, models: Mapping[str, bytes], inputs: Inputs, streams: int) -> None:
        import openvino

        self.name = f"openvino-{streams}x1"
        self._inputs = {model: dict(inputs[model]) for model in models}
        self._queues = {}
        for model, content in models.items():
            compiled = compile_openvino(content, inputs[model], streams, "THROUGHPUT", "fp32")
            self._queues[model] = openvino.AsyncInferQueue(compiled, streams)
            self._queues[model].set_callback(self._ended)
        self._free = threading.Semaphore(streams)
        self._front = Front(
            _service_s({model: lambda name=model: self._run_once(name) for model in models}),
            streams,
        )
        self._dispatcher = threading.Thread(target=self._dispatch)
        self._dispatcher.start()

    def submit(self, model: str, deadline_s: float, done: Done) -> None:
        self._front.submit(model, deadline_s, done)

    def detail(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        self._front.close()
        self._free.release()
        self._dispatcher.join()
        for queue in self._queues.values():
            queue.wait_all()

    def _run_once(self, model: str) -> None:
        self._queues[model].start_async(self._inputs[model], None, share_inputs=True)
        self._queues[model].wait_all()

    def _dispatch(self) -> None:
        while True:
            self._free.acquire()
            task = self._front.take()
            if task is None:
                return
            # Of the model's own requests one is free: fewer than all run.
            self._queues[task.model].start_async(
                self._inputs[task.model], (task, time.perf_counter()), share_inputs=True
            )

    def _ended(self, request: Any, started: tuple[Task, float] | None) -> None:
        if started is None:
            return
        task, begin_s = started
        # What a client would be handed: arrays of its own.
        for output in request.model_outputs:
            request.get_tensor(output).data.copy()
        self._free.release()
        self._front.finished(task, time.perf_counter() - begin_s)


def peer_systems(
    models: Mapping[str, bytes], inputs: Inputs, wanted: Sequence[str]
) -> list[OnnxRuntimePool | OpenVinoQueue]:
    makers: dict[str, Callable[[], OnnxRuntimePool | OpenVinoQueue]] = {
        "onnxruntime-1x2": lambda: OnnxRuntimePool(models, inputs, 1, 2),
        "onnxruntime-2x1": lambda: OnnxRuntimePool(models, inputs, 2, 1),
        "openvino-2x1": lambda: OpenVinoQueue(models, inputs, 2),
    }
    return [makers[name]() for name in PEERS if name in wanted]


def _service_s(runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    times_s = {}
    for model, run in runs.items():
        for _ in range(_WARMUP_RUNS):
            run()
        begin_s = time.perf_counter()
        for _ in range(_TIMED_RUNS):
            run()
        times_s[model] = (time.perf_counter() - begin_s) / _TIMED_RUNS
    return times_s
