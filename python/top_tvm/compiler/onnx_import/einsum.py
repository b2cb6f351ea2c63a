"""Einstein summation as matrix products, so that oneDNN executes what is a contraction.

Operands are combined from left to right. Of two, labels that only one of them has and nobody needs
are summed first; then what they share is either a batch (the result needs it) or contracted:

    ``[batch, left, contracted] x [batch, contracted, right] -> [batch, left, right]``
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from tvm import relax, te

from top_tvm.compiler.onnx_import.node import Converted, Expr, Node, shape_of
from top_tvm.compiler.onnx_import.products import matmul
from top_tvm.compiler.onnx_import.widening import widened

# A label is a letter, or the position of an axis of the ellipsis, counted from its end.
Label = str


@dataclass(frozen=True)
class _Term:
    """A tensor with a label for each of its axes, all different."""

    value: Expr
    labels: tuple[Label, ...]

    def extents(self) -> dict[Label, int]:
        return dict(zip(self.labels, shape_of(self.value), strict=True))


def convert_einsum(node: Node) -> Converted:
    """Sum of products of operands by any equation: ellipses, diagonals, implicit results."""
    terms, result = parse(node)
    return widened(
        node,
        lambda *values: _einsum(node, values, terms, result),
        *(node.input(index) for index in range(len(node.inputs))),
    )


def parse(node: Node) -> tuple[list[tuple[Label, ...]], tuple[Label, ...]]:
    """Labels of the axes of each operand, and of the result."""
    equation = str(node.attribute("equation", "")).replace(" ", "")
    left, arrow, right = equation.partition("->")
    texts = left.split(",")
    if len(texts) != len(node.inputs):
        node.refuse(f"its equation {equation!r} is not one of {len(node.inputs)} operands")
    terms = []
    for index, text in enumerate(texts):
        rank = node.rank(index)
        labels = _labels(node, text, rank - len(text.replace("...", "")))
        if len(labels) != rank:
            node.refuse(f"its equation {equation!r} does not fit operand {index} of {rank} axes")
        terms.append(labels)
    counts = Counter(label for labels in terms for label in labels)
    dots = sorted((label for label in counts if label[0] == "."), reverse=True)
    if not arrow:
        once = sorted(label for label in counts if counts[label] == 1 and label[0] != ".")
        return terms, (*dots, *once)
    result = _labels(node, right, len(dots))
    if len(set(result)) != len(result) or not set(result) <= set(counts):
        node.refuse(f"the result of its equation {equation!r} repeats a letter, or has a new one")
    return terms, result


def _labels(node: Node, text: str, dots: int) -> tuple[Label, ...]:
    before, ellipsis, behind = text.partition("...")
    letters = before + behind
    if letters and not (letters.isalpha() and letters.isascii()):
        node.refuse(f"its equation has {text!r} where letters should be")
    expanded = [f".{position:03}" for position in range(dots)][::-1] if ellipsis else []
    return (*before, *expanded, *behind)


def _einsum(
    node: Node,
    values: Sequence[Expr],
    labels: Sequence[tuple[Label, ...]],
    result: tuple[Label, ...],
) -> Expr:
    terms = [_diagonal(node, v, names) for v, names in zip(values, labels, strict=True)]
    extents: dict[Label, int] = {}
    for label, extent in (item for term in terms for item in term.extents().items()):
        known = extents.setdefault(label, extent)
        if 1 not in (known, extent) and known != extent:
            node.refuse(f"axes of {known} and {extent} elements have the same letter {label!r}")
        extents[label] = max(known, extent) if 0 not in (known, extent) else 0
    total = terms[0]
    for position, term in enumerate(terms[1:], 2):
        needed = {*result, *(label for later in terms[position:] for label in later.labels)}
        total = _combine(
            node,
            _broadcast(node, total, term, extents),
            _broadcast(node, term, total, extents),
            needed,
        )
    total = _summed(node, total, set(result))
    return _permuted(node, total, result).value


def _diagonal(node: Node, value: Expr, labels: tuple[Label, ...]) -> _Term:
    """An operand whose repeated labels are only one axis."""
    if len(set(labels)) == len(labels):
        return _Term(value, labels)
    unique = tuple(dict.fromkeys(labels))
    extents = dict(zip(labels, shape_of(value), strict=True))
    if any(extents[n] != extent for n, extent in zip(labels, shape_of(value), strict=True)):
        node.refuse("axes of different extents have the same letter")
    places = [unique.index(label) for label in labels]

    def diagonal(x: te.Tensor) -> te.Tensor:
        shape = [extents[label] for label in unique]
        return te.compute(shape, lambda *i: x(*(i[place] for place in places)), name="diagonal")

    return _Term(node.builder.emit_te(diagonal, value), unique)


def _broadcast(node: Node, term: _Term, other: _Term, extents: Mapping[Label, int]) -> _Term:
    """The term with the extents that it shares with the other one."""
    shape = shape_of(term.value)
    wide = tuple(
        extents[label] if label in other.labels else extent
        for label, extent in zip(term.labels, shape, strict=True)
    )
    if wide == shape:
        return term
    return _Term(node.emit(relax.op.broadcast_to(term.value, wide)), term.labels)


def _summed(node: Node, term: _Term, needed: set[Label]) -> _Term:
    """The term without the axes that nobody needs."""
    axes = [axis for axis, label in enumerate(term.labels) if label not in needed]
    if not axes:
        return term
    kept = tuple(label for label in term.labels if label in needed)
    return _Term(node.emit(relax.op.sum(term.value, axes)), kept)


def _permuted(node: Node, term: _Term, labels: Sequence[Label]) -> _Term:
    """The term with its axes in another order."""
    if term.labels == tuple(labels):
        return term
    order = [term.labels.index(label) for label in labels]
    return _Term(node.emit(relax.op.permute_dims(term.value, order)), tuple(labels))


def _combine(node: Node, a: _Term, b: _Term, needed: set[Label]) -> _Term:
    """Product of two terms, summed over what nobody needs."""
    a = _summed(node, a, {*needed, *b.labels})
    b = _summed(node, b, {*needed, *a.labels})
    shared = [label for label in a.labels if label in b.labels]
    batch = [label for label in shared if label in needed]
    contracted = [label for label in shared if label not in needed]
    left = [label for label in a.labels if label not in shared]
    right = [label for label in b.labels if label not in shared]
    result = (*batch, *left, *right)
    sizes = a.extents() | b.extents()
    a, b = (
        _permuted(node, a, [*batch, *left, *contracted]),
        _permuted(node, b, [*batch, *contracted, *right]),
    )

    def shaped(term: _Term, *groups: int) -> Expr:
        shape = (*(sizes[label] for label in batch), *groups)
        same = shape_of(term.value) == shape
        return term.value if same else node.emit(relax.op.reshape(term.value, shape))

    def size(labels: Sequence[Label]) -> int:
        return prod(sizes[label] for label in labels)

    if not contracted:
        rows = [sizes[label] for label in left]
        columns = [sizes[label] for label in right]
        column = shaped(a, *rows, *(1,) * len(columns))
        row = shaped(b, *(1,) * len(rows), *columns)
        return _Term(node.emit(relax.op.multiply(column, row)), result)
    inner = size(contracted)
    # Without a batch, the rows may stay several axes: matmul broadcasts the matrix on the right.
    rows = [size(left)] if batch or not left else [sizes[label] for label in left]
    product = matmul(node, shaped(a, *rows, inner), shaped(b, inner, size(right)))
    shape = tuple(sizes[label] for label in result)
    product = node.builder.normalize(product)
    if shape_of(product) != shape:
        product = relax.op.reshape(node.emit(product), shape)
    return _Term(node.emit(product), result)


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {"Einsum": convert_einsum}
