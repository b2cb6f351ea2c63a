"""``matmul(reshape(x), w)`` -> ``reshape(matmul(x, w))``, and so on through what follows.

Tools that slim models turn a product with a bias into ONNX ``Gemm``, which takes matrices only: the
rows of a batch are merged in front of it and split again behind it. Between a product and the
activation or residual behind it, such a reshape is in the way of one primitive for all.
"""

from __future__ import annotations

import tvm
from tvm import relax

from top_tvm.compiler.transform.layout_rules import BROADCASTING
from top_tvm.compiler.transform.rewriter import (
    Expr,
    Rewriter,
    as_constant,
    constant,
    is_tensor,
    per_channel,
    shape_of,
)


class _SinkReshapes(Rewriter):
    def __init__(self) -> None:
        super().__init__()
        # New variable -> the tensor of which it is a reshape with the same columns.
        self.sources: dict[Expr, Expr] = {}
        self.products: set[Expr] = set()  # matrix products, and functions of them by element

    def rewrite(self, call: relax.Call, original: relax.Var) -> Expr:
        name = call.op.name if isinstance(call.op, tvm.ir.Op) else ""
        if name == "relax.reshape":
            return self._reshape(call, original)
        arguments = None
        if name == "relax.matmul":
            arguments = self._of_product(call)
        elif name in BROADCASTING:
            arguments = self._of_elementwise(call)
        if arguments is None:
            return call
        result = self.emit(relax.Call(call.op, arguments, call.attrs, call.ty_args))
        self.products.add(result)
        same = shape_of(result) == shape_of(original)
        return result if same else self._row_reshape(result, shape_of(original))

    def _reshape(self, call: relax.Call, original: relax.Var) -> Expr:
        source, shape = self.sources.get(call.args[0], call.args[0]), shape_of(original)
        if not is_tensor(source) or not shape or not shape_of(source):
            return call
        return source if shape_of(source) == shape else self._row_reshape(source, shape)

    def _row_reshape(self, source: Expr, shape: tuple[int, ...]) -> relax.Var:
        """A reshape, remembered if it merges rows into a matrix or splits those of a product."""
        var = self.emit(relax.op.reshape(source, shape))
        given = shape_of(source)
        is_merge, is_split = len(shape) == 2, len(given) == 2 and source in self.products
        if given[-1] == shape[-1] and len(given) != len(shape) and (is_merge or is_split):
            self.sources[var] = source
        return var

    def _of_product(self, call: relax.Call) -> list[Expr] | None:
        left, right = call.args
        if constant(right) is None or len(shape_of(right)) != 2:
            return None
        return [self.sources.get(left, left), right]

    def _of_elementwise(self, call: relax.Call) -> list[Expr] | None:
        """Arguments in the shape that the first product or reshape had; None where none is."""
        known = [
            argument
            for argument in call.args
            if argument in self.sources or argument in self.products
        ]
        if not known:
            return None
        shape = shape_of(known[0])
        wanted = shape_of(self.sources.get(known[0], known[0]))
        arguments = [self._in_shape(argument, shape, wanted) for argument in call.args]
        return None if any(argument is None for argument in arguments) else arguments

    def _in_shape(
        self, argument: Expr, shape: tuple[int, ...], wanted: tuple[int, ...]
    ) -> Expr | None:
        if not is_tensor(argument):
            return argument
        value = constant(argument)
        if value is not None:
            # A row broadcasts to any shape, if it has no axes in front.
            by_column = per_channel(argument, shape[-1], len(shape) - 1, len(shape)) is not None
            return as_constant(value.reshape(-1)) if by_column else None
        if shape_of(argument) != shape:
            return None
        source = self.sources.get(argument, argument)
        if shape_of(source) == wanted:
            return source
        return argument if shape == wanted else self.emit(relax.op.reshape(argument, wanted))


@tvm.transform.module_pass(opt_level=0, name="SinkReshapes")
def SinkReshapes(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Move reshapes that merge leading axes behind products and elementwise operators."""
    return relax.transform.DeadCodeElimination()(_SinkReshapes()(module))
