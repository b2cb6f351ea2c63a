"""Scheduled kernels of single Relax expressions, run on arrays."""

import numpy as np
import tvm
from tvm import relax

from top_tvm.compiler.kernel_library import host_target
from top_tvm.compiler.transform.schedule_cpu import schedule_prim_func


def kernel(shape, body, *, scheduled=True):
    """The one kernel that ``body(emit, x)`` becomes."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            output = builder.emit_output(body(builder.emit, x))
        builder.emit_func_output(output)
    module = builder.finalize()
    for step in (
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
    ):
        module = step(module)
    (function,) = [f for _, f in module.functions_items() if isinstance(f, tvm.tirx.PrimFunc)]
    return schedule_prim_func(function) if scheduled else function


def compiled(function, target=None):
    named = function.with_attr("global_symbol", "kernel")
    return tvm.compile(tvm.IRModule({"kernel": named}), target=target or host_target())


def call(function, *arrays):
    """Result of a kernel of float32 tensors on the arrays."""
    library = compiled(function)
    shape = [int(extent) for extent in function.params[-1].ty.shape]
    tensors = [tvm.runtime.tensor(array) for array in (*arrays, np.zeros(shape, "float32"))]
    library["kernel"](*tensors)
    return tensors[-1].numpy()


def assembly(function):
    return compiled(function).mod.inspect_source("asm")
