"""Plans that pass their own checks but ask native code for what it must not do."""

from pathlib import Path

import numpy as np
import pytest
from tvm import te

from top_tvm import _native
from top_tvm.compiler.kernel_library import compile_kernels, host_target
from top_tvm.compiler.transform.schedule_cpu import schedule_prim_func
from top_tvm.plan import Call, Kernel, Plan, Tensor
from top_tvm.runtime.native import onednn_module
from top_tvm.weights import aligned

pytestmark = pytest.mark.skipif(onednn_module() is None, reason="built without oneDNN")

CONV = {"strides": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1)}
POOL = {"window": (2, 2), "strides": (2, 2), "padding": (0, 0, 0, 0), "dilation": (1, 1)}
NORM = {"epsilon": (1e-5,)}
LRN = {"size": (5,), "alpha": (1e-4,), "beta": (0.75,), "k": (1.0,)}


def plan(symbol, attributes, shapes, num_outputs=1, library="onednn", **output):
    """One call; the arguments between the first and the last are constants."""
    tensors = [
        Tensor(f"t{i}", "float32", shape, "constant", f"t{i}") for i, shape in enumerate(shapes)
    ]
    tensors[0] = Tensor("x", "float32", shapes[0], "input", "x")
    tensors[-1] = Tensor("y", "float32", shapes[-1], "output", "y", **output)
    last = len(shapes) - 1
    return Plan(
        batch=1,
        streams=1,
        partitioner="sequential",
        tensors=tuple(tensors),
        kernels=(Kernel(library, symbol, attributes),),
        calls=(Call("op", 0, tuple(range(len(shapes))), num_outputs, 0, 0, 0, 1),),
        inputs=(0,),
        outputs=(last,),
        arena_bytes=0,
    )


def executor(plan, library=None):
    constants = {
        tensor.storage: aligned(np.ones(tensor.shape, np.float32))
        for tensor in plan.tensors
        if tensor.space == "constant"
    }
    return _native.Executor(plan, constants, library, onednn_module())


IMAGE, WEIGHT = (1, 8, 8, 4), (6, 4, 3, 3)
GOOD = {
    "conv2d": (CONV, [IMAGE, WEIGHT, (1, 8, 8, 6)]),
    "max_pool2d": (POOL, [IMAGE, (1, 4, 4, 4)]),
    "matmul": ({}, [(3, 4), (4, 5), (3, 5)]),
    "softmax": ({}, [(3, 4), (3, 4)]),
    "layer_norm": (NORM, [(3, 4), (4,), (4,), (3, 4)]),
    "lrn": (LRN, [IMAGE, IMAGE]),
}


@pytest.mark.parametrize("symbol", GOOD)
def test_what_fits_is_executed(symbol):
    attributes, shapes = GOOD[symbol]
    x = aligned(np.ones(shapes[0], np.float32))
    (y,) = executor(plan(symbol, attributes, shapes)).run([x])
    assert y.shape == shapes[-1]


BAD_ATTRIBUTES = [
    ("conv2d", "strides", (0, 1), "must have integers from 1 to 65535"),
    ("conv2d", "strides", (2**53, 1), "must have integers from 1 to 65535"),
    ("conv2d", "padding", (-1, 1, 1, 1), "must have integers from 0 to 65535"),
    ("conv2d", "padding", (2**40, 1, 1, 1), "must have integers from 0 to 65535"),
    ("conv2d", "dilation", (0, 1), "must have integers from 1 to 65535"),
    ("conv2d", "padding", (1, 1, 1), "must have 4 values"),
    ("conv2d", "groups", (2**53,), "do not fit the groups"),
    ("conv2d", "groups", (0,), "do not fit the groups"),
    ("conv2d", "dilation", (2, 2), ""),
    ("conv2d", "post0.relu", (1.0, 2.0), "must have 1 values"),
    ("conv2d", "post0.explode", (), "there is no operation 'explode'"),
    ("max_pool2d", "window", (0, 2), "must have integers from 1 to 65535"),
    ("max_pool2d", "window", (2**31, 2), "must have integers from 1 to 65535"),
    ("max_pool2d", "strides", (1, 1), ""),
    ("lrn", "size", (4,), "must be odd"),
    ("lrn", "size", (2**31 + 1,), "must have integers from 1 to 65535"),
    ("matmul", "permute_a", (0, 0), "must be a permutation"),
    ("matmul", "permute_b", (1, 0), "do not fit"),
    ("softmax", "axis", (1,), "attribute 'axis' is not known"),
]


@pytest.mark.parametrize(("symbol", "name", "values", "message"), BAD_ATTRIBUTES)
def test_attributes_that_do_not_fit_are_refused(symbol, name, values, message):
    attributes, shapes = GOOD[symbol]
    with pytest.raises(
        RuntimeError, match=rf"Cannot create op 'op': .*oneDNN {symbol}: .*{message}"
    ):
        executor(plan(symbol, {**attributes, name: values}, shapes))


BAD_SHAPES = [
    ("conv2d", [IMAGE, WEIGHT, (1, 8, 9, 6)], ""),
    ("conv2d", [IMAGE, (6, 5, 3, 3), (1, 8, 8, 6)], "do not fit the groups"),
    ("conv2d", [IMAGE, (6, 4, 3), (1, 8, 8, 6)], "must have 4 dimensions"),
    ("conv2d", [IMAGE, (1, 8, 8, 6)], "expected 3 arguments, given 2"),
    ("max_pool2d", [IMAGE, (1, 4, 5, 4)], "windows that begin behind the padded data"),
    ("max_pool2d", [IMAGE, (1, 4, 3, 4)], ""),
    ("max_pool2d", [IMAGE, (1, 4, 4, 3)], "batch and channels in common"),
    ("matmul", [(3, 4), (5, 5), (3, 5)], "do not fit"),
    ("matmul", [(4,), (4, 5), (5,)], "at least 2 dimensions"),
    ("matmul", [(), (), ()], "must have 1 to 12 dimensions of at least 1"),
    ("matmul", [(3, 0), (0, 5), (3, 5)], "must have 1 to 12 dimensions of at least 1"),
    ("softmax", [(3, 4), (3, 5)], "must have the same shape"),
    ("softmax", [(1,) * 13, (1,) * 13], "must have 1 to 12 dimensions"),
    ("layer_norm", [(3, 4), (3,), (4,), (3, 4)], "one value per column"),
    ("lrn", [(8, 8), (8, 8)], "the same 4 dimensions"),
]


@pytest.mark.parametrize(("symbol", "shapes", "message"), BAD_SHAPES)
def test_shapes_that_do_not_fit_are_refused(symbol, shapes, message):
    with pytest.raises(
        RuntimeError, match=rf"Cannot create op 'op': .*oneDNN {symbol}: .*{message}"
    ):
        executor(plan(symbol, GOOD[symbol][0], shapes))


def test_library_kernels_write_one_argument():
    attributes, _ = GOOD["softmax"]
    tensors = (Tensor("u", "float32", (3, 4), "output", "u"),)
    wrong = plan("softmax", attributes, [(3, 4), (3, 4)])
    call = Call("op", 0, (2, 1), 2, 0, 0, 0, 1)
    wrong = Plan(
        **{
            **vars(wrong),
            "tensors": (*wrong.tensors, *tensors),
            "calls": (call,),
            "outputs": (1, 2),
        }
    )
    with pytest.raises(ValueError, match="Op 'op' has 2 outputs; kernels of oneDNN have one"):
        executor(wrong)


def test_an_output_with_gaps_is_refused():
    """It would be copied with its gaps, over the end of an array that has none."""
    wrong = plan("softmax", {}, [(3, 4), (3, 4)], strides=(8, 1))
    with pytest.raises(ValueError, match="Tensor 'y' has strides at the boundary"):
        executor(wrong)


@pytest.fixture(scope="module")
def image():
    """Kernel library with one kernel: (4, 16) plus one."""
    source = te.placeholder((4, 16), "float32", name="source")
    result = te.compute((4, 16), lambda i, j: source[i, j] + np.float32(1), name="result")
    function = schedule_prim_func(te.create_prim_func([source, result]))
    return compile_kernels({"step": function}, host_target())


def run_step(image, shapes, symbol="step", dtype="float32"):
    made = executor(plan(symbol, {}, shapes, library="tvm"), _native.KernelLibrary(image))
    return made.run([aligned(np.zeros(shapes[0], dtype))])


def test_generated_kernels_check_their_arguments(image):
    (result,) = run_step(image, [(4, 16), (4, 16)])
    assert (result == 1).all()
    for shapes in ([(4, 15), (4, 16)], [(4, 16), (4, 8)], [(64,), (4, 16)], [(4, 16)] * 3):
        with pytest.raises(RuntimeError, match="Op 'op' failed: "):
            run_step(image, shapes)


@pytest.mark.parametrize("symbol", ["_library_ctx", "", "nothing", "ste"])
def test_only_functions_of_the_library_are_kernels(image, symbol):
    with pytest.raises(RuntimeError, match=f"The kernel library has no kernel '{symbol}'"):
        run_step(image, [(4, 16), (4, 16)], symbol)


def test_truncated_libraries_are_refused(image):
    for size in [0, 3, 4, 63, 64, 200, *range(0, len(image), len(image) // 20)]:
        with pytest.raises(RuntimeError, match=r"truncated|not an ELF|Cannot load"):
            _native.KernelLibrary(image[:size])


@pytest.mark.parametrize(("position", "value"), [(4, 1), (5, 2), (16, 2), (18, 3)])
def test_libraries_for_other_machines_are_refused(image, position, value):
    changed = bytearray(image)
    changed[position] = value  # class, byte order, type, machine
    with pytest.raises(RuntimeError, match="not a shared library for this machine"):
        _native.KernelLibrary(bytes(changed))


def test_libraries_leave_no_file_open(image):
    run_step(image, [(4, 16), (4, 16)])
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    for _ in range(3):
        run_step(image, [(4, 16), (4, 16)])
    assert len(list(descriptors.iterdir())) == before
