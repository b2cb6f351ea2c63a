"""``top-tvm loadtest``: what a runtime does with tasks that arrive as real ones would."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from top_tvm.cli_options import JsonOption, SeedOption, UsageError, check_choices, examples
from top_tvm.terminal import load_progress, print_json, print_table

if TYPE_CHECKING:
    from top_tvm.loadtest.live import Stop
    from top_tvm.loadtest.record import Record
    from top_tvm.loadtest.result import LoadResult
    from top_tvm.mix import Mix
    from top_tvm.runtime.controller.decision import VariantFeatures
    from top_tvm.runtime.mix_executable import MixExecutable

EPILOG = examples(
    "top-tvm loadtest mix.top",
    "top-tvm loadtest a.top b.top --rate 50 --share a=4,b=1 --deadline-ms 100",
    "top-tvm loadtest mix.top --arrivals mmpp --duration 60 --mode merged --json",
    "top-tvm loadtest mix.top --arrivals trace --trace arrivals.csv",
    "top-tvm loadtest mix.top --html page.html   # latency, backlog, variants over time",
    "top-tvm loadtest mix.top --simulate --controller static:serial",
)
_ARRIVALS = ("poisson", "uniform", "mmpp", "gamma", "closed", "trace")
_LOAD = 0.7
# Python submits some ten thousand tasks per second at most.
_MOST_DEFAULT_RATE = 2000.0
_DEFAULT_DURATION_S = 10.0
_DEFAULT_CLIENTS = 4
_INPUTS_PER_MODEL = 4


def loadtest(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE.top...", help="A mix, or models to be served together."),
    ],
    arrivals: Annotated[str, typer.Option(help=f"One of {', '.join(_ARRIVALS)}.")] = "poisson",
    trace: Annotated[
        str | None, typer.Option(metavar="FILE.csv", help="Lines arrival_time_s,model.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Tasks per second of all models. [default: 70 % of the capacity]"),
    ] = None,
    share: Annotated[
        str | None, typer.Option(metavar="a=2,b=1", help="Rates of the models relative to another.")
    ] = None,
    duration: Annotated[float | None, typer.Option(help="Seconds. [default: 10]")] = None,
    deadline_ms: Annotated[
        float | None, typer.Option("--deadline-ms", help="Of every task, from its arrival on.")
    ] = None,
    clients: Annotated[
        int | None, typer.Option(min=1, help="Of a closed loop: tasks at a time. [default: 4]")
    ] = None,
    mode: Annotated[str, typer.Option(help="auto, serial, free or merged.")] = "auto",
    controller: Annotated[str, typer.Option(help="heuristic, or static:ID.")] = "heuristic",
    simulate: Annotated[
        bool, typer.Option("--simulate", help="On a virtual device instead of this one.")
    ] = False,
    seed: SeedOption = 0,
    html: Annotated[
        str | None, typer.Option(metavar="PAGE.html", help="Write a page: what happened when.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Let tasks arrive at a runtime, and show throughput, latency and what was refused.

    Latency counts from the moment at which a task was to arrive. Ctrl-C ends the test early, and
    shows what there is by then.
    """
    from top_tvm.loadtest.result import summarize

    check_choices("--arrivals", [arrivals], _ARRIVALS)
    for option, value in (
        ("--rate", rate),
        ("--duration", duration),
        ("--deadline-ms", deadline_ms),
    ):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{option} {value:g}: expected a positive number")
    if seed < 0:
        raise UsageError(f"--seed {seed}: expected 0 or more")
    _check_combination(arrivals, trace, rate, share, clients)
    loaded = _load(files)
    settings = {
        "arrivals": arrivals,
        "rate": rate,
        "deadline_ms": deadline_ms,
        "mode": mode,
        "controller": controller,
        "simulated": simulate,
        "seed": seed,
    }
    record = _run(loaded, settings, trace, share, duration, clients)
    result = summarize(record, deadline_ms=deadline_ms, settings=settings)
    if html is not None:
        _write_page(html, files, record, result)
    if as_json:
        print_json(result.as_json())
    else:
        _print(result)


def _write_page(path: str, files: list[str], record: Record, result: LoadResult) -> None:
    from top_tvm.loadtest.page import page_data, render
    from top_tvm.replace_file import write_text

    name = ", ".join(Path(file).stem for file in files)
    write_text(path, render(page_data(name, record, result)))


def _check_combination(
    arrivals: str, trace: str | None, rate: float | None, share: str | None, clients: int | None
) -> None:
    if (arrivals == "trace") != (trace is not None):
        raise UsageError("--arrivals trace and --trace FILE.csv go together")
    if arrivals != "closed" and clients is not None:
        raise UsageError("--clients is for --arrivals closed")
    if arrivals in ("closed", "trace") and rate is not None:
        raise UsageError(f"--rate has no meaning with --arrivals {arrivals}")
    if arrivals == "trace" and share is not None:
        raise UsageError("--share has no meaning with --arrivals trace")


def _run(
    loaded: MixExecutable | dict[str, Any],
    settings: dict[str, Any],
    trace: str | None,
    share: str | None,
    duration: float | None,
    clients: int | None,
) -> Record:
    import numpy as np

    from top_tvm.loadtest.arrivals import random_arrivals, read_trace
    from top_tvm.loadtest.live import run_closed_loop, run_open_loop
    from top_tvm.loadtest.simulated import (
        SampledRuntime,
        run_closed_simulated,
        run_simulated,
    )
    from top_tvm.random_inputs import random_inputs
    from top_tvm.runtime.mix_executable import MixExecutable
    from top_tvm.runtime.runtime import Runtime
    from top_tvm.runtime.variant_table import mix_of

    mix: Mix = loaded.mix if isinstance(loaded, MixExecutable) else mix_of(loaded)
    shares = _shares(share, tuple(mix.models))
    mode, seed, deadline_ms = settings["mode"], settings["seed"], settings["deadline_ms"]
    options = {"mode": mode, "controller": settings["controller"]}
    duration_s = duration or _DEFAULT_DURATION_S
    runtime: Any
    if settings["simulated"]:
        runtime = SampledRuntime(mix, **options)
        features = runtime.features
    else:
        runtime = Runtime(loaded, **options)
        features = runtime.variants
    try:
        if settings["arrivals"] == "trace":
            assert trace is not None
            tasks = read_trace(trace, tuple(mix.models), duration or float("inf"))
            duration_s = duration or float(tasks.times_s[-1])
        elif settings["arrivals"] != "closed":
            settings["rate"] = settings["rate"] or _default_rate(features, shares)
            rates = {name: settings["rate"] * part for name, part in shares.items()}
            tasks = random_arrivals(settings["arrivals"], rates, duration_s, seed)
        settings["duration_s"] = duration_s
        if settings["arrivals"] == "closed":
            settings["clients"] = clients or _DEFAULT_CLIENTS
            generators = np.random.default_rng(seed).spawn(settings["clients"])
        limits: dict[str, Any] = {"duration_s": duration_s, "deadline_ms": deadline_ms}
        if settings["simulated"] and settings["arrivals"] == "closed":
            return run_closed_simulated(runtime, generators, shares, **limits)
        if settings["simulated"]:
            return run_simulated(runtime, tasks, **limits)
        inputs = {
            name: [
                random_inputs(artifact.plans[min(artifact.plans)], seed + number)
                for number in range(_INPUTS_PER_MODEL)
            ]
            for name, artifact in mix.models.items()
        }
        with _interrupts() as stop, load_progress(deadline_ms) as progress:
            common: dict[str, Any] = {**limits, "stop": stop, "progress": progress}
            if settings["arrivals"] == "closed":
                return run_closed_loop(runtime, generators, shares, inputs, **common)
            return run_open_loop(runtime, tasks, inputs, **common)
    finally:
        if isinstance(runtime, Runtime):
            runtime.close(1.0)


def _load(files: list[str]) -> MixExecutable | dict[str, Any]:
    from top_tvm import mix_file
    from top_tvm.mix import Mix
    from top_tvm.runtime.executable import Executable
    from top_tvm.runtime.mix_executable import MixExecutable

    models: dict[str, Any] = {}
    for file in files:
        content = mix_file.load(file)
        if isinstance(content, Mix):
            if len(files) > 1:
                raise UsageError(f"{file} is a mix, which is served alone: give no other file")
            return MixExecutable(content)
        name = Path(file).stem
        if name in models:
            raise UsageError(f"{file}: there is another model {name!r}; rename one of the files")
        models[name] = Executable(content)
    return models


def _shares(text: str | None, models: tuple[str, ...]) -> dict[str, float]:
    """Parts of the rate by model; they add up to 1."""
    if text is None:
        return dict.fromkeys(models, 1 / len(models))
    parts: dict[str, float] = {}
    for item in text.split(","):
        name, _, number = item.rpartition("=")
        try:
            parts[name] = float(number)
        except ValueError:
            parts[name] = 0.0
        if name not in models or not 0 < parts[name] < float("inf"):
            raise UsageError(
                f"--share {text}: expected MODEL=NUMBER,..., positive; models: {', '.join(models)}"
            )
    if missing := [name for name in models if name not in parts]:
        raise UsageError(f"--share {text}: there is no share for {', '.join(missing)}")
    return {name: parts[name] / sum(parts.values()) for name in models}


def _default_rate(features: tuple[VariantFeatures, ...], shares: dict[str, float]) -> float:
    """A part of what the best variant can do."""
    work_us = min(
        sum(part * work for part, work in zip(shares.values(), one.work_us, strict=True))
        for one in features
    )
    return min(_LOAD * 1e6 / max(work_us, 1e-3), _MOST_DEFAULT_RATE)


@contextmanager
def _interrupts() -> Iterator[Stop]:
    """The first Ctrl-C asks the test to end, the second ends the command."""
    from top_tvm.loadtest.live import Stop

    stop = Stop()

    def handle(*_: object) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _print(result: LoadResult) -> None:
    settings = result.settings
    where = "simulated" if settings["simulated"] else "live"
    early = ", interrupted" if result.interrupted else ""
    records = [{"model": name, **vars(one)} for name, one in result.models.items()]
    if len(records) > 1:
        records.append({"model": "all", **vars(result.total)})
    keys = ("model", "submitted", "completed", "rejected", "expired", "cancelled", "failed")
    title = f"{settings['arrivals']}, {where}, {result.elapsed_s:.1f} s{early}"
    print_table(f"{title}: tasks", {key: key for key in keys}, records)
    columns = {"model": "model", "per s": "throughput", "in time per s": "goodput"}
    columns |= {"p50 ms": "p50_ms", "p95 ms": "p95_ms", "p99 ms": "p99_ms"}
    columns |= {"backlog": "backlog_max", "utilisation": "utilisation"}
    print_table(f"{title}: rates and latencies", columns, records)
    used = ", ".join(f"{name} {100 * part:.0f} %" for name, part in result.variants.items())
    sys.stdout.write(f"variants: {used}\n")
    if result.late_p99_ms is not None and result.late_p99_ms > 1:
        sys.stdout.write(
            f"tasks were submitted up to {result.late_p99_ms:.1f} ms late (99 %), which is part of "
            "the latencies: this process cannot submit faster\n"
        )
