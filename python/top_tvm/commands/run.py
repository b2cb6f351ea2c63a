"""``top-tvm run``: outputs and latency of a compiled model."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from top_tvm.cli_options import (
    FileArgument,
    JsonOption,
    ModelOption,
    SeedOption,
    UsageError,
    choose_model,
    examples,
)
from top_tvm.errors import InputError
from top_tvm.terminal import print_json, print_table

# NumPy and the rest are imported when they are needed: --help is immediate.
if TYPE_CHECKING:
    import numpy.typing as npt

    from top_tvm.runtime.executable import Executable

    Array = npt.NDArray[Any]

# Enough to see whether runs differ, few enough for the viewers.
_MOST_TRACED_RUNS = 10


EPILOG = examples(
    "top-tvm run squeezenet.top --random-input --repeat 100",
    "top-tvm run squeezenet.top --input data=image.npy --output scores.npz",
    "top-tvm run mix.top --model squeezenet --random-input",
    "top-tvm run squeezenet.top --random-input --trace trace.json   # for ui.perfetto.dev",
)


def run(
    file: FileArgument,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=X.npy", help="An input array; repeatable."),
    ] = None,
    random_input: Annotated[
        bool, typer.Option("--random-input", help="Random values for inputs not given.")
    ] = False,
    seed: SeedOption = 0,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Batch size of random inputs; default: the smallest.")
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Timed runs, after two for warm-up.")] = 10,
    trace: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write up to ten runs for ui.perfetto.dev.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(metavar="OUT.npz", help="Write the outputs.")
    ] = None,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a compiled model and show its outputs and its latency."""
    import numpy as np

    from top_tvm import mix_file
    from top_tvm.runtime.executable import Executable

    executable = Executable(choose_model(file, mix_file.load(file), model))
    arrays = _read_inputs(executable, inputs or (), random_input, seed, batch)
    outputs = executable.run(arrays)
    times_us = executable.time(arrays, warmup=2, repeats=repeat)
    if output is not None:
        _write_npz(Path(output), outputs)
    if trace is not None:
        _write_trace(trace, executable, arrays, repeat)
    latency_us = {
        "median": float(np.median(times_us)),
        "min": float(times_us.min()),
        "max": float(times_us.max()),
    }
    described = [
        {"name": name, "shape": list(array.shape), "dtype": str(array.dtype)}
        for name, array in outputs.items()
    ]
    if as_json:
        print_json({"latency_us": latency_us, "outputs": described, "repeat": repeat})
        return
    print_table(
        f"{repeat} runs: median {latency_us['median']:.0f} us, min {latency_us['min']:.0f} us, "
        f"max {latency_us['max']:.0f} us",
        {"output": "name", "shape": "shape", "dtype": "dtype"},
        described,
    )


def _read_inputs(
    executable: Executable, options: Sequence[str], random: bool, seed: int, batch: int | None
) -> dict[str, Array]:
    import numpy as np

    from top_tvm.random_inputs import random_inputs

    plans = executable.artifact.plans
    if batch is not None and batch not in plans:
        known = ", ".join(map(str, sorted(plans)))
        raise UsageError(f"--batch {batch}: the file has plans for batch {known}")
    arrays = random_inputs(plans[batch or min(plans)], seed) if random else {}
    for option in options:
        name, _, path = option.partition("=")
        if not name or not path:
            raise UsageError(f"--input {option}: expected NAME=X.npy")
        try:
            with Path(path).open("rb") as npy:
                arrays[name] = np.lib.format.read_array(npy, allow_pickle=False)
        except ValueError as error:
            raise InputError(f"--input {option}: not a .npy array: {error}") from error
    missing = [spec.name for spec in executable.inputs if spec.name not in arrays]
    if missing:
        raise UsageError(
            f"no value for input {', '.join(missing)}: give --input NAME=X.npy or --random-input"
        )
    return arrays


def _write_npz(path: Path, outputs: Mapping[str, Array]) -> None:
    """As numpy.savez, which however adds a suffix and has parameters where outputs have names."""
    import numpy as np

    with zipfile.ZipFile(path, "w") as archive:
        for name, array in outputs.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def _write_trace(path: str, executable: Executable, arrays: Mapping[str, Array], runs: int) -> None:
    from top_tvm.replace_file import write_text
    from top_tvm.trace import trace_events

    plan = next(
        plan
        for plan in executable.artifact.plans.values()
        if all(arrays[t.storage].shape == t.shape for t in (plan.tensors[i] for i in plan.inputs))
    )
    profiles = executable.artifact.profiles.get(plan.batch, ())
    times_us = executable.timeline(arrays, repeats=min(runs, _MOST_TRACED_RUNS))
    events = trace_events(executable.artifact.metadata.name, plan, times_us, profiles)
    write_text(path, json.dumps(events) + "\n")
