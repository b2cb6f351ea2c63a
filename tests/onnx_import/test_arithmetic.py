"""Arithmetic, logic and functions of one number, in all types and at their edges."""

import math

import numpy as np
import pytest
from node_batch import NodeBatch
from onnx import TensorProto

from top_tvm.compiler.build import compile_model
from top_tvm.errors import ModelError

INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FLOATS = {"float16": 2e-3, "float32": 2e-6, "float64": 1e-12}


def check(batch, expected, rtol=0.0):
    batch.check(dict(zip(batch.outputs, expected, strict=True)), rtol)


def pairs(dtype):
    """All pairs of the numbers at which integer division goes wrong."""
    limits = np.iinfo(dtype)
    values = [limits.min, limits.min + 1, 0, 1, 2, 3, 7, limits.max - 1, limits.max]
    if limits.min:
        values += [-1, -2, -7]
    left, right = np.meshgrid(np.array(values, dtype), np.array(values, dtype))
    return left.ravel(), right.ravel()


def wrapped(numbers, dtype):
    bits = np.iinfo(dtype).bits
    return np.array([number % (1 << bits) for number in numbers], f"uint{bits}").view(dtype)


def quotient(a, b):
    return 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def remainder(a, b):
    return 0 if b == 0 else a - b * quotient(a, b)


def modulo(a, b):
    return 0 if b == 0 else a % b


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_never_trap(dtype):
    left, right = pairs(dtype)
    batch = NodeBatch(opset=17)
    a, b = batch.given(left), batch.given(right)
    batch.add("Div", a, b)
    batch.add("Mod", a, b)
    batch.add("Mod", a, b, fmod=1)
    numbers = [(int(x), int(y)) for x, y in zip(left, right, strict=True)]
    check(
        batch,
        [
            wrapped([function(x, y) for x, y in numbers], dtype)
            for function in (quotient, modulo, remainder)
        ],
    )


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "uint64"])
def test_bits_are_shifted_out(dtype):
    bits = np.iinfo(dtype).bits
    values = np.array([1, 5, np.iinfo(dtype).max], dtype)[:, None]
    distances = np.array([0, 1, bits - 1, bits, bits + 1, 200], dtype)
    batch = NodeBatch(opset=17)
    a, b = batch.given(values), batch.given(distances)
    batch.add("BitShift", a, b, direction="LEFT")
    batch.add("BitShift", a, b, direction="RIGHT")
    left = [[(int(x) << int(n)) % (1 << bits) for n in distances] for x in values.ravel()]
    right = [[int(x) >> int(n) for n in distances] for x in values.ravel()]
    check(batch, [np.array(left, dtype), np.array(right, dtype)])


def test_integer_powers():
    base, exponent = np.array([-3, 0, 2, 7], "int64"), np.array([3, 0, 10, 2], "int64")
    batch = NodeBatch(opset=17)
    whole = batch.given(base)
    batch.add("Pow", whole, batch.given(exponent))
    batch.add("Pow", whole, np.float32(2))
    batch.add("Pow", batch.given(base.astype("int32")), np.int64(3))
    batch.add("Pow", batch.given(base.astype("float16")), batch.given(exponent))
    batch.add("Pow", batch.given(base.astype("float32")), batch.given(np.float64(exponent)))
    power = base**exponent
    check(
        batch,
        [power, base**2, base.astype("int32") ** 3, power.astype("f2"), power.astype("f4")],
        1e-6,
    )


def test_float_remainders():
    left = np.array([5.5, -5.5, 5.5, -5.5, 1, -1, np.inf, 0, np.nan], "float32")
    right = np.array([2, 2, -2, -2, np.inf, np.inf, 2, -3, 1], "float32")
    for dtype in FLOATS:
        batch = NodeBatch(opset=17)
        a, b = batch.given(left, dtype), batch.given(right, dtype)
        batch.add("Mod", a, b, fmod=1)
        with np.errstate(invalid="ignore"):
            check(batch, [np.fmod(left, right).astype(dtype)])


@pytest.mark.parametrize("dtype", FLOATS)
def test_functions_of_one_number(dtype):
    erf = np.vectorize(math.erf, otypes=[float])
    anywhere = np.array([-60, -3.5, -2.5, -1.5, -0.5, -1e-3, 0, 1e-3, 0.3, 0.5, 1.5, 2.5, 9])
    special = np.array([np.nan, np.inf, -np.inf])
    functions = {
        "Abs": (np.abs, [anywhere, special]),
        "Acos": (np.arccos, [np.linspace(-1, 1, 9)]),
        "Acosh": (np.arccosh, [np.array([1, 1.5, 60, 1e4])]),
        "Asin": (np.arcsin, [np.linspace(-1, 1, 9)]),
        "Asinh": (np.arcsinh, [anywhere, np.array([-1e4, 1e4])]),
        "Atan": (np.arctan, [anywhere, special]),
        "Atanh": (np.arctanh, [np.array([-0.999, -0.5, -1e-3, 0, 1e-3, 0.75])]),
        "Ceil": (np.ceil, [anywhere, special]),
        "Cos": (np.cos, [anywhere]),
        "Cosh": (np.cosh, [anywhere[1:], special]),
        "Erf": (erf, [anywhere, special]),
        "Exp": (np.exp, [anywhere, special]),
        "Floor": (np.floor, [anywhere, special]),
        "IsInf": (np.isinf, [anywhere, special]),
        "IsNaN": (np.isnan, [anywhere, special]),
        "Log": (np.log, [np.array([0, 1e-3, 1, 60, np.inf, np.nan])]),
        "Neg": (np.negative, [anywhere, special]),
        "Reciprocal": (np.reciprocal, [anywhere[:6], special]),
        "Round": (np.round, [anywhere, special]),
        "Sigmoid": (lambda x: 1 / (1 + np.exp(-x)), [anywhere, special]),
        "Sign": (np.sign, [anywhere, special]),
        "Sin": (np.sin, [anywhere]),
        "Sinh": (np.sinh, [anywhere[1:], special]),
        "Sqrt": (np.sqrt, [np.array([0, 0.25, 2, 60, np.inf, np.nan])]),
        "Tan": (np.tan, [anywhere]),
        "Tanh": (np.tanh, [anywhere, special]),
    }
    batch, expected = NodeBatch(opset=20), []
    for operator, (function, points) in functions.items():
        data = np.concatenate(points).astype(dtype)
        batch.add(operator, batch.given(data))
        with np.errstate(all="ignore"):
            values = function(data.astype("float64"))
            expected.append(values if values.dtype == bool else values.astype(dtype))
    check(batch, expected, FLOATS[dtype])


def test_signs_of_infinity():
    data = np.array([1, np.inf, -np.inf, np.nan], "float32")
    batch = NodeBatch(opset=20)
    x = batch.given(data)
    for positive, negative in ((1, 0), (0, 1), (0, 0)):
        batch.add("IsInf", x, detect_positive=positive, detect_negative=negative)
    check(batch, [data == np.inf, data == -np.inf, np.zeros(4, bool)])


def test_extrema_keep_nan():
    nan = np.nan
    a, b = np.array([1, nan, 3, nan], "float32"), np.array([2, 2, nan, nan], "float32")
    batch = NodeBatch(opset=17)
    x, y = batch.given(a), batch.given(b)
    batch.add("Max", x, y)
    batch.add("Min", x, y, np.float32(1.5))
    batch.add("Max", x, np.float32(2))
    batch.add("Clip", x, np.float32(0), np.float32(2))
    batch.add("Mean", x, y, np.array([[6], [9]], "float32"))
    mean = (a + b + np.array([[6], [9]], "float32")) / np.float32(3)
    check(
        batch,
        [
            np.maximum(a, b),
            np.minimum(np.minimum(a, b), np.float32(1.5)),
            np.array([2, nan, 3, nan], "float32"),
            np.array([1, nan, 2, nan], "float32"),
            mean,
        ],
        1e-6,
    )


@pytest.mark.parametrize("dtype", [*INTEGERS, "float16", "float32", "float64"])
def test_clip(dtype):
    data = np.array([0, 1, 2, 5, 9, 100], dtype)
    low, high = np.array(2, dtype), np.array(7, dtype)
    batch = NodeBatch(opset=13)
    x, lower, upper = batch.given(data), batch.given(low), batch.given(high)
    batch.add("Clip", x, low, high)
    batch.add("Clip", x, lower, upper)
    batch.add("Clip", x, "", upper)
    batch.add("Clip", x, upper, lower)  # the upper bound has the last word
    batch.add("Clip", x, np.array([2], dtype))
    batch.add("Max", x, lower)
    batch.add("Min", x, upper, high)
    batch.add("Sign", x)
    clipped = np.clip(data, low, high)
    check(
        batch,
        [
            *(clipped, clipped, np.minimum(data, high), np.full(6, 2, dtype)),
            *(np.maximum(data, low), np.maximum(data, low), np.minimum(data, high), np.sign(data)),
        ],
    )


def test_clip_and_broadcasting_of_old_versions():
    data = np.arange(24, dtype="float32").reshape(2, 3, 4)
    row = np.array([1, 2, 3], "float32")
    batch = NodeBatch(opset=6)
    x, r = batch.given(data), batch.given(row)
    batch.add("Clip", x, min=3.0)
    batch.add("Clip", x, min=3.0, max=7.0)
    batch.add("Add", x, r, broadcast=1, axis=1)
    batch.add("Mul", x, np.full(4, 2, "float32"), broadcast=1)
    check(batch, [data.clip(3), data.clip(3, 7), data + row[:, None], data * 2])


def test_comparisons_and_logic():
    batch = NodeBatch(opset=17)
    truth = np.array([[True], [False]])
    other = np.array([True, False])
    a, b = batch.given(truth), batch.given(other)
    for operator in ("And", "Or", "Xor", "Equal"):
        batch.add(operator, a, b)
    batch.add("Not", a)
    expected = [truth & other, truth | other, truth ^ other, truth == other, ~truth]
    data = np.array([1, np.nan, 3], "float16")
    x = batch.given(data)
    for operator in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"):
        batch.add(operator, x, data[::-1].copy())
    y = data[::-1]
    expected += [data < y, data <= y, data > y, data >= y, data == y]
    check(batch, expected)


def test_bits():
    batch = NodeBatch(opset=18)
    expected = []
    for dtype in INTEGERS:
        left, right = pairs(dtype)
        a, b = batch.given(left), batch.given(right)
        for operator in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
            batch.add(operator, a, b)
        batch.add("BitwiseNot", a)
        expected += [left & right, left | right, left ^ right, ~left]
    check(batch, expected)


def test_bfloat16_inside_a_model():
    data = np.array([[0.5, 1.25, -2, 3]], "float32")
    other = np.array([[2, -4, 2, 3]], "float32")
    binary = {
        "Add": np.add,
        "Mul": np.multiply,
        "Div": np.divide,
        "Max": np.maximum,
        "Min": np.minimum,
        "Pow": np.power,
    }
    unary = {
        "Exp": np.exp,
        "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "Relu": lambda x: np.maximum(x, 0),
        "IsNaN": np.isnan,
    }
    batch, expected, outputs = NodeBatch(opset=17), [], []
    x, y = (
        batch.add("Cast", batch.given(values), to=TensorProto.BFLOAT16)[0]
        for values in (data, other)
    )
    for operator, function in {**binary, **unary}.items():
        operands = [x, y] if operator in binary else [x]
        (result,) = batch.add(operator, *operands)
        outputs += batch.add("Cast", result, to=TensorProto.FLOAT)
        expected.append(function(*[data, other][: len(operands)]))
    batch.outputs = outputs
    for result, wanted in zip(batch.run().values(), expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-2)


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (("Clip", np.zeros(3, "float32")), "its min has the shape"),
        (("Add", np.zeros(5, "float32")), "Incompatible dimensions"),
    ],
)
def test_refusals_say_why(node, text):
    batch = NodeBatch(opset=13)
    batch.add(node[0], batch.given(np.zeros(3, "float32")), node[1])
    with pytest.raises(ModelError, match=text):
        compile_model(batch.model())


def test_old_operands_of_different_shapes_are_refused_without_broadcast():
    batch = NodeBatch(opset=6)
    batch.add("Add", batch.given(np.zeros((2, 3), "float32")), np.zeros(3, "float32"))
    with pytest.raises(ModelError, match="its attribute broadcast is not set"):
        compile_model(batch.model())
