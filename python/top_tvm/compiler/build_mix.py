"""The way from several models to one file that an asynchronous runtime executes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from top_tvm.compiler.build import (
    Compilation,
    ModelOptions,
    Planned,
    check_options,
    compile_models,
    make_artifact,
    plan_model,
)
from top_tvm.compiler.measure_roofline import measure_roofline
from top_tvm.compiler.profile import Progress, ignore_progress
from top_tvm.compiler.segment_plans import MeasuredModel
from top_tvm.compiler.sources import Model
from top_tvm.compiler.variants import all_variants, plan_variants, worthwhile
from top_tvm.errors import PartitionError
from top_tvm.mix import Mix, with_measured
from top_tvm.mix_check import MAX_LANES, MAX_MODELS, MAX_SEGMENTS
from top_tvm.runtime.measure import measure_variants
from top_tvm.runtime.mix_executable import MixExecutable

DEFAULT_SEGMENTS = (1, 2, 3)
_LONGEST_NAME = 200


def build_mix(  # noqa: PLR0913
    models: Mapping[str, Model],
    *,
    target: str = "cpu",
    partitioner: str = "auto",
    streams: int = 2,
    batch_sizes: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    shapes: Mapping[str, Mapping[str, Sequence[int]]] | None = None,
    precision: str = "fp32",
    lanes: int | Sequence[int] | None = None,
    segments: int | Sequence[int] | None = None,
    every: bool = False,
    progress: Progress | None = None,
) -> MixExecutable:
    """Compile several models and plan how their tasks are executed together.

    Parameters
    ----------
    models : mapping of str to model
        By the names under which tasks will ask for them; otherwise as for
        :func:`~top_tvm.compiler.build.build`, like all options that are not described here.
    batch_sizes : sequence of int, or mapping of str to sequence of int, optional
        Batch sizes of all models, or of each by its name.
    shapes : mapping of str to mapping of str to sequence of int, optional
        By the name of the model, then of the input.
    lanes : int or sequence of int, optional
        How many tasks of a model may be in the same segment at the same time: every number gives
        variants. By default 1, 2, 4 and so on up to the number of streams.
    segments : int or sequence of int, optional
        How many parts models are cut into: every number gives variants. By default 1, 2 and 3.
    every : bool
        Measure and keep all variants, also those that others beat: for comparisons.

    Raises
    ------
    PartitionError
        If an option is not one of those above.
    """
    options = _options(models, batch_sizes, shapes)
    for of_model in options.values():
        check_options(target, partitioner, streams, of_model.batch_sizes)
    powers = [2**n for n in range(streams.bit_length())]
    lane_counts = _counts("lanes", lanes, powers, MAX_LANES)
    segment_counts = _counts("segments", segments, DEFAULT_SEGMENTS, MAX_SEGMENTS)
    report = progress or ignore_progress
    compilations = compile_models(options, streams=streams, precision=precision, progress=report)
    planned = {name: plan_model(c, partitioner, report) for name, c in compilations.items()}
    plan = all_variants if every else plan_variants
    variants = plan(
        {name: _measured(compilations[name], planned[name]) for name in options},
        lanes=lane_counts,
        segments=segment_counts,
        partitioner=partitioner,
        progress=report,
    )
    roofline = measure_roofline(streams, next(iter(compilations.values())).cache)
    artifacts = {
        name: make_artifact(compilations[name], planned[name], target, precision, roofline)
        for name in options
    }
    executable = MixExecutable(Mix(artifacts, variants))
    measured = with_measured(executable.mix, measure_variants(executable, report))
    if every:
        return MixExecutable(measured)
    return MixExecutable(replace(measured, variants=worthwhile(measured.variants)))


def _options(
    models: Mapping[str, Model],
    batch_sizes: Sequence[int] | Mapping[str, Sequence[int]] | None,
    shapes: Mapping[str, Mapping[str, Sequence[int]]] | None,
) -> dict[str, ModelOptions]:
    """What is asked for of every model."""
    if not 1 <= len(models) <= MAX_MODELS:
        raise PartitionError(f"a mix has 1 to {MAX_MODELS} models, not {len(models)}")
    for name in models:
        if not isinstance(name, str) or not name.isprintable():
            raise PartitionError(f"the name of a model must be printable text, not {name!r:.80}")
        if not 1 <= len(name) <= _LONGEST_NAME:
            raise PartitionError(
                f"the name of a model has 1 to {_LONGEST_NAME} characters, not {name!r:.80}"
            )
    for option, given in (("batch_sizes", batch_sizes), ("shapes", shapes)):
        if isinstance(given, Mapping) and (unknown := sorted(set(given) - set(models))):
            raise PartitionError(
                f"{option} names {', '.join(map(repr, unknown))}; the models are "
                f"{', '.join(map(repr, models))}"
            )
    sizes = batch_sizes if isinstance(batch_sizes, Mapping) else dict.fromkeys(models, batch_sizes)
    return {
        name: ModelOptions(model, sizes.get(name), (shapes or {}).get(name))
        for name, model in models.items()
    }


def _counts(
    option: str, given: int | Sequence[int] | None, default: Sequence[int], most: int
) -> tuple[int, ...]:
    wanted = default if given is None else given
    counts = tuple(wanted) if isinstance(wanted, Sequence) else (wanted,)
    if not counts:
        raise PartitionError(f"{option} must name at least one number")
    for count in counts:
        if not isinstance(count, int) or not 1 <= count <= most:
            raise PartitionError(f"{option} must be 1 to {most}, not {count!r:.80}")
    return counts


def _measured(compilation: Compilation, planned: Planned) -> MeasuredModel:
    graphs = {compiled.batch: compiled.extracted.graph for compiled in compilation.graphs}
    return MeasuredModel(graphs, planned.problems, planned.plans)
