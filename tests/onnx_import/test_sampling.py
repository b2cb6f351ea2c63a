"""Samples at places that are known at run time only, against ONNX Runtime and NumPy."""

import itertools

import numpy as np
import pytest
from node_batch import NodeBatch

PADDINGS = ("zeros", "border", "reflection")


def numbers(*shape, dtype="float32"):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(dtype)


def places(*shape):
    """Mostly within the data; some far away."""
    return np.random.default_rng(0).uniform(-2.5, 2.5, shape).astype("float32")


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_grid_sample(mode):
    batch = NodeBatch(20)
    x, grid = batch.given(numbers(2, 3, 5, 4)), batch.given(places(2, 6, 7, 2))
    volume, places_in_it = batch.given(numbers(1, 2, 3, 4, 5)), batch.given(places(1, 2, 3, 4, 3))
    for padding, aligned in itertools.product(PADDINGS, (0, 1)):
        attributes = {"mode": mode, "padding_mode": padding, "align_corners": aligned}
        batch.add("GridSample", x, grid, **attributes)
        if mode != "cubic" and not aligned:
            batch.add("GridSample", volume, places_in_it, **attributes)
    batch.check(rtol=1e-4)


def test_grid_sample_names_of_opset_16():
    batch = NodeBatch(16)
    x, grid = batch.given(numbers(2, 3, 5, 4)), batch.given(places(2, 6, 7, 2))
    for mode in ("bilinear", "bicubic", "nearest"):
        batch.add("GridSample", x, grid, mode=mode)
    batch.check(rtol=1e-4)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_grid_sample_stays_within_the_data(mode):
    batch = NodeBatch(20)
    data = np.ones((1, 2, 3, 1), "float32")
    grid = np.asarray([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e9, 0.0, 0.5], "float32")
    x = batch.given(data)
    grids = batch.given(np.stack([grid, grid[::-1]], axis=-1)[None, None])
    for padding, aligned in zip(PADDINGS, (0, 0, 1), strict=True):
        attributes = {"mode": mode, "padding_mode": padding, "align_corners": aligned}
        batch.add("GridSample", x, grids, **attributes)
    for result in batch.run().values():
        finite = result[np.isfinite(result)]
        assert (np.abs(finite) < 2).all()  # cubic weights overshoot


def test_affine_grid():
    batch = NodeBatch(20)
    flat, tall = batch.given(numbers(2, 2, 3)), batch.given(numbers(2, 3, 4))
    for aligned in (0, 1):
        batch.add("AffineGrid", flat, np.asarray([2, 3, 5, 4]), align_corners=aligned)
        batch.add("AffineGrid", tall, np.asarray([2, 3, 2, 4, 3]), align_corners=aligned)
    batch.check(rtol=1e-4)


@pytest.mark.parametrize("opset", [10, 16])
def test_roi_align(opset):
    batch = NodeBatch(opset)
    x = batch.given(numbers(2, 3, 12, 10))
    rois = np.asarray([[1, 2, 15, 13], [0, 0, 4, 4], [-3, 5, 30, 9], [6, 6, 6, 6]], "float32")
    operands = (x, batch.given(rois), batch.given([0, 1, 1, 0]))
    for mode, ratio in itertools.product(("avg", "max"), (0, 2)):
        attributes = {"mode": mode, "sampling_ratio": ratio, "spatial_scale": 0.5}
        batch.add("RoiAlign", *operands, output_height=3, output_width=2, **attributes)
    if opset == 16:
        mode = "output_half_pixel"
        batch.add("RoiAlign", *operands, coordinate_transformation_mode=mode, sampling_ratio=1)
    batch.check(rtol=1e-4)


def test_max_roi_pool():
    batch = NodeBatch(17)
    x = batch.given(numbers(2, 3, 12, 10))
    rois = np.asarray([[0, 1, 2, 15, 13], [1, 0, 0, 4, 4], [1, 3, 5, 30, 9]], "float32")
    for scale in (1.0, 0.5):
        batch.add("MaxRoiPool", x, batch.given(rois), pooled_shape=[3, 2], spatial_scale=scale)
    batch.check()


def test_regions_stay_within_the_data():
    batch = NodeBatch(16)
    x = batch.given(np.ones((2, 1, 4, 4), "float32"))
    rois = np.asarray([[np.nan] * 4, [-np.inf, -np.inf, np.inf, np.inf], [0, 0, 1e30, 1e30]])
    instances = batch.given([10**9, -5, 1])
    for mode, ratio in itertools.product(("avg", "max"), (0, 2)):
        operands = (x, batch.given(rois.astype("float32")), instances)
        batch.add("RoiAlign", *operands, mode=mode, sampling_ratio=ratio)
    with_instances = np.concatenate([[[1e9], [-7], [np.nan]], rois], axis=1).astype("float32")
    batch.add("MaxRoiPool", x, batch.given(with_instances), pooled_shape=[2, 2])
    for result in batch.run().values():
        finite = result[np.isfinite(result)]
        assert ((finite >= 0) & (finite < 1.001)).all()
