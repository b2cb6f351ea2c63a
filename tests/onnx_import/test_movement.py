"""Operators that move elements, against ONNX Runtime: opsets, types, ranks, borders."""

import numpy as np
import pytest
from node_batch import NodeBatch

DTYPES = ("float32", "float64", "float16", "int8", "int32", "int64", "uint8", "bool")
LARGEST, LEAST = np.iinfo(np.int64).max, np.iinfo(np.int64).min


def numbers(*shape, dtype="float32"):
    random = np.random.default_rng(len(shape))
    return (random.standard_normal(shape) * 8).astype(dtype)


def ints(*values):
    return np.asarray(values, np.int64)


def test_gather():
    batch = NodeBatch(13)
    x = batch.given(numbers(5, 6, 7))
    for dtype in ("int32", "int64"):
        for axis, extent in ((0, 5), (1, 6), (-1, 7)):
            batch.add("Gather", x, batch.given([[0, -1], [extent - 1, -extent]], dtype), axis=axis)
            batch.add("Gather", x, batch.given(-2, dtype), axis=axis)
    for indices in (2, -1, [3], [1, 2, 3], [3, 1, -1], [[0, 1], [2, 3]], [[4], [-2]]):
        batch.add("Gather", x, ints(indices).reshape(np.shape(indices)), axis=0)
        batch.add("Gather", x, ints(indices).reshape(np.shape(indices)), axis=2)
    for dtype in DTYPES:
        batch.add("Gather", batch.given(numbers(9, 33, dtype=dtype)), batch.given([[8, -9]]))
    batch.check()


def test_gather_elements_and_nd():
    batch = NodeBatch(13)
    x = batch.given(numbers(4, 5, 6))
    random = np.random.default_rng(0)
    for axis, extent in ((0, 4), (1, 5), (-1, 6)):
        indices = random.integers(-extent, extent, (3, 5, 2))
        batch.add("GatherElements", x, batch.given(indices), axis=axis)
        batch.add("GatherElements", x, batch.given(indices, "int32"), axis=axis)
    batch.add("GatherND", x, batch.given([[0, -1, 2], [3, 4, -6]]))
    batch.add("GatherND", x, batch.given([[[0, -1]], [[3, 4]]]))
    batch.add("GatherND", x, batch.given([[[0], [-5]]] * 4), batch_dims=1)
    batch.add("GatherND", x, batch.given(random.integers(-6, 6, (4, 5, 1))), batch_dims=2)
    batch.check()


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_scatter(dtype):
    batch = NodeBatch(18)
    x = batch.given(numbers(4, 5, 6, dtype=dtype))
    random = np.random.default_rng(0)
    for reduction in ("none", "add", "mul", "min", "max"):
        for axis, extent in ((0, 4), (1, 5), (-1, 6)) if dtype == "float32" else ((1, 5),):
            # All places of an axis, some in another order, some several times.
            indices = random.integers(-extent, extent, (3, 4, 5))
            if reduction == "none":
                indices = np.stack([np.arange(3)] * 4)[:, :, None] - np.zeros(5, np.int64)
                indices = np.moveaxis(indices, 1, axis)[:3, :4, :5]
            updates = batch.given(numbers(*indices.shape, dtype=dtype))
            kinds = {"axis": axis, "reduction": reduction}
            batch.add("ScatterElements", x, batch.given(indices), updates, **kinds)
        pairs = [[0, 1], [-1, -1], [0, 1], [2, 3]] if reduction != "none" else [[0, 1], [-1, -1]]
        updates = batch.given(numbers(len(pairs), 6, dtype=dtype))
        batch.add("ScatterND", x, batch.given(pairs), updates, reduction=reduction)
        triple = batch.given([[[1, 2, 3]], [[-1, -1, -1]]])
        updates = batch.given(numbers(2, 1, dtype=dtype))
        batch.add("ScatterND", x, triple, updates, reduction=reduction)
    batch.check(rtol=1e-6)


def test_scatter_of_the_first_standard_and_of_booleans():
    batch = NodeBatch(10)
    x = batch.given(numbers(3, 3))
    batch.add("Scatter", x, batch.given([[1, 0, 2]]), batch.given(numbers(1, 3)), axis=0)
    batch.check()
    batch = NodeBatch(16)
    x = batch.given(np.zeros((3, 3), bool))
    batch.add("ScatterElements", x, batch.given([[1, 0, 2]]), batch.given(np.ones((1, 3), bool)))
    batch.add("ScatterND", x, batch.given([[1], [-1]]), batch.given(np.ones((2, 3), bool)))
    batch.check()


def test_run_time_indices_out_of_range_are_clamped():
    batch = NodeBatch(24)
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    data, far = batch.given(x), batch.given([99, -99, LARGEST, LEAST, -1])
    expected = x[[2, 0, 2, 0, 2]]
    batch.add("Gather", data, far, axis=0)
    batch.add("GatherElements", data, batch.given([[9, -9, 1, 0]]), axis=0)
    batch.add("GatherND", data, batch.given([[5, -7], [-7, 5]]))
    batch.add("ScatterElements", data, batch.given([[9, -9, 1, 0]]), np.full((1, 4), -1, "float32"))
    batch.add("ScatterND", data, batch.given([[7], [-7]]), np.full((2, 4), -1, "float32"))
    batch.add("ReverseSequence", data, batch.given([99, -5, 2]), time_axis=1, batch_axis=0)
    cache = batch.given(x.reshape(1, 3, 4))
    update = np.full((1, 2, 4), -1, "float32")
    batch.add("TensorScatter", cache, update, batch.given([2]))
    batch.add("TensorScatter", cache, update, batch.given([-1]))
    batch.add("TensorScatter", cache, update, batch.given([101]), mode="circular")
    results = list(batch.run().values())
    scattered = x.copy()
    scattered[[2, 0, 1, 0], np.arange(4)] = -1
    minus = np.full(4, -1, np.float32)
    answers = [
        expected,
        x[[2, 0, 1, 0], np.arange(4)][None],
        x[[2, 0], [0, 3]],
        scattered,
        np.stack([minus, x[1], minus]),
        np.stack([x[0, ::-1], x[1], x[2, [1, 0, 2, 3]]]),
        np.stack([x[0], x[1], minus])[None],
        np.stack([minus, x[1], x[2]])[None],
        np.stack([minus, x[1], minus])[None],
    ]
    for result, answer in zip(results, answers, strict=True):
        np.testing.assert_array_equal(result, answer)


def test_random_slices():
    batch = NodeBatch(13)
    shape = (7, 1, 12)
    x = batch.given(numbers(*shape))
    random = np.random.default_rng(0)
    borders = [LARGEST, LEAST + 1, 0, -1, 1]
    for _ in range(25):
        axes = random.permutation(3)[: random.integers(1, 4)]
        starts = [random.choice([*borders, int(random.integers(-14, 14))]) for _ in axes]
        ends = [random.choice([*borders, int(random.integers(-14, 14))]) for _ in axes]
        steps = random.choice([-5, -2, -1, 1, 2, 5, LARGEST, -LARGEST], len(axes))
        # ONNX Runtime takes the largest end as the first element when it goes backwards.
        ends = [
            2 if step < 0 and end == LARGEST else end for end, step in zip(ends, steps, strict=True)
        ]
        batch.add("Slice", x, ints(*starts), ints(*ends), ints(*axes), ints(*steps))
    batch.add("Slice", x, ints(1, 0), ints(3, 1))
    batch.add("Slice", x, np.asarray([2], np.int32), np.asarray([5], np.int32))
    batch.check()


def test_slice_of_the_first_standard():
    batch = NodeBatch(9)
    x = batch.given(numbers(5, 6))
    batch.add("Slice", x, starts=[1, -3], ends=[LARGEST, -1])
    batch.add("Slice", x, starts=[-2], ends=[5], axes=[1])
    batch.check()


@pytest.mark.parametrize("opset", [2, 11, 13, 18, 19])
def test_pad(opset):
    batch = NodeBatch(max(opset, 7))
    x = batch.given(numbers(3, 4, 5))
    cases = [(0, 1, 2, 2, 0, 1), (0, 0, 4, 0, 3, 0), (0, -1, 2, -1, 0, -3), (2, 3, 4, 2, 3, 4)]
    for mode in ("constant", "reflect", "edge", "wrap"):
        if mode == "wrap" and opset < 19:
            continue
        for pads in cases:
            if mode != "constant" and min(pads) < 0:
                continue
            if opset < 11:
                batch.add("Pad", x, mode=mode, pads=pads, value=1.5)
                continue
            operands = [np.float32(1.5)] if mode == "constant" else []
            batch.add("Pad", x, ints(*pads), *operands, mode=mode)
    batch.check()


def test_pad_with_values_of_any_type_and_time():
    batch = NodeBatch(18)
    for dtype in ("float64", "int32", "int64", "bool", "float32"):
        x = batch.given(numbers(2, 3, dtype=dtype))
        for value in (1, np.iinfo(np.int64).max) if dtype == "int64" else (1,):
            batch.add("Pad", x, ints(1, 0, 0, 2), np.asarray(value, dtype))
            batch.add("Pad", x, ints(0, 1, 1, 0), batch.given(value, dtype))
    x = batch.given(numbers(2, 3, 4))
    batch.add("Pad", x, ints(1, 2), np.float32(-np.inf), ints(-2))
    batch.add("Pad", x, ints(1, 0, 2, 1), "", ints(0, 2), mode="edge")
    batch.check()


@pytest.mark.parametrize("opset", [2, 11, 13, 18])
def test_split(opset):
    batch = NodeBatch(max(opset, 7))
    x = batch.given(numbers(4, 7))
    equal = {"num_outputs": 2} if opset >= 18 else {}
    batch.add("Split", x, results=2, axis=0, **equal)
    if opset < 13:
        batch.add("Split", x, results=3, axis=-1, split=[2, 4, 1])
    else:
        batch.add("Split", x, ints(2, 4, 1), results=3, axis=-1)
        batch.add("Split", x, ints(0, 7, 0), results=3, axis=1)
    if opset >= 18:
        batch.add("Split", x, results=3, axis=1, num_outputs=3)
    batch.check()


@pytest.mark.parametrize("opset", [7, 11, 13])
def test_axes_are_attributes_before_opset_13(opset):
    batch = NodeBatch(opset)
    x = batch.given(numbers(1, 3, 1, 4))
    for axes in ([0], [2], [0, 2], [-2] if opset >= 11 else [2]):
        operands, attributes = ([ints(*axes)], {}) if opset >= 13 else ([], {"axes": axes})
        batch.add("Squeeze", x, *operands, **attributes)
        batch.add("Unsqueeze", x, *operands, **attributes)
    batch.add("Squeeze", x)
    batch.check()


def test_reshapes():
    batch = NodeBatch(14)
    x = batch.given(numbers(2, 3, 4))
    for shape in ([0, -1], [4, 0, -1], [-1], [24, 1], [2, 0, 2, 2]):
        batch.add("Reshape", x, ints(*shape))
    batch.add("Reshape", x, ints(3, -1, 2), allowzero=1)
    for axis in (0, 1, 2, 3, -1):
        batch.add("Flatten", x, axis=axis)
    batch.add("Transpose", x)
    batch.add("Transpose", x, perm=[1, 2, 0])
    batch.add("Expand", x, ints(5, 1, 3, 1))
    batch.add("Expand", x, ints(1))
    batch.add("Tile", x, ints(1, 2, 3))
    batch.add("Tile", batch.given(numbers(2, dtype="int8")), ints(3))
    scalar = batch.given(np.float32(2))
    batch.add("Reshape", scalar, ints(1, -1))
    batch.add("Reshape", batch.given([3.0]), ints())
    batch.add("Expand", scalar, ints(2, 2))
    batch.add("Transpose", scalar)
    batch.add("Flatten", scalar, axis=0)
    batch.add("Concat", x, x, x, axis=-1)
    batch.add("Concat", x, np.zeros((2, 0, 4), "float32"), x, axis=1)
    batch.check()


def test_pixels_and_depth():
    batch = NodeBatch(13)
    x = batch.given(numbers(2, 8, 4, 6))
    for mode in ("DCR", "CRD"):
        batch.add("DepthToSpace", x, blocksize=2, mode=mode)
    batch.add("SpaceToDepth", x, blocksize=2)
    (deep,) = batch.add("SpaceToDepth", batch.given(numbers(1, 3, 9, 6)), blocksize=3)
    batch.add("DepthToSpace", deep, blocksize=3)
    batch.check()


def test_one_hot():
    batch = NodeBatch(11)
    indices = batch.given([[0, -1], [7, -8]])
    for axis in (0, 1, -1):
        batch.add("OneHot", indices, ints(5), np.asarray([2, 3], np.float32), axis=axis)
    batch.add("OneHot", indices, ints(5), batch.given([-1, 1]))
    depth, values = np.asarray(3, np.float32), np.asarray([0, 1], np.float32)
    batch.add("OneHot", batch.given([1, 2], "float32"), depth, values)
    batch.check()


def test_fills():
    batch = NodeBatch(14)
    x = batch.given(numbers(2, 4, 5))
    for upper in (0, 1):
        for k in (-9, -1, 0, 2, 9):
            batch.add("Trilu", x, np.asarray(k, np.int64), upper=upper)
    batch.add("Trilu", batch.given(np.ones((3, 3), bool)))
    matrix = batch.given(numbers(3, 5, dtype="int32"))
    batch.add("EyeLike", matrix, k=-1)
    batch.add("EyeLike", matrix, dtype=11)
    condition = batch.given([[True], [False], [True]])
    batch.add("Where", condition, matrix, np.asarray(7, np.int32))
    batch.add("ReverseSequence", x, batch.given([1, 2, 2, 1]), time_axis=0, batch_axis=1)
    batch.add("Compress", x, np.asarray([False, True, True]), axis=1)
    batch.add("Compress", x, np.asarray([False, True, True]))
    batch.check()


def test_shapes_are_constants():
    batch = NodeBatch(15)
    x = batch.given(numbers(2, 3, 4))
    (shape,) = batch.add("Shape", x)
    batch.add("Shape", x, start=1)
    batch.add("Shape", x, start=-2, end=-1)
    batch.add("Size", x)
    (last,) = batch.add("Gather", shape, np.asarray(2, np.int64))
    (count,) = batch.add("Mul", last, ints(6))
    batch.add("Reshape", x, count)
    batch.add("Range", np.asarray(0, np.int64), last, np.asarray(1, np.int64))
    batch.check()
