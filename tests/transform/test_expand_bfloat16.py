"""Conversions in kernels that bind values: exact rounding, and only where TVM needs help."""

import ml_dtypes
import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import te, tirx

from top_tvm.compiler.kernel_library import host_target
from top_tvm.compiler.transform.expand_bfloat16 import ExpandBFloat16, expand_bfloat16
from top_tvm.compiler.transform.schedule_cpu import schedule_prim_func

SHAPE = (4, 64)


def square(x):
    """As kernels with polynomials do: the argument is bound, and used twice."""
    var = tirx.Var("t", "float32")
    return tirx.Let(var, x, var * var)


def kernel(compute, source, target, bind):
    """A scheduled kernel, into which the Let comes afterwards, as it does for transcendentals."""
    x = te.placeholder(SHAPE, source, "x")
    y = te.compute(SHAPE, lambda i, j: compute(x[i, j]).astype(target), "y")
    function = schedule_prim_func(te.create_prim_func([x, y]))
    if bind:
        replace = (tvm.ir.Call, lambda call: square(call.args[0]))
        function = function.with_body(tvm_ffi.structural_map(function.body, replace))
    return tvm.IRModule({"kernel": function.with_attr("global_symbol", "kernel")})


def run(module, values, target):
    function = tvm.compile(module, target=host_target())["kernel"]
    x = tvm.runtime.tensor(values)
    y = tvm.runtime.tensor(np.zeros(values.shape, target))
    function(x, y)
    return y.numpy()


@pytest.mark.parametrize("source", ["float32", "bfloat16"])
@pytest.mark.parametrize("target", ["float32", "bfloat16"])
def test_bound_values_are_converted_exactly(source, target):
    random = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
    random[0, :6] = [0.0, np.inf, -np.inf, np.nan, 3.4e38, 1e-40]
    module = ExpandBFloat16(
        kernel(lambda x: tirx.sqrt(x.astype("float32")), source, target, bind=True)
    )
    values = random.astype(source)
    with np.errstate(over="ignore"):
        expected = np.square(values.astype("float32")).astype(target)
    np.testing.assert_array_equal(
        run(module, values, target).astype("float32"), expected.astype("float32")
    )


def test_ties_go_to_the_even_neighbour():
    values = np.zeros(SHAPE, "float32")
    values[0, :2] = np.uint32([0x3F808000, 0x3F818000]).view("float32")
    module = kernel(lambda x: x, "float32", "bfloat16", bind=False)
    module.update_func(module.get_global_var("kernel"), expand_bfloat16(module["kernel"]))
    result = run(module, values, "bfloat16")
    np.testing.assert_array_equal(result, values.astype(ml_dtypes.bfloat16))


def test_kernels_without_bound_values_are_left_to_tvm():
    module = kernel(lambda x: tirx.sqrt(x.astype("float32")), "bfloat16", "bfloat16", bind=False)
    tvm.ir.assert_structural_equal(ExpandBFloat16(module), module)
