"""Throughput of one model against concurrency and batch size, measured on this CPU."""

from __future__ import annotations

from collections.abc import Iterator

from serving_support.cells import Effort, Record, in_turns
from serving_support.mixes import BuiltMix
from serving_support.open_loop import saturated_throughput
from serving_support.systems import OwnRuntime
from top_tvm.mix import Mix
from top_tvm.runtime.mix_executable import MixExecutable


def measure_self(built: BuiltMix, effort: Effort) -> Iterator[Record]:
    """One record per variant: throughput with more tasks than can be done."""
    (model,) = built.mix.models
    serial = built.mix.variants[0]
    systems = []
    for variant in built.mix.variants:
        variants = (serial,) if variant is serial else (serial, variant)
        executable = MixExecutable(Mix(built.mix.models, variants))
        systems.append(
            OwnRuntime(variant.id, executable, built.inputs, controller=f"static:{variant.id}")
        )
    try:
        found = in_turns(
            systems,
            lambda system, _: saturated_throughput(system, [model], effort.saturation_s),
            effort.repeats,
        )
    finally:
        for system in systems:
            system.close()
    for variant in built.mix.variants:
        shape = variant.models[model]
        yield {
            "section": "self",
            "device": "cpu (measured)",
            "model": model,
            "streams": variant.streams,
            "variant": variant.id,
            "mode": variant.mode,
            "lanes": len(shape.lanes),
            "segments": shape.segments,
            "batch": shape.batch_sizes[-1],
            "predicted_per_s": variant.capacity_per_s,
            "per_s": max(found[variant.id]),
            "all_per_s": found[variant.id],
        }
