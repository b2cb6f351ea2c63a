"""Scheduled kernels for arguments with other strides."""

from __future__ import annotations

from collections.abc import Sequence

import tvm_ffi
from tvm import tirx


def with_strides(function: tirx.PrimFunc, strides: Sequence[tuple[int, ...]]) -> tirx.PrimFunc:
    """The same kernel for parameters with other strides.

    Parameters
    ----------
    function : tirx.PrimFunc
        All its parameters are contiguous buffers.
    strides : sequence of tuple of int
        Per parameter, in elements; ``()`` for one that stays contiguous.
    """
    changed = {}
    for param, of_param in zip(function.params, strides, strict=True):
        if of_param:
            shape, dtype = list(param.ty.shape), str(param.ty.dtype)
            # Indices are computed in the type of the shape.
            values = [tirx.IntImm(str(shape[0].ty), stride) for stride in of_param]
            changed[param] = tirx.decl_buffer(shape, dtype, param.name, strides=values)
    if not changed:
        return function
    return tvm_ffi.structural_map(
        function, (type(function.params[0]), lambda var: changed.get(var, var))
    )
