"""A small op graph with everything that is awkward, and random ones with schedules."""

from hypothesis import strategies as st

from top_tvm.compiler.op_graph import Op, OpGraph, Storage, Value
from top_tvm.compiler.partition import Placement
from top_tvm.plan import Kernel


def make_op(name: str, inputs: tuple[int, ...], outputs: tuple[int, ...], symbol: str = "f") -> Op:
    kernel = Kernel("tvm", symbol, moldable=True)
    return Op(name, kernel, inputs, outputs, flops=10, nbytes=20, origin=name, fingerprint=name)


def chain(length: int) -> OpGraph:
    """Ops one behind the other, from x to y."""
    storages = [Storage("input", "x", 256)]
    values = [Value("x", "float32", (64,), 0)]
    ops = []
    for index in range(length):
        last = index == length - 1
        storages.append(Storage("output" if last else "intermediate", "y" if last else "", 256))
        values.append(Value(f"v{index}", "float32", (64,), index + 1))
        ops.append(make_op(f"op{index}", (index,), (index + 1,)))
    return OpGraph(tuple(storages), tuple(values), tuple(ops), (0,), (length,), ("y",))


def make_graph() -> OpGraph:
    """left = f(x, w) and right = f(flat view of x) beside each other; y = g(left, right).

    Outputs: y, also under the name y2; the input x; the constant w; left, which stays in the arena.
    """
    return OpGraph(
        storages=(
            Storage("input", "x", 128),
            Storage("constant", "c0", 128),
            Storage("intermediate", "", 128),
            Storage("intermediate", "", 128),
            Storage("output", "y", 128),
        ),
        values=(
            Value("x", "float32", (4, 8), 0),
            Value("w", "float32", (4, 8), 1),
            Value("left", "float32", (4, 8), 2),
            Value("right", "float32", (32,), 3),
            Value("x", "float32", (32,), 0),
            Value("right", "float32", (4, 8), 3),
            Value("sum", "float32", (4, 8), 4),
        ),
        ops=(
            make_op("left", (0, 1), (2,)),
            make_op("right", (4,), (3,)),
            make_op("sum", (2, 5), (6,), symbol="g"),
        ),
        inputs=(0,),
        outputs=(6, 6, 0, 1, 2),
        output_names=("y", "y2", "same", "weight", "middle"),
    )


@st.composite
def graphs_with_schedules(draw: st.DrawFn) -> tuple[OpGraph, tuple[Placement, ...], int]:
    """A random DAG of ops, some with two results, and a random schedule of it."""
    storages = [Storage("input", "x", 256)]
    values = [Value("x", "float32", (64,), 0)]
    ops = []
    for index in range(draw(st.integers(1, 12))):
        inputs = draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=3))
        outputs = []
        for _ in range(draw(st.integers(1, 2))):
            size = draw(st.sampled_from([0, 1, 16, 64]))
            storages.append(Storage("intermediate", "", 4 * size))
            outputs.append(len(values))
            values.append(Value(f"v{len(values)}", "float32", (size,), len(storages) - 1))
            if draw(st.booleans()):
                values.append(Value("view", "float32", (size, 1), len(storages) - 1))
        ops.append(make_op(f"op{index}", tuple(inputs), tuple(outputs)))
    results = draw(st.lists(st.integers(0, len(values) - 1), max_size=3))
    names = tuple(f"result{i}" for i in range(len(results)))
    graph = OpGraph(tuple(storages), tuple(values), tuple(ops), (0,), tuple(results), names)

    streams = draw(st.integers(1, 3))
    needed = graph.dependencies()
    remaining = set(range(len(ops)))
    schedule: list[Placement] = []
    while remaining:
        ready = sorted(op for op in remaining if not remaining & set(needed[op]))
        op = draw(st.sampled_from(ready))
        stream = draw(st.integers(0, streams - 1))
        threads = draw(st.sampled_from([1, 1, 1, streams]))
        schedule.append(Placement(op, len(schedule), 0, stream, threads))
        remaining.remove(op)
    return graph, tuple(schedule), streams
