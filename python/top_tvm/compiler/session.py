"""Kernels and weights of a model under construction, ready to execute any plan over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from top_tvm import _native
from top_tvm.bfloat16 import raw
from top_tvm.plan import Plan
from top_tvm.runtime.native import onednn_module
from top_tvm.weights import aligned

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Session:
    """Loaded kernel library and aligned constants, shared by all plans that are tried."""

    library: Any
    constants: Mapping[str, Array]

    @classmethod
    def open(cls, kernels: bytes, constants: Mapping[str, Array]) -> Session:
        """Load a kernel library (``b""`` for none) and align the constants."""
        library = _native.KernelLibrary(kernels) if kernels else None
        return cls(library, {key: aligned(array) for key, array in constants.items()})

    def executor(self, plan: Plan) -> Any:
        """Executor of a plan (``run``, ``time``, ``timeline``)."""
        used = {tensor.storage for tensor in plan.tensors if tensor.space == "constant"}
        constants = {key: raw(self.constants[key]) for key in used}
        return _native.Executor(plan, constants, self.library, onednn_module())
