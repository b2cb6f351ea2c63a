"""The command ``top-tvm``.

Tables go to stdout and progress to stderr; with ``--json`` the last line on stdout is one JSON
object instead of the tables. Errors of the user end with exit code 2 and one line on stderr.
"""

from __future__ import annotations

import json
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import top_tvm
from top_tvm.cli_options import (
    UsageError,
    check_choices,
    check_file,
    parse_batches,
    parse_names,
    parse_shapes,
    unique_names,
)
from top_tvm.errors import DeviceError, InputError, TopTVMError
from top_tvm.terminal import print_json, print_table, progress_bars

# NumPy, rich and the rest are imported by the commands that need them: --help is immediate.
if TYPE_CHECKING:
    import numpy.typing as npt

    from top_tvm.artifact import Artifact
    from top_tvm.compare import System
    from top_tvm.runtime.executable import Executable

    Array = npt.NDArray[Any]

PARTITIONERS = ("auto", "sequential", "greedy", "list", "ios", "gpg")

_PLAN_COLUMNS = {
    "batch": "batch",
    "partitioner": "partitioner",
    "streams": "streams",
    "ops": "ops",
    "stages": "stages",
    "predicted us": "predicted_us",
    "measured us": "measured_us",
}
_BENCH_COLUMNS = {
    "system": "system",
    "median us": "median_us",
    "20 %": "low_us",
    "80 %": "high_us",
    "min us": "min_us",
    "ratio of 20 %": "ratio",
    "error": "error",
}

# Enough to see whether runs differ, few enough for the viewers.
_MOST_TRACED_RUNS = 10

app = typer.Typer(
    name="top-tvm",
    help="Compile models into multi-stream executables, run them and compare them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Entry point of ``top-tvm``."""
    try:
        app()
    except (TopTVMError, OSError) as error:
        message = " ".join(str(error).split())
        sys.stderr.write(f"top-tvm: error: {message}\n")
        sys.exit(2)


def _examples(*lines: str) -> str:
    # \b: keep the line breaks that follow.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="An ONNX file.")]
BuildArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="An ONNX file, or a .pt2 file of torch.export.save; loading the latter can execute "
        "code in it, so use only those that you trust.",
    ),
]
FileArgument = Annotated[str, typer.Argument(metavar="FILE.top", help="A compiled model.")]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="NAME=1,3,224,224", help="Shape of an input; repeatable."),
]
StreamsOption = Annotated[
    int, typer.Option("--streams", min=1, help="Streams: worker threads that execute operators.")
]
PrecisionOption = Annotated[
    str,
    typer.Option("--precision", help="fp32, or bf16 where the CPU has AVX512-BF16 or AMX."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of the random inputs.")]


@app.command(
    epilog=_examples(
        "top-tvm build squeezenet.onnx -o squeezenet.top",
        "top-tvm build mobilenet.pt2 -o mobilenet.top",
        "top-tvm build bert.onnx -o bert.top --shape ids=1,128 --shape mask=1,128",
        "top-tvm build resnet.onnx -o resnet.top --batch 1,4 --streams 4 --partitioner ios --json",
    )
)
def build(
    model: BuildArgument,
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE.top", help="Result.")],
    target: Annotated[str, typer.Option(help="What to compile for: cpu.")] = "cpu",
    partitioner: Annotated[
        str, typer.Option(help=f"One of {', '.join(PARTITIONERS)}; auto keeps the fastest.")
    ] = "auto",
    streams: StreamsOption = 2,
    batch: Annotated[
        str | None,
        typer.Option(metavar="1,4", help="Batch sizes to plan for; default: 1, or the model's."),
    ] = None,
    shape: ShapeOption = None,
    precision: PrecisionOption = "fp32",
    as_json: JsonOption = False,
) -> None:
    """Compile a model into a file that `top-tvm run` executes."""
    from top_tvm.report import describe_plan

    check_file(model)
    check_choices("--partitioner", [partitioner], PARTITIONERS)
    if not Path(output).absolute().parent.is_dir():
        raise UsageError(f"-o {output}: there is no such directory")
    batch_sizes = None if batch is None else parse_batches(batch)
    shapes = parse_shapes(shape or ())
    start = time.perf_counter()
    report: dict[str, Any] = {"file": output}
    if as_json:  # else nobody sees it: the build checks for itself, and reading again takes time
        report["estimated_memory_bytes"] = top_tvm.estimate_memory(
            model, batch_sizes=batch_sizes, shapes=shapes
        )
    with progress_bars() as progress:
        executable = top_tvm.build(
            model,
            target=target,
            partitioner=partitioner,
            streams=streams,
            batch_sizes=batch_sizes,
            shapes=shapes,
            precision=precision,
            progress=progress,
        )
    executable.save(output)
    seconds = time.perf_counter() - start
    plans = [describe_plan(plan) for _, plan in sorted(executable.artifact.plans.items())]
    if as_json:
        first = {key: plans[0][key] for key in ("ops", "stages", "predicted_us", "measured_us")}
        print_json({**report, "seconds": seconds, **first, "plans": plans})
        return
    print_table(f"{output}, built in {seconds:.1f} s", _PLAN_COLUMNS, plans)


@app.command(
    epilog=_examples(
        "top-tvm run squeezenet.top --random-input --repeat 100",
        "top-tvm run squeezenet.top --input data=image.npy --output scores.npz",
        "top-tvm run squeezenet.top --random-input --trace trace.json   # for ui.perfetto.dev",
    )
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
    as_json: JsonOption = False,
) -> None:
    """Run a compiled model and show its outputs and its latency."""
    import numpy as np

    executable = top_tvm.load(file)
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


@app.command(
    epilog=_examples(
        "top-tvm inspect squeezenet.top",
        "top-tvm inspect squeezenet.top --html page.html   # timeline, graph, memory",
        "top-tvm inspect m.top --json",
    )
)
def inspect(
    file: FileArgument,
    html: Annotated[
        str | None,
        typer.Option(metavar="PAGE.html", help="Run the model and write a page that shows how."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the plans of a compiled model: stages, groups, operators and their times.

    Files for other CPUs can be inspected, too; their page shows what was predicted.
    """
    from top_tvm.artifact import load
    from top_tvm.report import describe_artifact
    from top_tvm.runtime.plan_view import view_plan

    artifact = load(file, any_cpu=True)
    described = describe_artifact(artifact)
    if html is not None:
        _write_page(html, artifact)
    if as_json:
        print_json(described)
        return
    if html is not None:
        sys.stdout.write(
            f"{html}: {Path(html).stat().st_size / 1e6:.1f} MB; open it in a browser\n"
        )
        return
    for batch, plan in sorted(artifact.plans.items()):
        view = view_plan(plan, artifact.profiles.get(batch, ()), artifact.metadata.roofline)
        sys.stdout.write(f"{view}\n\n")
    total, weights = described["memory_bytes"] / 1e6, described["weights_bytes"] / 1e6
    sys.stdout.write(
        f"{described['name']}, by {described['creator']} for {described['target']}: "
        f"{total:.1f} MB of memory, {weights:.1f} MB of them weights; "
        f"{described['layout_changes']} layout changes\n"
    )


@app.command(
    epilog=_examples(
        "top-tvm bench squeezenet.onnx",
        "top-tvm bench squeezenet.onnx --peers onnxruntime,openvino --streams 2",
        "top-tvm bench m.onnx --peers onnxruntime,onnxruntime   # how large is the error?",
    )
)
def bench(
    model: ModelArgument,
    peers: Annotated[
        str, typer.Option(metavar="LIST", help="Other systems: onnxruntime, openvino.")
    ] = "",
    partitioners: Annotated[
        str, typer.Option(metavar="LIST", help=f"Some of {', '.join(PARTITIONERS)}.")
    ] = "sequential,greedy,list,ios",
    streams: StreamsOption = 2,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Batch size; default: 1, or the model's.")
    ] = None,
    shape: ShapeOption = None,
    precision: PrecisionOption = "fp32",
    seed: SeedOption = 0,
    rounds: Annotated[int, typer.Option(min=1, help="How often each system is visited.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Compare partitioners and other systems on one model, in turns, with the same threads.

    20 % and 80 % are percentiles: the spread. The ratio is that of the 20th percentile, which
    neighbours on the machine disturb least, to the first peer's, or the first partitioner's where
    there is no peer. The error is the largest difference of the outputs from the same system's,
    relative to their largest magnitude.
    """
    from top_tvm import compare
    from top_tvm.random_inputs import random_inputs

    check_file(model)
    chosen, others = parse_names(partitioners), parse_names(peers)
    check_choices("--partitioners", chosen, PARTITIONERS)
    check_choices("--peers", others, tuple(compare.PEERS))
    if not chosen:
        raise UsageError("--partitioners: name at least one")
    shapes = parse_shapes(shape or ())
    names = unique_names([*others, *chosen])
    systems: list[System] = []
    with progress_bars() as progress:
        executables = [
            top_tvm.build(
                model,
                partitioner=partitioner,
                streams=streams,
                batch_sizes=None if batch is None else (batch,),
                shapes=shapes,
                precision=precision,
                progress=progress,
            )
            for partitioner in chosen
        ]
        plan = next(iter(executables[0].artifact.plans.values()))
        arrays = random_inputs(plan, seed)
        for name, peer in zip(names, others, strict=False):
            systems.append(compare.PEERS[peer](name, model, arrays, streams))
        for name, executable in zip(names[len(others) :], executables, strict=True):
            systems.append(compare.executable_system(name, executable, arrays))
        records = compare.compare(systems, rounds=rounds, progress=progress)
    if as_json:
        print_json(
            {
                "model": model,
                "threads": streams,
                "batch": plan.batch,
                "reference": systems[0].name,
                "systems": records,
            }
        )
        return
    title = f"{model}, {streams} threads, batch {plan.batch}"
    print_table(title, _BENCH_COLUMNS, records)


@app.command(
    epilog=_examples(
        "top-tvm train gpg --out gpg.safetensors --seed 2",
        "top-tvm train gpg --out gpg.safetensors --resume gpg.checkpoint",
        "top-tvm train gpg --out quick.safetensors --updates 300 --json",
    )
)
def train(
    what: Annotated[str, typer.Argument(metavar="gpg", help="The policy to train: gpg.")],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            metavar="FILE.safetensors",
            help="Weights. Beside them FILE.csv and FILE.png, the learning curve, and "
            "FILE.checkpoint to resume from.",
        ),
    ],
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="FILE.checkpoint",
            help="Go on from there, with the same options, as if there had been no interruption.",
        ),
    ] = None,
    updates: Annotated[
        int | None, typer.Option(min=1, help="How long to train. [default: about 10 minutes]")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of weights, graphs and samples. [default: 1]")
    ] = None,
    no_messages: Annotated[
        bool, typer.Option("--no-messages", help="To compare: without the graph neural network.")
    ] = False,
    no_merged: Annotated[
        bool, typer.Option("--no-merged", help="To compare: without graphs of several tasks.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train the policy that schedules op graphs; needs torch and dgl.

    The same options give the same weights, bit for bit.
    """
    check_choices("train", [what], ("gpg",))
    if Path(out).suffix != ".safetensors":
        raise UsageError(f"--out {out}: expected a name that ends in .safetensors")
    if resume is not None:
        check_file(resume)
        if (updates, seed) != (None, None) or no_messages or no_merged:
            raise UsageError("--resume goes on with the options of its checkpoint: give no others")
    try:
        from top_tvm.compiler.gpg import train as gpg
        from top_tvm.compiler.gpg.network import NetworkSize
    except ImportError as error:
        raise UsageError(
            f"training needs torch and dgl: {error}; pip install 'top_tvm[compile]' brings them "
            "for Python 3.10 and 3.11"
        ) from error

    default = gpg.Config()
    config = gpg.Config(
        seed=default.seed if seed is None else seed,
        updates=default.updates if updates is None else updates,
        merged=not no_merged,
        network=NetworkSize(rounds=0) if no_messages else default.network,
    )
    try:
        with progress_bars() as progress:
            if resume is None:
                curve = gpg.train(Path(out), config, progress)
            else:
                curve = gpg.resume(Path(resume), Path(out), progress)
    except KeyboardInterrupt:
        checkpoint = gpg.checkpoint_path(Path(out))
        sys.stderr.write(f"to go on: top-tvm train gpg --out {out} --resume {checkpoint}\n")
        raise typer.Exit(130) from None
    if as_json:
        print_json(
            {
                "reward": 1 - curve[-1].best_of_16,
                "seconds": curve[-1].seconds,
                "curve": [asdict(record) for record in curve],
                "file": out,
            }
        )
        return
    keys = ("updates", "seconds", "greedy", "best_of_16")
    columns = {key.replace("_", " "): key for key in keys}
    records = [
        {
            "updates": record.updates,
            "seconds": round(record.seconds),
            "greedy": f"{record.greedy:.4f}",
            "best_of_16": f"{record.best_of_16:.4f}",
        }
        for record in curve
    ]
    print_table("Time of schedules relative to list scheduling", columns, records)


@app.command(epilog=_examples("top-tvm doctor", "top-tvm doctor --json"))
def doctor(as_json: JsonOption = False) -> None:
    """Show versions, CPU features, kernel libraries and caches; fails if something is broken."""
    from top_tvm.doctor import examine

    report = examine()
    if as_json:
        print_json(report)
    else:
        for finding in report["findings"]:
            sys.stdout.write(f"{finding['status']:8} {finding['what']:16} {finding['detail']}\n")
            if finding["advice"]:
                sys.stdout.write(f"{'':25} -> {finding['advice']}\n")
    if report["status"] == "problem":
        raise typer.Exit(1)


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


def _write_page(path: str, artifact: Artifact) -> None:
    from top_tvm.device import host_description
    from top_tvm.page import measure, render
    from top_tvm.page.data import page_data
    from top_tvm.replace_file import write_text

    try:
        timelines, device, problem = measure(artifact), host_description(), ""
    except DeviceError as error:
        timelines, device, problem = {}, "", str(error)
    data = page_data(artifact, timelines, device=device, not_measured=problem)
    write_text(path, render(data))


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
