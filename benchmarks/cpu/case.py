"""One case of the comparison: a model at a batch size and precision, loaded by all systems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

import top_tvm
from top_tvm.compare import (
    Progress,
    System,
    executable_system,
    onnxruntime_system,
    openvino_system,
)
from top_tvm.compiler.light_models import LIGHT_MODELS, light_model
from top_tvm.compiler.transformer_models import TRANSFORMER_MODELS, transformer_model
from top_tvm.plan import Plan
from top_tvm.random_inputs import random_inputs
from top_tvm.runtime.executable import Executable

Array = npt.NDArray[Any]

MODELS = (*LIGHT_MODELS, *TRANSFORMER_MODELS)
# Relative to the largest magnitude of an output; bfloat16 has 8 bits of mantissa.
TOLERANCE = {"fp32": 1e-4, "bf16": 8e-2}


def load_model(name: str, batch: int) -> onnx.ModelProto:
    if name in LIGHT_MODELS:
        return light_model(name, batch)
    return transformer_model(name, batch)


@dataclass(frozen=True)
class Case:
    """Executables are built when first used; all systems get the same inputs and threads."""

    model: str
    batch: int
    precision: str
    threads: int
    progress: Progress

    @cached_property
    def content(self) -> bytes:
        content: bytes = load_model(self.model, self.batch).SerializeToString()
        return content

    @cached_property
    def auto(self) -> Executable:
        return self._build("auto", self.threads)

    @cached_property
    def sequential(self) -> Executable:
        # The fastest plan often is the sequential one: then both are the same by construction.
        if self.plan.partitioner == "sequential":
            return self.auto
        return self._build("sequential", self.threads)

    @cached_property
    def one_stream(self) -> Executable:
        return self._build("sequential", 1)

    @property
    def plan(self) -> Plan:
        """The plan of `auto`."""
        return self.auto.artifact.plans[self.batch]

    @cached_property
    def inputs(self) -> Mapping[str, Array]:
        return random_inputs(self.plan)

    @cached_property
    def reference(self) -> list[Array]:
        """What ONNX Runtime computes, in float32."""
        return [np.array(output) for output in self.onnxruntime().run()]

    def onnxruntime(self, name: str = "onnxruntime", threads: int | None = None) -> System:
        return onnxruntime_system(name, self.content, self.inputs, threads or self.threads)

    def peers(self) -> list[System]:
        """The other systems with one request at a time; ONNX Runtime has float32 only."""
        openvino = openvino_system(
            "openvino", self.content, self.inputs, self.threads, self.precision
        )
        return [self.onnxruntime(), openvino] if self.precision == "fp32" else [openvino]

    def ours(self) -> list[System]:
        systems = [executable_system("sequential", self.sequential, self.inputs)]
        if self.auto is not self.sequential:
            systems.append(executable_system("auto", self.auto, self.inputs))
        return systems

    def _build(self, partitioner: str, streams: int) -> Executable:
        return top_tvm.build(
            self.content,
            partitioner=partitioner,
            streams=streams,
            batch_sizes=(self.batch,),
            precision=self.precision,
            progress=self.progress,
        )
