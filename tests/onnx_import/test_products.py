"""Matrix products, Einstein sums and quantisation."""

import ml_dtypes
import numpy as np
import pytest
from node_batch import NodeBatch
from onnx import TensorProto, helper, numpy_helper

from top_tvm.compiler.build import compile_model
from top_tvm.compiler.onnx_import.graph import convert_graph
from top_tvm.errors import ModelError

RANDOM = np.random.default_rng(0)


def normal(*shape, dtype="float32"):
    return RANDOM.standard_normal(shape).astype(dtype)


def check(batch, expected, rtol=0.0):
    batch.check(dict(zip(batch.outputs, expected, strict=True)), rtol)


def kernels(batch):
    """Primitives of oneDNN, and kernels of TVM, in which a model results."""
    (compiled,) = compile_model(batch.model()).graphs
    found = [op.kernel for op in compiled.extracted.graph.ops]
    return [kernel.symbol if kernel.library == "onednn" else "tvm" for kernel in found]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "uint64"])
def test_matmul_of_all_ranks(dtype):
    shapes = [
        ((5,), (5,)),
        ((5,), (5, 3)),
        ((5,), (2, 5, 3)),
        ((4, 5), (5,)),
        ((2, 4, 5), (5,)),
        ((2, 1, 4, 5), (3, 5, 2)),
        ((4, 5), (2, 5, 3)),
        ((1, 5), (5, 1)),
    ]
    batch, expected = NodeBatch(opset=13), []
    for left, right in shapes:
        a = np.round(RANDOM.uniform(0, 9, left)).astype(dtype)
        b = np.round(RANDOM.uniform(0, 9, right)).astype(dtype)
        batch.add("MatMul", batch.given(a), batch.given(b))
        expected.append(np.matmul(a.astype("float64"), b.astype("float64")).astype(dtype))
    check(batch, expected)


def test_half_precision_is_multiplied_by_onednn():
    data, weight = normal(8, 300, dtype="float16"), normal(300, 16, dtype="float16")
    batch = NodeBatch(opset=13)
    batch.add("MatMul", batch.given(data), weight)
    assert "matmul" in kernels(batch)
    check(batch, [(data.astype("float64") @ weight.astype("float64")).astype("float16")], 2e-3)


def test_gemm():
    a, b = normal(4, 5), normal(5, 3)
    batch, expected = NodeBatch(opset=13), []
    for c in (None, normal(3), normal(1, 3), normal(4, 1), normal(4, 3), normal()):
        for alpha, beta in ((1.0, 1.0), (0.5, 2.0), (2.0, 0.0)):
            addend = [] if c is None else [batch.given(c)]
            attributes = {"alpha": alpha, "beta": beta}
            batch.add("Gemm", batch.given(a), b, *addend, **attributes)
            turned = [batch.given(a.T.copy()), b.T.copy()]
            batch.add("Gemm", *turned, *addend, transA=1, transB=1, **attributes)
            expected += [alpha * (a @ b) + (0 if c is None else beta * c)] * 2
    whole = np.arange(4, dtype="int32").reshape(2, 2)
    batch.add("Gemm", batch.given(whole), batch.given(whole), whole, alpha=2.0, beta=3.0)
    check(batch, [*expected, 2 * (whole @ whole) + 3 * whole], 1e-5)


def test_gemm_of_fractions_of_integers_is_refused():
    whole = np.zeros((2, 2), "int32")
    batch = NodeBatch(opset=13)
    batch.add("Gemm", batch.given(whole), whole, alpha=0.5)
    with pytest.raises(ModelError, match=r"its alpha is 0\.5, and its operands are integers"):
        compile_model(batch.model())


def test_gemm_with_its_epilogue_is_one_primitive():
    batch = NodeBatch(opset=13)
    weight, bias = normal(16, 8), normal(16)
    x = batch.given(normal(4, 8))
    (y,) = batch.add("Gemm", x, weight, bias, transB=1, alpha=0.5, beta=2.0)
    batch.outputs = batch.add("Relu", y)
    assert kernels(batch) == ["matmul"]


def test_integer_products():
    a = RANDOM.integers(0, 256, (2, 4, 5)).astype("uint8")
    b = RANDOM.integers(-128, 128, (5, 3)).astype("int8")
    rows, columns = np.array([3, 0, 200, 255], "uint8"), np.array([-4, 0, 127], "int8")
    batch = NodeBatch(opset=13)
    x, y = batch.given(a), batch.given(b)
    batch.add("MatMulInteger", x, y)
    batch.add("MatMulInteger", x, y, np.uint8(7), np.int8(-3))
    batch.add("MatMulInteger", batch.given(a[0]), y, batch.given(rows), batch.given(columns))
    wide, other = a.astype("int32"), b.astype("int32")
    check(
        batch,
        [
            wide @ other,
            (wide - 7) @ (other + 3),
            (wide[0] - rows.astype("int32")[:, None]) @ (other - columns),
        ],
    )


def test_quantized_product_by_columns():
    a = RANDOM.integers(0, 256, (4, 5)).astype("uint8")
    b = RANDOM.integers(-128, 128, (5, 3)).astype("int8")
    scales, zeros = np.array([0.01, 0.02, 0.5], "float32"), np.array([0, 3, -5], "int8")
    operands = [np.float32(0.03), np.uint8(9), scales, zeros, np.float32(0.7), np.uint8(128)]
    batch = NodeBatch(opset=13)
    x, y = batch.given(a), batch.given(b)
    batch.add("QLinearMatMul", x, *operands[:2], y, *operands[2:])
    real = (a.astype("float64") - 9) * 0.03 @ ((b.astype("float64") - zeros) * scales)
    (result,) = batch.run().values()
    expected = np.clip(np.round(real / 0.7) + 128, 0, 255)
    assert np.abs(result.astype(int) - expected).max() <= 1  # halves may fall to either side
    assert result.dtype == np.uint8


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_quantisation(dtype):
    data = np.array([[-3e38, -2.5, -1.5, -0.5], [0.5, 1.5, 3e38, np.inf], [7, 9, 1e4, -1e5]], "f4")
    scale, zero = np.array([1, 2, 0.5], "float32"), np.array([1, 0, 3], dtype)
    batch = NodeBatch(opset=21)
    x = batch.given(data)
    batch.add("QuantizeLinear", x, np.float32(1), np.array(5, dtype))
    batch.add("QuantizeLinear", x, batch.given(scale), batch.given(zero), axis=0)
    batch.add("QuantizeLinear", x, scale, zero, axis=-2)
    batch.add("QuantizeLinear", batch.given(data[:, 1].copy()), scale, zero, axis=0)
    limits = np.iinfo(dtype)
    with np.errstate(over="ignore"):
        one = np.clip(np.round(data) + 5, limits.min, limits.max).astype(dtype)
        rows = np.round(data / scale[:, None]) + zero[:, None].astype("float32")
    rows = np.clip(rows, limits.min, limits.max).astype(dtype)
    expected = [one, rows, rows, rows[:, 1]]
    whole = np.arange(12, dtype=dtype).reshape(2, 6)
    blocks = np.array([[1, 2], [4, 8]], "float32")
    y = batch.given(whole)
    batch.add("DequantizeLinear", y, np.float32(0.5), np.array(3, dtype))
    batch.add("DequantizeLinear", y, batch.given(blocks), axis=1, block_size=4)
    batch.add("DequantizeLinear", y, batch.given(blocks.astype("float16")), axis=1, block_size=3)
    spread = np.repeat(blocks, 4, 1)[:, :6], np.repeat(blocks, 3, 1)
    expected += [
        (whole.astype("float32") - 3) * np.float32(0.5),
        whole * spread[0],
        (whole * spread[1]).astype("float16"),
    ]
    check(batch, expected)


def test_not_a_number_is_quantized_to_some_number():
    batch = NodeBatch(opset=13)
    batch.add("QuantizeLinear", batch.given(np.float32([np.nan, 1])), np.float32(1), np.uint8(0))
    (result,) = batch.run().values()
    assert result[1] == 1


def test_dynamic_quantisation():
    batch = NodeBatch(opset=13)
    datas = normal(3, 4), np.abs(normal(5)), -np.abs(normal(5)), np.zeros(3, "float32")
    for data in datas[:3]:
        batch.add("DynamicQuantizeLinear", batch.given(data), results=3)
    batch.check()
    batch = NodeBatch(opset=13)
    batch.add("DynamicQuantizeLinear", batch.given(datas[3]), results=3)
    check(batch, [np.zeros(3, "uint8"), np.float32(0), np.uint8(0)])


def test_four_bit_weights_become_floats_when_the_model_is_built():
    weight = RANDOM.integers(-8, 8, (6, 4)).astype(ml_dtypes.int4)
    scale = normal(3, 4)
    data = normal(2, 6)
    tensor = numpy_helper.from_array(weight, "w")
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=0, block_size=2),
        helper.make_node("MatMul", ["x", "f"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "int4",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, data.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 4))],
        [tensor, numpy_helper.from_array(scale, "s")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    (compiled,) = compile_model(model).graphs
    assert [op.kernel.symbol for op in compiled.extracted.graph.ops] == ["matmul"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_determinants(dtype):
    singular = np.array([[0, 1, 2], [0, 3, 4], [0, 5, 6]])
    swapped = np.array([[0, 0, 2], [0, 3, 1], [4, 1, 1]])
    datas = [normal(1, 1), normal(2, 3, 2, 2), normal(5, 7, 7), singular, swapped]
    batch = NodeBatch(opset=17)
    for data in datas:
        batch.add("Det", batch.given(data, dtype))
    expected = [np.linalg.det(data.astype(dtype).astype("float64")) for data in datas]
    check(batch, [np.asarray(value, dtype) for value in expected], 1e-4)


@pytest.mark.parametrize(
    ("shape", "text"),
    [((2, 3), "consists of no square matrices"), ((33, 33), "33 rows, more than 32")],
)
def test_determinants_that_are_refused(shape, text):
    batch = NodeBatch(opset=17)
    batch.add("Det", batch.given(normal(*shape)))
    with pytest.raises(ModelError, match=text):
        convert_graph(batch.model(), "det")


EQUATIONS = [
    ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)),
    ("bqhd,bkhd->bhqk", (2, 4, 3, 5), (2, 6, 3, 5)),
    ("bhqk,bkhd->bqhd", (2, 3, 4, 6), (2, 6, 3, 5)),
    ("bij,jk->bik", (2, 3, 4), (4, 5)),
    ("ij,jk", (3, 4), (4, 5)),
    ("ba,cb", (3, 4), (5, 3)),
    ("i,i->", (4,), (4,)),
    ("i,j->ij", (4,), (3,)),
    ("i,j->ji", (4,), (3,)),
    ("ij,ij->ij", (3, 4), (3, 4)),
    ("...ij,...jk->...ik", (2, 1, 3, 4), (1, 5, 4, 6)),
    ("...i,i...->...", (2, 3), (3, 2)),
    ("i...->...", (3, 2, 4)),
    ("ii", (4, 4)),
    ("iij->ij", (3, 3, 2)),
    ("ijj,jk->ik", (2, 3, 3), (3, 4)),
    ("ij->", (3, 4)),
    ("i j -> j i", (3, 4)),
    ("abc,cd,de->abe", (2, 3, 4), (4, 5), (5, 6)),
    ("ab,bc,ac->c", (2, 3), (3, 4), (2, 4)),
    ("abcd,acef->bdef", (2, 3, 4, 5), (2, 4, 3, 2)),
    ("nc...,c->n...", (2, 3, 4, 5), (3,)),
    ("ij,kl->i", (2, 3), (4, 5)),
    (",ij->ij", (), (2, 3)),
    ("Aa,aB->BA", (2, 3), (3, 4)),
]


def test_einsum():
    batch, expected = NodeBatch(opset=12), []
    for equation, *shapes in EQUATIONS:
        operands = [normal(*shape) for shape in shapes]
        batch.add("Einsum", *map(batch.given, operands), equation=equation)
        wide = [operand.astype("float64") for operand in operands]
        plain = equation.replace(" ", "")
        expected.append(np.einsum(plain, *wide).astype("float32"))
    check(batch, expected, 1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int64"])
def test_einsum_in_other_types(dtype):
    a, b = (np.round(RANDOM.uniform(0, 9, (3, 3))).astype(dtype) for _ in range(2))
    batch = NodeBatch(opset=12)
    batch.add("Einsum", batch.given(a), batch.given(b), equation="ik,kj->ij")
    batch.add("Einsum", batch.given(a), equation="ii->i")
    check(batch, [a @ b, a.diagonal()])


@pytest.mark.parametrize("equation", ["bhqd,bhkd->bhqk", "bqhd,bkhd->bhqk", "bqhd,bkhd->bqhk"])
def test_attention_by_einsum_is_one_primitive(equation):
    order = [equation.index(letter) for letter in "bqhd"]
    extents = dict(zip("bqhd", (2, 4, 3, 8), strict=True))
    left = tuple(extents[letter] for letter in equation[:4])
    right = tuple({**extents, "k": 5}[letter] for letter in equation[5:9])
    assert sorted(order) == [0, 1, 2, 3]
    batch = NodeBatch(opset=12)
    batch.add("Einsum", batch.given(normal(*left)), batch.given(normal(*right)), equation=equation)
    assert kernels(batch) == ["matmul"]


@pytest.mark.parametrize(
    ("equation", "text"),
    [
        ("ij,jk->ik", "is not one of 1 operands"),
        ("ijk->i", "does not fit operand 0 of 2 axes"),
        ("ij->ik", "repeats a letter, or has a new one"),
        ("i1->i", "where letters should be"),
        ("ii->i", "axes of different extents have the same letter"),
    ],
)
def test_bad_equations_are_refused(equation, text):
    batch = NodeBatch(opset=12)
    batch.add("Einsum", batch.given(normal(2, 3)), equation=equation)
    with pytest.raises(ModelError, match=text):
        convert_graph(batch.model(), "sum")


@pytest.mark.parametrize(
    ("operands", "text"),
    [
        ([np.zeros(3, "float32")], "it has 3 scales or zero points for an axis of 4"),
        ([np.zeros((2, 1), "float32")], "do not cover its data in blocks of 2"),
    ],
)
def test_scales_that_do_not_fit_are_refused(operands, text):
    batch = NodeBatch(opset=21)
    blocks = {"block_size": 2} if operands[0].ndim > 1 else {}
    batch.add("QuantizeLinear", batch.given(normal(2, 4)), *operands, axis=1, **blocks)
    with pytest.raises(ModelError, match=text):
        compile_model(batch.model())
