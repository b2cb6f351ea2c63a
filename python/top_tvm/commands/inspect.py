"""``top-tvm inspect``: what is in a ``.top`` file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from top_tvm.cli_options import (
    FileArgument,
    JsonOption,
    ModelOption,
    choose_model,
    examples,
)
from top_tvm.errors import DeviceError
from top_tvm.terminal import print_json, print_table, print_variants

if TYPE_CHECKING:
    from top_tvm.artifact import Artifact
    from top_tvm.mix import Mix

EPILOG = examples(
    "top-tvm inspect squeezenet.top",
    "top-tvm inspect squeezenet.top --html page.html   # timeline, graph, memory",
    "top-tvm inspect mix.top --json   # its variants",
    "top-tvm inspect mix.top --model squeezenet",
)


def inspect(
    file: FileArgument,
    html: Annotated[
        str | None,
        typer.Option(metavar="PAGE.html", help="Run the model and write a page that shows how."),
    ] = None,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the plans of a compiled model: stages, groups, operators and their times.

    Of a mix without --model, show its variants. Files for other CPUs can be inspected, too; their
    page shows what was predicted.
    """
    from top_tvm import mix_file
    from top_tvm.mix import Mix

    content = mix_file.load(file, any_cpu=True)
    if isinstance(content, Mix) and model is None and html is None:
        _inspect_mix(file, content, as_json)
        return
    _inspect_model(choose_model(file, content, model), html, as_json)


def _inspect_model(artifact: Artifact, html: str | None, as_json: bool) -> None:
    from top_tvm.report import describe_artifact
    from top_tvm.runtime.plan_view import view_plan

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


def _inspect_mix(file: str, mix: Mix, as_json: bool) -> None:
    from top_tvm.report import describe_mix

    described = describe_mix(mix)
    if as_json:
        print_json(described)
        return
    columns = {
        "model": "model",
        "batch": "batch",
        "partitioner": "partitioner",
        "ops": "ops",
        "predicted us": "predicted_us",
        "measured us": "measured_us",
    }
    print_table(f"{file}: plans for one task at a time", columns, described["plans"])
    print_variants("Variants", described["variants"])
    total, weights = described["memory_bytes"] / 1e6, described["weights_bytes"] / 1e6
    sys.stdout.write(f"at most {total:.1f} MB of memory, {weights:.1f} MB of them weights\n")


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
