"""bfloat16 in NumPy, which has no such type, without the package that adds one (``ml_dtypes``).

Arrays of bfloat16 have a structured type with one field of 16 bits. That keeps them apart from
integers wherever constants are stored and loaded; nothing here computes with them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BFLOAT16 = np.dtype([("bfloat16", np.uint16)])


def dtype_name(dtype: np.dtype[Any]) -> str:
    """Name of an element type in plans, e.g. ``"float32"`` or ``"bfloat16"``."""
    return "bfloat16" if dtype.newbyteorder("=") == BFLOAT16 else str(dtype.name)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Element type of arrays by its name in plans."""
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


def raw(array: Array) -> Array:
    """The same memory in a type that the buffer protocol can name: bfloat16 as ``uint16``."""
    return array.view(np.uint16) if array.dtype == BFLOAT16 else array
