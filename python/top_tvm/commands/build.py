"""``top-tvm build``: from model files to one ``.top`` file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

import top_tvm
from top_tvm.cli_options import (
    PARTITIONERS,
    JsonOption,
    PrecisionOption,
    ShapeOption,
    StreamsOption,
    UsageError,
    check_choices,
    examples,
    parse_batches,
    parse_counts,
    parse_models,
    parse_shapes,
    split_shapes,
)
from top_tvm.terminal import print_json, print_table, print_variants, progress_bars

EPILOG = examples(
    "top-tvm build squeezenet.onnx -o squeezenet.top",
    "top-tvm build mobilenet.pt2 -o mobilenet.top",
    "top-tvm build bert.onnx -o bert.top --shape ids=1,128 --shape mask=1,128",
    "top-tvm build resnet.onnx -o resnet.top --batch 1,4 --streams 4 --partitioner ios --json",
    "top-tvm build resnet.onnx text=bert.onnx -o mix.top --lanes 1,2 --segments 1,2,3",
)

_PLAN_COLUMNS = {
    "batch": "batch",
    "partitioner": "partitioner",
    "streams": "streams",
    "ops": "ops",
    "stages": "stages",
    "predicted us": "predicted_us",
    "measured us": "measured_us",
}


def build(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="An ONNX file, or a .pt2 file of torch.export.save; loading the latter can "
            "execute code in it, so use only those that you trust. Several make a mix, in which "
            "each has the name of its file, or NAME=FILE.",
        ),
    ],
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
    lanes: Annotated[
        str | None,
        typer.Option(metavar="1,2", help="Of a mix: tasks of a model in a segment at a time."),
    ] = None,
    segments: Annotated[
        str | None, typer.Option(metavar="1,2,3", help="Of a mix: parts that models are cut into.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compile a model, or a mix of models, into a file that `top-tvm run` executes.

    In a mix, --shape takes MODEL:NAME=1,3,224,224.
    """
    given = parse_models(models)
    check_choices("--partitioner", [partitioner], PARTITIONERS)
    if not Path(output).absolute().parent.is_dir():
        raise UsageError(f"-o {output}: there is no such directory")
    options: dict[str, Any] = {
        "target": target,
        "partitioner": partitioner,
        "streams": streams,
        "precision": precision,
        "batch_sizes": None if batch is None else parse_batches(batch),
    }
    shapes = parse_shapes(shape or ())
    if isinstance(given, str):
        for option, text in (("--lanes", lanes), ("--segments", segments)):
            if text is not None:
                raise UsageError(f"{option} is for a mix: give several models, or NAME=FILE")
        _build_model(given, output, {**options, "shapes": shapes}, as_json)
        return
    if lanes is not None:
        options["lanes"] = parse_counts("--lanes", lanes, "1,2")
    if segments is not None:
        options["segments"] = parse_counts("--segments", segments, "1,2,3")
    _build_mix(given, output, {**options, "shapes": split_shapes(shapes, given)}, as_json)


def _build_model(model: str, output: str, options: dict[str, Any], as_json: bool) -> None:
    from top_tvm.report import describe_plan

    start = time.perf_counter()
    report: dict[str, Any] = {"file": output}
    if as_json:  # else nobody sees it: the build checks for itself, and reading again takes time
        report["estimated_memory_bytes"] = top_tvm.estimate_memory(
            model, batch_sizes=options["batch_sizes"], shapes=options["shapes"]
        )
    with progress_bars() as progress:
        executable = top_tvm.build(model, **options, progress=progress)
    executable.save(output)
    seconds = time.perf_counter() - start
    plans = [describe_plan(plan) for _, plan in sorted(executable.artifact.plans.items())]
    if as_json:
        first = {key: plans[0][key] for key in ("ops", "stages", "predicted_us", "measured_us")}
        print_json({**report, "seconds": seconds, **first, "plans": plans})
        return
    print_table(f"{output}, built in {seconds:.1f} s", _PLAN_COLUMNS, plans)


def _build_mix(models: dict[str, str], output: str, options: dict[str, Any], as_json: bool) -> None:
    from top_tvm.report import describe_mix

    start = time.perf_counter()
    with progress_bars() as progress:
        executable = top_tvm.build(models, **options, progress=progress)
    executable.save(output)
    seconds = time.perf_counter() - start
    described = describe_mix(executable.mix)
    if as_json:
        keys = ("ops", "plans", "variants", "capacity_per_s", "memory_bytes")
        print_json({"file": output, "seconds": seconds, **{key: described[key] for key in keys}})
        return
    columns = {"model": "model", **_PLAN_COLUMNS}
    print_table(f"{output}, built in {seconds:.1f} s", columns, described["plans"])
    print_variants("Variants, simulated", described["variants"])
