"""Requests per second with two clients, or as many as a system asks for, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from case import Case
from top_tvm.compare import compile_openvino, executable_system, ratio_over_rounds, take_turns

CLIENTS = 2
BURST_S = 0.4
MIN_BURST = 8

# Handles that many requests and returns when all are answered.
Burst = Callable[[int], None]


def measure_throughput(case: Case, rounds: int) -> dict[str, Any]:
    """Time per request of every system, and the ratio best peer / the better of ours."""
    with ThreadPoolExecutor(CLIENTS) as clients:
        ours = {
            "one stream": [executable_system("", case.one_stream, case.inputs).run] * CLIENTS,
            "two streams": [executable_system("", case.auto, case.inputs).run] * CLIENTS,
        }
        bursts: dict[str, Burst] = {
            name: partial(_run_clients, clients, runs) for name, runs in ours.items()
        }
        bursts["openvino"] = _openvino_burst(case)
        if case.precision == "fp32":
            sessions = [case.onnxruntime(threads=1).run for _ in range(CLIENTS)]
            bursts["onnxruntime"] = partial(_run_clients, clients, sessions)
        visits = [partial(_visit, burst) for burst in bursts.values()]
        measured = take_turns(visits, rounds, case.progress)
    request_us = dict(zip(bursts, measured, strict=True))
    median_us = {name: float(np.median(times)) for name, times in request_us.items()}
    best = min(bursts.keys() - ours.keys(), key=lambda name: median_us[name])
    own = min(ours, key=lambda name: median_us[name])
    return {
        "per_second": {name: case.batch * 1e6 / value for name, value in median_us.items()},
        "best_peer": best,
        "best_own": own,
        "ratio": asdict(ratio_over_rounds(request_us[best], request_us[own])),
    }


def _visit(burst: Burst) -> float:
    """Microseconds per request, after a warm-up."""
    warmup_us = _request_us(burst, 2 * CLIENTS)
    return _request_us(burst, max(MIN_BURST, CLIENTS * round(BURST_S * 1e6 / warmup_us / CLIENTS)))


def _request_us(burst: Burst, requests: int) -> float:
    start = time.perf_counter()
    burst(requests)
    return (time.perf_counter() - start) * 1e6 / requests


def _run_clients(
    clients: ThreadPoolExecutor, runs: Sequence[Callable[[], object]], requests: int
) -> None:
    def client(run: Callable[[], object]) -> None:
        for _ in range(requests // len(runs)):
            run()

    list(clients.map(client, runs))


def _openvino_burst(case: Case) -> Burst:
    """OpenVINO with its throughput hint and as many requests in flight as it finds best."""
    import openvino

    model = compile_openvino(case.content, case.inputs, case.threads, "THROUGHPUT", case.precision)
    queue = openvino.AsyncInferQueue(model)
    feed = dict(case.inputs)

    def burst(requests: int) -> None:
        for _ in range(requests):
            queue.start_async(feed, share_inputs=True)
        queue.wait_all()

    return burst
