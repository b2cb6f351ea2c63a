from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from graphs import make_graph, make_op
from top_tvm.compiler.op_graph import OpGraph, Storage, Value
from top_tvm.errors import GraphError


def changed(graph: OpGraph, member: str, index: int, **fields: Any) -> OpGraph:
    items = list(getattr(graph, member))
    items[index] = replace(items[index], **fields)
    return replace(graph, **{member: tuple(items)})


def test_dependencies_follow_storages() -> None:
    graph = make_graph()
    graph.validate()
    assert graph.dependencies() == ((), (), (0, 1))
    assert graph.edges() == ((0, 2), (1, 2))


def test_a_dependency_counts_once() -> None:
    graph = changed(make_graph(), "ops", 2, inputs=(2, 5, 3, 2))
    assert graph.edges() == ((0, 2), (1, 2))


CASES = {
    "storage size": (
        lambda g: changed(g, "storages", 2, nbytes=-1),
        "storage 2 .* nbytes is -1",
    ),
    "storage key": (lambda g: changed(g, "storages", 4, key=""), "storage 4 .* key is empty"),
    "same key": (
        lambda g: replace(g, storages=(*g.storages, Storage("output", "y", 4))),
        "storage 5 .* another output has the same key",
    ),
    "no storage": (lambda g: changed(g, "values", 2, storage=5), "value 2 .* storage 5 does not"),
    "dtype": (lambda g: changed(g, "values", 2, dtype="f4"), r"value 2 \('left'\): dtype 'f4'"),
    "shape": (lambda g: changed(g, "values", 2, shape=(-4, -8)), "value 2 .* negative dimension"),
    "value size": (
        lambda g: changed(g, "values", 2, shape=(8, 8)),
        r"value 2 \('left'\): float32\[8, 8\] has 256 bytes, its storage 128",
    ),
    "rows": (
        lambda g: changed(g, "values", 2, shape=(4, 4), strides=(3, 1)),
        r"'left'\): strides \(3, 1\): rows of 4 elements, but 3 from one to the next",
    ),
    "strides": (
        lambda g: changed(g, "values", 2, shape=(4, 4), strides=(8,)),
        r"value 2 \('left'\): strides \(8,\): 1 strides for 2 axes",
    ),
    "columns": (
        lambda g: changed(g, "values", 2, shape=(4, 4), strides=(9, 1)),
        r"'left'\): 4 rows of 4 elements from byte 0 on are no columns of a storage of 128 bytes",
    ),
    "slice offset": (
        lambda g: changed(g, "values", 2, shape=(4, 4), offset=16, strides=(8, 1)),
        r"'left'\): offset 16 is no multiple of 64",
    ),
    "same name": (lambda g: changed(g, "ops", 1, name="left"), r"op 1 \('left'\): the name is"),
    "no value": (
        lambda g: changed(g, "ops", 1, inputs=(7,)),
        r"op 1 \('right'\): value 7 does",
    ),
    "no output": (lambda g: changed(g, "ops", 1, outputs=()), r"op 1 \('right'\): writes nothing"),
    "flops": (lambda g: changed(g, "ops", 1, flops=-1), r"op 1 \('right'\): flops is -1"),
    "nbytes": (lambda g: changed(g, "ops", 1, nbytes=-1), r"op 1 \('right'\): nbytes is -1"),
    "order": (
        lambda g: replace(g, ops=(g.ops[0], g.ops[2], g.ops[1])),
        "op 'sum': reads value 'right' before any op has written it",
    ),
    "in place": (
        lambda g: changed(g, "ops", 1, inputs=(3,)),
        "op 'right': reads value 'right' before any op has written it",
    ),
    "two writers": (
        lambda g: replace(g, ops=(*g.ops, make_op("again", (0,), (3,)))),
        "op 'again': writes value 'right', whose storage op 'right' has written already",
    ),
    "two outputs": (
        lambda g: changed(g, "ops", 1, outputs=(3, 5)),
        "op 'right': writes value 'right', whose storage op 'right' has written already",
    ),
    "constant": (
        lambda g: changed(g, "ops", 1, outputs=(3, 1)),
        "op 'right': writes value 'w', which is constant memory",
    ),
    "unwritten": (
        lambda g: replace(g, storages=(*g.storages, Storage("intermediate", "", 4))),
        "storage 5 .* no op writes it",
    ),
    "no input": (lambda g: replace(g, inputs=()), r"inputs lie in storages \[\]"),
    "not an input": (lambda g: replace(g, inputs=(0, 2)), r"inputs lie in storages \[0, 2\]"),
    "outside": (lambda g: replace(g, outputs=(9, 6, 0, 1, 2)), "value 9, an input or output"),
    "names": (lambda g: replace(g, output_names=("y",)), "5 outputs, but 1 names"),
    "distinct": (
        lambda g: replace(g, output_names=("y", "y", "z", "u", "v")),
        "are not distinct",
    ),
    "output memory": (
        lambda g: replace(g, outputs=(0,), output_names=("z",)),
        r"storage 4 \(output 'y'\): no output lies in it",
    ),
}


@pytest.mark.parametrize(("change", "message"), CASES.values(), ids=CASES.keys())
def test_invalid_graphs_are_refused(change: Callable[[OpGraph], OpGraph], message: str) -> None:
    make_graph().validate()
    with pytest.raises(GraphError, match=message):
        change(make_graph()).validate()


def test_an_unused_result_is_fine() -> None:
    graph = make_graph()
    graph = replace(
        graph,
        storages=(*graph.storages, Storage("intermediate", "", 0)),
        values=(*graph.values, Value("dropped", "bool", (0,), 5)),
    )
    changed(graph, "ops", 1, outputs=(3, 7)).validate()
