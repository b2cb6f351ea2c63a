"""``concat`` -> one copy loop per input over 2-D views.

TVM's own form computes every output element with a chain of selects over the inputs, which does not
vectorise. Seen as matrices of ``outer x inner`` elements, a concatenation is a row-wise copy of
contiguous runs; the reshapes around it are views and cost nothing. The attribute ``top_tvm.concat``
tells ``place_concats``, which makes most of these kernels unnecessary.
"""

from __future__ import annotations

from math import prod

import tvm
from tvm import relax

from top_tvm.compiler.transform.rewriter import Expr, Rewriter, is_call, shape_of

CONCAT_ATTRIBUTE = "top_tvm.concat"
# Reading the source of a kernel takes time that grows faster than its length.
_MOST_PARTS = 32

_COPY = """
        for j in range({width}):
            with T.sblock("copy{index}"):
                vi, vj = T.axis.remap("SS", [i, j])
                out[vi, {offset} + vj] = in{index}[vi, vj]
"""


def concat_kernel(rows: int, widths: tuple[int, ...], dtype: str) -> tvm.tirx.PrimFunc:
    """Kernel that writes matrices of ``rows`` rows next to each other.

    Parameters
    ----------
    rows : int
        Common number of rows.
    widths : tuple of int
        Columns of each input, in elements.
    dtype : str
        Element type of all of them.
    """
    total = sum(widths)
    inputs = [f'in{i}: T.Buffer(({rows}, {width}), "{dtype}")' for i, width in enumerate(widths)]
    copies, offset = [], 0
    for index, width in enumerate(widths):
        copies.append(_COPY.format(index=index, width=width, offset=offset))
        offset += width
    source = (
        "@T.prim_func(private=True, s_tir=True)\n"
        f'def concat({", ".join(inputs)}, out: T.Buffer(({rows}, {total}), "{dtype}")):\n'
        '    T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True, '
        f'"{CONCAT_ATTRIBUTE}": True}})\n'
        f"    for i in T.parallel({rows}):{''.join(copies)}"
    )
    return tvm.script.from_source(source)


class _LowerConcat(Rewriter):
    def __init__(self) -> None:
        super().__init__()
        self.kernels: dict[tuple[int, tuple[int, ...], str], tvm.ir.GlobalVar] = {}

    def rewrite(self, call: relax.Call, original: relax.Var) -> Expr:
        if not is_call(call, "concat") or not isinstance(call.args[0], relax.Tuple):
            return call
        fields = [field for field in call.args[0].fields if 0 not in shape_of(field)]
        if len(fields) == 1:
            return fields[0]
        if not fields:
            return call
        shape, axis = shape_of(original), int(call.attrs.axis or 0) % len(shape_of(original))
        rows = prod(shape[:axis])
        matrices = [
            self.emit(relax.op.reshape(field, (rows, prod(shape_of(field)[axis:]))))
            for field in fields
        ]
        return relax.op.reshape(self._side_by_side(matrices), shape)

    def _side_by_side(self, matrices: list[Expr]) -> Expr:
        """One matrix of all columns; many are gathered in several steps, by equal kernels."""
        while len(matrices) > _MOST_PARTS:
            groups = range(0, len(matrices), _MOST_PARTS)
            matrices = [self._side_by_side(matrices[i : i + _MOST_PARTS]) for i in groups]
        if len(matrices) == 1:
            return matrices[0]
        rows, widths = shape_of(matrices[0])[0], tuple(shape_of(m)[1] for m in matrices)
        dtype = str(matrices[0].ty.dtype)
        if (rows, widths, dtype) not in self.kernels:
            kernel = self.builder.add_func(concat_kernel(rows, widths, dtype), "concat")
            self.kernels[rows, widths, dtype] = kernel
        kernel = self.kernels[rows, widths, dtype]
        matrix = relax.call_tir(kernel, matrices, relax.TensorType((rows, sum(widths)), dtype))
        return self.emit(matrix)


@tvm.transform.module_pass(opt_level=0, name="LowerConcat")
def LowerConcat(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Lower concatenations to copies of contiguous rows."""
    return _LowerConcat()(module)
