"""The command ``top-tvm``.

Tables go to stdout and progress to stderr; with ``--json`` the last line on stdout is one JSON
object instead of the tables. Errors of the user end with exit code 2 and one line on stderr.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import top_tvm
from top_tvm.cli_options import (
    PARTITIONERS,
    JsonOption,
    ModelArgument,
    PrecisionOption,
    SeedOption,
    ShapeOption,
    StreamsOption,
    UsageError,
    check_choices,
    check_file,
    examples,
    parse_names,
    parse_shapes,
    unique_names,
)
from top_tvm.commands import build, inspect, loadtest, run
from top_tvm.errors import TopTVMError
from top_tvm.terminal import print_json, print_table, progress_bars

# NumPy, rich and the rest are imported by the commands that need them: --help is immediate.
if TYPE_CHECKING:
    import numpy.typing as npt

    from top_tvm.compare import System

    Array = npt.NDArray[Any]

_BENCH_COLUMNS = {
    "system": "system",
    "median us": "median_us",
    "20 %": "low_us",
    "80 %": "high_us",
    "min us": "min_us",
    "ratio of 20 %": "ratio",
    "error": "error",
}

app = typer.Typer(
    name="top-tvm",
    help="Compile models into multi-stream executables, run them and compare them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(epilog=build.EPILOG)(build.build)
app.command(epilog=run.EPILOG)(run.run)
app.command(epilog=inspect.EPILOG)(inspect.inspect)
app.command(epilog=loadtest.EPILOG)(loadtest.loadtest)


def main() -> None:
    """Entry point of ``top-tvm``."""
    try:
        app()
    except (TopTVMError, OSError) as error:
        message = " ".join(str(error).split())
        sys.stderr.write(f"top-tvm: error: {message}\n")
        sys.exit(2)


@app.command(
    epilog=examples(
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
    epilog=examples(
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


@app.command(epilog=examples("top-tvm doctor", "top-tvm doctor --json"))
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
