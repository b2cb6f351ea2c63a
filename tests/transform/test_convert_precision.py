"""What is stored in bfloat16 and what is not, after fusion and before kernels are lowered."""

import ml_dtypes
import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from top_tvm.compiler.extract import extract
from top_tvm.compiler.transform.convert_precision import ConvertPrecision
from top_tvm.compiler.transform.dispatch_onednn import DispatchOneDNN
from top_tvm.compiler.transform.dispatch_views import DispatchViews
from top_tvm.compiler.transform.expand_bfloat16 import ExpandBFloat16
from top_tvm.compiler.transform.lower_concat import LowerConcat
from top_tvm.compiler.transform.schedule_cpu import ScheduleCPU
from top_tvm.errors import ModelError

RNG = np.random.default_rng(2)


def const(*shape):
    return relax.const(RNG.standard_normal(shape).astype("float32"))


def module(shape, body, dispatch=True):
    """``main`` of one float32 parameter, up to the fusion of its operators."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = body(builder.emit, x)
            results = result if isinstance(result, tuple) else (result,)
            outputs = [builder.emit_output(var) for var in results]
        builder.emit_func_output(outputs[0] if len(outputs) == 1 else relax.Tuple(outputs))
    passes = [LowerConcat, DispatchOneDNN, DispatchViews]
    fuse = [
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
    ]
    passes = passes if dispatch else passes[:1]
    return tvm.transform.Sequential([*passes, *fuse])(builder.finalize())


def converted(mod):
    """After conversion, as the pipeline goes on."""
    passes = [
        ConvertPrecision,
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
        ScheduleCPU,
        ExpandBFloat16,
    ]
    return tvm.transform.Sequential(passes)(mod)


def kernels(mod):
    """(stem, dtypes of the arguments, dtypes of the results) of every kernel call, in order."""
    outputs = mod["main"].body.body
    count = len(outputs.fields) if isinstance(outputs, relax.Tuple) else 1
    graph = extract(mod, ("x",), tuple(f"y{i}" for i in range(count))).graph
    return [
        (
            op.name.rpartition("_")[0],
            [graph.values[value].dtype for value in op.inputs],
            [graph.values[value].dtype for value in op.outputs],
        )
        for op in graph.ops
    ]


def run(mod, x):
    executable = tvm.compile(mod, target=tvm.target.Target({"kind": "llvm"}))
    result = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x))
    return result.numpy() if hasattr(result, "numpy") else [part.numpy() for part in result]


def test_main_before_and_after():
    @I.ir_module
    class Before:
        @T.prim_func(private=True, s_tir=True)
        def double(x: T.Buffer((T.int64(8),), "float32"), y: T.Buffer((T.int64(8),), "float32")):
            for i in range(T.int64(8)):
                with T.sblock("y"):
                    v = T.axis.spatial(T.int64(8), i)
                    y[v] = x[v] + x[v]

        @R.function
        def main(x: R.Tensor((8,), "float32")) -> R.Tensor((8,), "float32"):
            cls = Before
            with R.dataflow():
                a = R.call_tir(cls.double, (x,), out_ty=R.Tensor((8,), "float32"))
                b = R.call_tir(cls.double, (a,), out_ty=R.Tensor((8,), "float32"))
                c = R.call_tir(cls.double, (b,), out_ty=R.Tensor((8,), "float32"))
                d = R.call_tir(cls.double, (c,), out_ty=R.Tensor((8,), "float32"))
                R.output(d)
            return d

    @I.ir_module
    class Expected:
        @T.prim_func(private=True, s_tir=True)
        def double1(x: T.Buffer((T.int64(8),), "float32"), y: T.Buffer((T.int64(8),), "bfloat16")):
            T.func_attr({"tirx.noalias": True})
            wide = T.sblock_alloc_buffer((T.int64(8),))
            for i in range(T.int64(8)):
                with T.sblock("y"):
                    v = T.axis.spatial(T.int64(8), i)
                    wide[v] = x[v] + x[v]
            for i in range(T.int64(8)):
                with T.sblock("compute"):
                    v = T.axis.spatial(T.int64(8), i)
                    y[v] = T.Cast("bfloat16", wide[v])

    after = tvm.transform.Sequential([ConvertPrecision, relax.transform.FuseTIR()])(Before)
    types = [
        str(binding.var.ty.dtype)
        for block in after["main"].body.blocks
        for binding in block.bindings
    ]
    assert types == ["bfloat16", "bfloat16", "float32", "float32"]
    tvm.ir.assert_structural_equal(
        after["double1"].without_attr("op_pattern"), Expected["double1"], map_free_vars=True
    )


def test_inputs_and_outputs_stay_float32_and_biases_too():
    def body(emit, x):
        y = emit(relax.op.add(emit(relax.op.matmul(x, const(6, 5))), const(5)))
        return emit(relax.op.matmul(emit(relax.op.nn.log_softmax(y)), const(5, 4)))

    mod = converted(module((3, 6), body))
    assert kernels(mod) == [
        ("cast", ["float32"], ["bfloat16"]),
        ("matmul", ["bfloat16", "bfloat16", "float32"], ["bfloat16"]),
        ("log_softmax", ["bfloat16"], ["bfloat16"]),
        ("matmul", ["bfloat16", "bfloat16"], ["float32"]),
    ]


def test_an_input_of_two_primitives_is_converted_once():
    def body(emit, x):
        return emit(relax.op.matmul(x, const(6, 5))), emit(relax.op.matmul(x, const(6, 4)))

    assert [stem for stem, _, _ in kernels(converted(module((3, 6), body)))] == [
        "cast",
        "matmul",
        "matmul",
    ]


def test_a_result_that_others_read_is_converted_for_them():
    def body(emit, x):
        y = emit(relax.op.nn.log_softmax(x))
        return y, emit(relax.op.matmul(y, const(6, 4))), emit(relax.op.reshape(y, (18,)))

    assert kernels(converted(module((3, 6), body))) == [
        ("log_softmax", ["float32"], ["float32"]),
        ("cast", ["float32"], ["bfloat16"]),
        ("matmul", ["bfloat16", "bfloat16"], ["float32"]),
    ]


@pytest.mark.parametrize("turn", [relax.op.argmax, lambda y: relax.op.astype(y, "int32")])
def test_what_becomes_integers_is_not_rounded(turn):
    def body(emit, x):
        y = emit(relax.op.nn.log_softmax(emit(relax.op.nn.log_softmax(x))))
        return emit(turn(emit(relax.op.reshape(y, (6, 3)))))

    first, second, *_ = kernels(converted(module((3, 6), body)))
    assert first == ("log_softmax", ["float32"], ["bfloat16"])
    assert second == ("log_softmax", ["bfloat16"], ["float32"])


def test_concatenation_copies_bfloat16():
    def body(emit, x):
        parts = [emit(relax.op.nn.log_softmax(x)), x]
        joined = emit(relax.op.concat(parts, axis=1))
        return emit(relax.op.nn.log_softmax(emit(relax.op.nn.log_softmax(joined))))

    mod = converted(module((3, 6), body))
    assert kernels(mod)[1:] == [
        ("cast", ["float32"], ["bfloat16"]),
        ("concat", ["bfloat16", "bfloat16"], ["bfloat16"]),
        ("log_softmax", ["bfloat16"], ["float32"]),
        ("log_softmax", ["float32"], ["float32"]),
    ]


def test_logits_are_not_rounded_but_what_is_averaged_is():
    def body(emit, x):
        y = emit(relax.op.nn.log_softmax(emit(relax.op.matmul(x, const(6, 4)))))
        return y, emit(relax.op.mean(emit(relax.op.matmul(x, const(6, 5))), axis=1))

    assert kernels(converted(module((3, 6), body)))[1:] == [
        ("matmul", ["bfloat16", "bfloat16"], ["float32"]),
        ("log_softmax", ["float32"], ["float32"]),
        ("matmul", ["bfloat16", "bfloat16"], ["bfloat16"]),
        ("mean", ["bfloat16"], ["float32"]),
    ]


def test_a_kernel_of_several_results():
    def body(emit, x):
        parts = emit(relax.op.split(emit(relax.op.nn.log_softmax(x)), 2, axis=1))
        left, right = (emit(relax.TupleGetItem(parts, index)) for index in (0, 1))
        return emit(relax.op.nn.log_softmax(left)), emit(relax.op.nn.log_softmax(right))

    mod = module((3, 6), body, dispatch=False)
    after = converted(mod)
    assert kernels(after)[1] == ("split", ["bfloat16"], ["bfloat16", "bfloat16"])
    x = RNG.standard_normal((3, 6)).astype("float32")
    for result, expected in zip(run(after, x), run(mod, x), strict=True):
        np.testing.assert_allclose(result, expected, rtol=2e-2)


def test_an_operator_without_a_kernel_is_left_alone():
    def body(emit, x):
        return emit(relax.op.argsort(emit(relax.op.nn.log_softmax(x))))

    with pytest.raises(ModelError, match=r"no kernel for relax\.argsort"):
        kernels(converted(module((3, 6), body)))


def test_primitives_write_what_they_read():
    def body(emit, x):
        y = emit(relax.op.nn.softmax(x))  # reads the input: converted, as its result is
        y = emit(relax.op.nn.softmax(emit(relax.op.matmul(y, const(6, 4)))))
        y = emit(relax.op.nn.softmax(emit(relax.op.matmul(y, const(4, 5)))))
        return emit(relax.op.nn.softmax(y))

    assert kernels(converted(module((3, 6), body))) == [
        ("cast", ["float32"], ["bfloat16"]),
        ("softmax", ["bfloat16"], ["bfloat16"]),
        ("matmul", ["bfloat16", "bfloat16"], ["bfloat16"]),
        ("softmax", ["bfloat16"], ["bfloat16"]),
        ("matmul", ["bfloat16", "bfloat16"], ["float32"]),
        ("softmax", ["float32"], ["float32"]),
        ("softmax", ["float32"], ["float32"]),
    ]


def test_large_finite_constants_stay_finite():
    mask = np.where(np.eye(6) > 0, 0, np.finfo("float32").min).astype("float32")

    def body(emit, x):
        return emit(relax.op.nn.log_softmax(emit(relax.op.multiply(x, relax.const(mask)))))

    mod = converted(module((6, 6), body))
    (narrow,) = extract(mod, ("x",), ("y",)).constants.values()
    assert np.isfinite(narrow.view(ml_dtypes.bfloat16).astype("float32")).all()


def test_the_numbers_are_those_of_float32_within_rounding():
    def body(emit, x):
        y = emit(relax.op.nn.conv2d(x, const(7, 5, 3, 3), padding=(1, 1, 1, 1), **NHWC))
        y = emit(relax.op.nn.relu(emit(relax.op.add(y, const(7)))))
        z = emit(relax.op.nn.conv2d(y, const(7, 7, 1, 1), **NHWC))
        z = emit(relax.op.nn.relu(emit(relax.op.add(z, y))))
        z = emit(relax.op.nn.max_pool2d(z, (2, 2), strides=(2, 2), layout="NHWC"))
        return emit(relax.op.mean(z, axis=(1, 2)))

    NHWC = {"data_layout": "NHWC", "kernel_layout": "OIHW"}
    mod = module((1, 6, 6, 5), body, dispatch=False)
    x = RNG.standard_normal((1, 6, 6, 5)).astype("float32")
    expected = run(mod, x)
    assert np.abs(run(converted(mod), x) - expected).max() < 2e-2 * np.abs(expected).max()
