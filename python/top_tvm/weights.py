"""Arrays as safetensors, laid out so that they can be mapped into memory and used in place.

Kernels need data at multiples of 64 bytes, which the format does not promise. Its header may be
padded with spaces, so the data begins where we want it; the format forbids gaps between tensors, so
each gap is a tensor of its own, whose name starts with ``__padding__``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from top_tvm.bfloat16 import dtype_name, numpy_dtype
from top_tvm.errors import ArtifactError
from top_tvm.plan import ALIGNMENT_BYTES, DTYPE_BYTES
from top_tvm.strict_json import StrictJSONError, parse

Array = npt.NDArray[np.generic]

_CODES = {
    "bool": "BOOL",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}
_DTYPES = {code: name for name, code in _CODES.items()}
_PADDING = "__padding__"
_MAX_HEADER_BYTES = 16 * 2**20  # some 100,000 tensors
_MAX_DIMENSIONS = 32
_MAX_EXTENT = 2**62


def aligned(array: npt.ArrayLike) -> Array:
    """Return the array itself, or where a kernel could not read it in place, a copy.

    Returns
    -------
    numpy.ndarray
        C-contiguous, in native byte order, at an address that is a multiple of 64.
    """
    source: Array = np.asarray(array)
    dtype = source.dtype.newbyteorder("=")
    if (
        source.flags.c_contiguous
        and source.dtype == dtype
        and source.ctypes.data % ALIGNMENT_BYTES == 0
    ):
        return source
    memory = np.empty(source.nbytes + ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT_BYTES
    copy: Array = np.ndarray(source.shape, dtype, memory.data, start)
    copy[...] = source
    return copy


def encoded_bytes(arrays: Mapping[str, Array]) -> int:
    """Upper bound of the size of :func:`encode_weights`."""
    header = sum(
        2 * len(json.dumps(name)) + 30 * array.ndim + 400 for name, array in arrays.items()
    )
    return header + sum(array.nbytes + ALIGNMENT_BYTES for array in arrays.values()) + 1024


def encode_weights(arrays: Mapping[str, Array], offset: int) -> Iterator[bytes | memoryview]:
    """Write arrays as safetensors.

    Parameters
    ----------
    arrays : mapping of str to numpy.ndarray
        By name.
    offset : int
        Where the result will begin in its file; the arrays' data is aligned within the file.

    Yields
    ------
    bytes or memoryview
        The result, piece by piece.

    Raises
    ------
    ArtifactError
        If a name or dtype cannot be stored.
    """
    header: dict[str, object] = {}
    end = 0
    for name, array in arrays.items():
        if name.startswith("__"):
            raise ArtifactError(f"constant {name!r}: names that start with '__' are reserved")
        code = _CODES.get(dtype_name(array.dtype))
        if code is None:
            raise ArtifactError(
                f"constant {name!r}: dtype {array.dtype} is not supported; known: "
                + ", ".join(_CODES)
            )
        gap = -end % ALIGNMENT_BYTES
        if gap:
            header[f"{_PADDING}{len(header)}"] = _entry("U8", (gap,), end)
        header[name] = _entry(code, array.shape, end + gap)
        end += gap + array.nbytes

    text = json.dumps(header).encode()
    text += b" " * (-(offset + 8 + len(text)) % ALIGNMENT_BYTES)
    yield len(text).to_bytes(8, "little")
    yield text
    end = 0
    for array in arrays.values():
        gap = -end % ALIGNMENT_BYTES
        yield bytes(gap)
        if array.nbytes:
            data = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            yield data.reshape(-1).view(np.uint8).data
        end += gap + array.nbytes


def decode_weights(data: memoryview) -> dict[str, Array]:
    """Read safetensors without copying, where the data is aligned.

    Parameters
    ----------
    data : memoryview
        The whole safetensors file; the arrays keep it alive and are read-only if it is.

    Returns
    -------
    dict of str to numpy.ndarray
        All of them aligned to 64 bytes; what is not in ``data`` is copied.

    Raises
    ------
    ArtifactError
        If the data is not valid safetensors, or has a dtype that plans do not know.
    """
    header_bytes = int.from_bytes(data[:8], "little")
    if len(data) < 8 or header_bytes > len(data) - 8:
        raise ArtifactError("weights: the header is truncated")
    if header_bytes > _MAX_HEADER_BYTES:
        raise ArtifactError(
            f"weights: a header of {header_bytes} bytes; at most {_MAX_HEADER_BYTES} are read"
        )
    try:
        header = parse(bytes(data[8 : 8 + header_bytes]))
    except StrictJSONError as error:
        raise ArtifactError(f"weights: header: {error}") from error
    if not isinstance(header, dict):
        raise ArtifactError("weights: the header is not an object")
    header.pop("__metadata__", None)
    body = data[8 + header_bytes :]
    arrays: dict[str, Array] = {}
    end = 0
    for name, entry in header.items():
        dtype, shape, begin, stop = _parse_entry(name, entry)
        if begin != end or stop > len(body):
            raise ArtifactError(f"weights: {name!r} has bytes {begin} to {stop}, expected {end} on")
        end = stop
        if not name.startswith(_PADDING):
            try:
                array: Array = np.ndarray(shape, numpy_dtype(dtype), body, begin)
            except (ValueError, OverflowError) as error:  # too many dimensions, or a huge one
                raise ArtifactError(f"weights: {name!r}: {error}") from error
            arrays[name] = aligned(array)
    if end != len(body):
        raise ArtifactError(f"weights: {len(body) - end} bytes belong to no tensor")
    return arrays


def _entry(code: str, shape: tuple[int, ...], begin: int) -> dict[str, object]:
    end = begin + math.prod(shape) * DTYPE_BYTES[_DTYPES[code]]
    return {"dtype": code, "shape": list(shape), "data_offsets": [begin, end]}


def _parse_entry(name: str, entry: object) -> tuple[str, tuple[int, ...], int, int]:
    match entry:
        case {"dtype": str(code), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if (
            isinstance(entry, dict) and len(entry) == 3
        ):
            pass
        case _:
            raise ArtifactError(f"weights: {name!r}: not a tensor entry: {entry!r:.80}")
    if code not in _DTYPES:
        raise ArtifactError(f"weights: {name!r}: dtype {code!r} is not supported")
    # Of bounded dimensions, and few: their product is not to take long.
    dims = tuple(dim for dim in shape if type(dim) is int and 0 <= dim <= _MAX_EXTENT)
    if len(dims) != len(shape) or len(dims) > _MAX_DIMENSIONS:
        raise ArtifactError(f"weights: {name!r}: {shape!r:.80} is not a shape")
    if begin < 0 or end - begin != math.prod(dims) * DTYPE_BYTES[_DTYPES[code]]:
        raise ArtifactError(f"weights: {name!r}: its shape and its number of bytes differ")
    return _DTYPES[code], dims, begin, end
