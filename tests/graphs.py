"""A small op graph with everything that is awkward: views, shared and passed-through outputs."""

from top_tvm.compiler.op_graph import Op, OpGraph, Storage, Value
from top_tvm.plan import Kernel


def make_op(name: str, inputs: tuple[int, ...], outputs: tuple[int, ...], symbol: str = "f") -> Op:
    kernel = Kernel("tvm", symbol, moldable=True)
    return Op(name, kernel, inputs, outputs, flops=10, nbytes=20, origin=name, fingerprint=name)


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
