"""Kernels for operators whose results depend on each other along an axis: cumsum, topk, sort.

TVM lowers these for GPUs, or calls functions of its own runtime, which the executor does without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tvm
from tvm import relax

from top_tvm.compiler.transform.rewriter import Expr, shape_of

Legalization = Callable[[relax.BlockBuilder, relax.Call], Expr]


def scan_kernel(
    shape: Sequence[int], axis: int, operator: str, dtypes: tuple[str, str], exclusive: bool
) -> tvm.tirx.PrimFunc:
    """Kernel that combines each element with all before it, in order.

    Parameters
    ----------
    shape : sequence of int
        Of the argument and the result.
    axis : int
        Along which elements follow each other.
    operator : {"+", "*"}
        That combines two elements.
    dtypes : tuple of str
        Of the argument, and of the result, in which it is computed.
    exclusive : bool
        Whether an element itself does not take part in its result.
    """
    names, loops = _loops(shape, axis)
    here, before = _index(names), _index(names, {axis: f"{names[axis]} - 1"})
    neutral = {"+": 0, "*": 1}[operator]
    first = (
        f'T.Cast("{dtypes[1]}", {neutral})' if exclusive else f'T.Cast("{dtypes[1]}", x[{here}])'
    )
    added = f'T.Cast("{dtypes[1]}", x[{before if exclusive else here}])'
    # Inside the parallel loop, and outside of those over contiguous elements.
    place = min(max(axis, 1), len(loops))
    loops.insert(place, f"for {names[axis]} in range({shape[axis]}):")
    body = [
        f"if {names[axis]} > 0:",
        f"    out[{here}] = out[{before}] {operator} {added}",
        "else:",
        f"    out[{here}] = {first}",
    ]
    parameters = [("x", shape, dtypes[0]), ("out", shape, dtypes[1])]
    return _kernel("scan", parameters, loops, body)


def topk_kernel(
    shape: Sequence[int], axis: int, k: int, dtypes: tuple[str, str], largest: bool
) -> tvm.tirx.PrimFunc:
    """Kernel that selects the first ``k`` elements in order, equal ones by their position.

    It looks for one after the other, each behind the one before it: O(k n) steps without memory.

    Parameters
    ----------
    shape : sequence of int
        Of the argument.
    axis : int
        Along which to select.
    k : int
        Number of elements, at most ``shape[axis]``.
    dtypes : tuple of str
        Of the elements, and of the positions.
    largest : bool
        Whether the largest comes first.
    """
    results = [k if index == axis else extent for index, extent in enumerate(shape)]
    names, loops = _loops(shape, axis)
    rank, position = names[axis], "m"
    here, before = _index(names), _index(names, {axis: f"{rank} - 1"})
    item = f"x[{_index(names, {axis: position})}]"
    better = ">" if largest else "<"
    loops.append(f"for {rank} in range({k}):")
    body = [
        f"where[{here}] = -1",
        f"values[{here}] = x[{_index(names, {axis: '0'})}]",
        f"for {position} in range({shape[axis]}):",
        f"    if {rank} == 0 or values[{before}] {better} {item} or (",
        f"        values[{before}] == {item} and where[{before}] < {position}",
        "    ):",
        f"        if where[{here}] < 0 or {item} {better} values[{here}]:",
        f"            values[{here}] = {item}",
        f'            where[{here}] = T.Cast("{dtypes[1]}", {position})',
        f"if where[{here}] < 0:",  # nothing compares with NaN
        f"    where[{here}] = 0",
    ]
    parameters = [("x", shape, dtypes[0]), ("values", results, dtypes[0])]
    return _kernel("topk", [*parameters, ("where", results, dtypes[1])], loops, body)


def _loops(shape: Sequence[int], axis: int) -> tuple[list[str], list[str]]:
    """Names of the indices, and the loops over all axes but one, the outermost in parallel."""
    names = [f"i{index}" for index in range(len(shape))]
    others = [index for index in range(len(shape)) if index != axis]
    kinds = ["T.parallel" if index == others[0] else "range" for index in others]  # none of rank 1
    loops = [
        f"for {names[i]} in {kind}({shape[i]}):" for i, kind in zip(others, kinds, strict=True)
    ]
    return names, loops


def _index(names: Sequence[str], replaced: dict[int, str] | None = None) -> str:
    return ", ".join((replaced or {}).get(index, name) for index, name in enumerate(names))


def _kernel(
    name: str,
    parameters: Sequence[tuple[str, Sequence[int], str]],
    loops: Sequence[str],
    body: Sequence[str],
) -> tvm.tirx.PrimFunc:
    buffers = [
        f'{parameter}: T.Buffer(({"".join(f"{extent}, " for extent in shape)}), "{dtype}")'
        for parameter, shape, dtype in parameters
    ]
    lines = [f"{'    ' * depth}{line}" for depth, line in enumerate(loops)]
    lines += ["    " * len(loops) + line for line in body]
    source = (
        "@T.prim_func(private=True, s_tir=True)\n"
        f"def {name}({', '.join(buffers)}):\n"
        # Opaque: nothing is fused with it.
        '    T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": 8})\n'
        f'    with T.sblock("{name}"):\n'
    )
    return tvm.script.from_source(source + "".join(f"        {line}\n" for line in lines))


def _scan(operator: str) -> Legalization:
    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
        (data,) = call.args
        shape = shape_of(call)
        if call.attrs.axis is None:
            data = builder.emit(relax.op.reshape(data, shape))
        axis = 0 if call.attrs.axis is None else int(call.attrs.axis) % len(shape)
        dtypes = str(data.ty.dtype), str(call.ty.dtype)
        kernel = scan_kernel(shape, axis, operator, dtypes, bool(call.attrs.exclusive))
        return relax.call_tir(builder.add_func(kernel, "scan"), [data], call.ty)

    return legalize


def _select(
    builder: relax.BlockBuilder, call: relax.Call, axis: int, k: int, largest: bool, dtype: str
) -> relax.Var:
    """Emit the kernel; a tuple of values and positions."""
    (data,) = call.args
    shape = shape_of(data)
    axis %= len(shape)
    k = shape[axis] if k < 1 else min(k, shape[axis])
    kernel = topk_kernel(shape, axis, k, (str(data.ty.dtype), dtype), largest)
    result = [k if index == axis else extent for index, extent in enumerate(shape)]
    types = [relax.TensorType(result, str(data.ty.dtype)), relax.TensorType(result, dtype)]
    return builder.emit(relax.call_tir(builder.add_func(kernel, "topk"), [data], types))


def _topk(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    attrs = call.attrs
    dtype = str(attrs.dtype)
    both = _select(builder, call, int(attrs.axis), int(attrs.k), bool(attrs.largest), dtype)
    if attrs.ret_type == "both":
        return both
    return relax.TupleGetItem(both, 0 if attrs.ret_type == "values" else 1)


def _sort(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    both = _select(builder, call, int(call.attrs.axis), 0, bool(call.attrs.descending), "int64")
    return relax.TupleGetItem(both, 0)


def _argsort(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    attrs = call.attrs
    dtype = str(call.ty.dtype)
    both = _select(builder, call, int(attrs.axis), 0, bool(attrs.descending), dtype)
    return relax.TupleGetItem(both, 1)


# For LegalizeOps, beside what TVM has.
SCAN_LEGALIZATIONS: dict[str, Legalization] = {
    "relax.cumsum": _scan("+"),
    "relax.cumprod": _scan("*"),
    "relax.topk": _topk,
    "relax.sort": _sort,
    "relax.argsort": _argsort,
}
