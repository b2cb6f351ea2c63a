"""Mixes with all variants that can be planned: a build keeps only those that others do not beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cpu.case import MODELS, load_model
from serving_support.systems import Inputs
from top_tvm.compiler.build_mix import build_mix
from top_tvm.compiler.profile import Progress
from top_tvm.compiler.variants import worthwhile
from top_tvm.mix import Mix
from top_tvm.random_inputs import random_inputs
from top_tvm.runtime.mix_executable import MixExecutable

STREAMS = 2


@dataclass(frozen=True)
class BuiltMix:
    """A mix, and what the peers need of its models.

    Attributes
    ----------
    mix : Mix
        With all variants.
    kept : MixExecutable
        With those that ``top_tvm.build`` keeps.
    contents : mapping of str to bytes
        The models as ONNX.
    inputs : mapping
        Of a task of every model.
    """

    mix: Mix
    kept: MixExecutable
    contents: Mapping[str, bytes]
    inputs: Inputs


def model_content(name: str, batch: int) -> bytes:
    """A model by its name, or from a file, as ONNX; 0 leaves the batch size open."""
    if name not in MODELS:
        return Path(name).read_bytes()
    model = load_model(name, batch or 2)
    if not batch:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    content: bytes = model.SerializeToString()
    return content


def build(
    names: Sequence[str],
    *,
    batch_sizes: Sequence[int],
    lanes: Sequence[int],
    segments: Sequence[int],
    progress: Progress,
) -> BuiltMix:
    """As ``top_tvm.build`` does, but also with the variants that it would drop.

    Parameters
    ----------
    names : sequence of str
        Of models that come with the packages, or of ONNX files.
    batch_sizes : sequence of int
        From 1 on; a file that fixes its batch size can only have that one.
    lanes, segments : sequence of int
        Of merged variants.
    progress : callable
        Told what is done.
    """
    mix = build_mix(
        {Path(name).stem: model_content(name, 0) for name in names},
        streams=STREAMS,
        batch_sizes=batch_sizes,
        lanes=lanes,
        segments=segments,
        every=True,
        progress=progress,
    ).mix
    kept = MixExecutable(replace(mix, variants=worthwhile(mix.variants)))
    contents = {Path(name).stem: model_content(name, 1) for name in names}
    inputs = {
        name: random_inputs(artifact.plans[min(artifact.plans)])
        for name, artifact in mix.models.items()
    }
    return BuiltMix(mix, kept, contents, inputs)
