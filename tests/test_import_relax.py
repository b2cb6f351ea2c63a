"""Relax modules: numbers against TVM's virtual machine, sizes, and what is refused."""

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import top_tvm
from top_tvm.compiler.build import compile_model, make_plan, measure_ops
from top_tvm.compiler.import_relax import import_relax
from top_tvm.compiler.partition import PARTITIONERS
from top_tvm.compiler.relax_memory import relax_memory
from top_tvm.weights import aligned

RNG = np.random.default_rng(3)


def random(*shape):
    return RNG.standard_normal(shape).astype("float32")


def const(*shape):
    return relax.const(random(*shape) / 4)


def network(batch=2, dataflow=True):
    """Two branches of convolutions, and a classifier; results of two ranks."""
    builder = relax.BlockBuilder()
    image = relax.Var("image", relax.TensorType((batch, 3, 8, 8), "float32"))
    scale = relax.Var("scale", relax.TensorType((batch, 8, 1, 1), "float32"))

    def body(emit):
        left = emit(relax.op.nn.conv2d(image, const(8, 3, 3, 3), padding=1))
        right = emit(relax.op.nn.conv2d(image, const(8, 3, 1, 1)))
        both = emit(relax.op.add(emit(relax.op.nn.relu(left)), right))
        gated = emit(relax.op.multiply(both, scale))
        pooled = emit(relax.op.mean(gated, [2, 3]))
        return gated, emit(relax.op.matmul(pooled, const(8, 5)))

    with builder.function("main", [image, scale]):
        if dataflow:
            with builder.dataflow():
                output = builder.emit_output(body(builder.emit))
        else:
            output = builder.emit(relax.Tuple(list(body(builder.emit))))
        builder.emit_func_output(output)
    return builder.finalize()


def in_vm(module, *arrays):
    executable = tvm.compile(module, target=tvm.target.Target({"kind": "llvm"}))
    result = relax.VirtualMachine(executable, tvm.cpu())["main"](*map(tvm.runtime.tensor, arrays))
    return [tensor.numpy() for tensor in result]


@pytest.mark.parametrize("dataflow", [True, False])
def test_every_partitioner_gives_the_numbers_of_the_virtual_machine(dataflow):
    module = network(dataflow=dataflow)
    arrays = [aligned(random(2, 3, 8, 8)), aligned(random(2, 8, 1, 1))]
    expected = in_vm(module, *arrays)
    before = module.script()
    compilation = compile_model(module)
    assert module.script() == before
    (compiled,) = compilation.graphs
    problem = measure_ops(compilation, compiled)
    for name, partition in PARTITIONERS.items():
        plan = make_plan(compiled, problem, name, partition(problem))
        outputs = compilation.session.executor(plan).run(arrays)
        for output, reference in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(output, reference, rtol=1e-4, atol=1e-5)


def test_symbolic_batch_and_names():
    module = network(tirx.Var("n", "int64"))
    exe = top_tvm.build(module, batch_sizes=(1, 3), partitioner="greedy")
    assert [spec.name for spec in exe.inputs] == ["image", "scale"]
    for batch in (1, 3):
        arrays = random(batch, 3, 8, 8), random(batch, 8, 1, 1)
        outputs = exe.run(dict(zip(("image", "scale"), arrays, strict=True)))
        assert list(outputs) == ["output_0", "output_1"]
        for output, reference in zip(outputs.values(), in_vm(module, *arrays), strict=True):
            np.testing.assert_allclose(output, reference, rtol=1e-4, atol=1e-5)


@I.ir_module
class Softmax:
    @R.function
    def main(x: R.Tensor(("n", "m"), "float32")) -> R.Tensor(("n", "m"), "float32"):
        with R.dataflow():
            gv = R.nn.softmax(x, axis=1)
            R.output(gv)
        return gv


@I.ir_module
class Weighted:
    @R.function
    def main(x: R.Tensor((2, 3), "float32"), w: R.Tensor((3, 4), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            gv = R.matmul(x, w)
            R.output(gv)
        return gv


def test_weights_beside_the_function():
    x, w = random(2, 3), random(3, 4)
    module = tvm.IRModule(Weighted.functions)
    module["main"] = module["main"].with_attr("params", [tvm.runtime.tensor(w)])
    exe = top_tvm.build(module, partitioner="sequential")
    assert [spec.name for spec in exe.inputs] == ["x"]
    np.testing.assert_allclose(exe.run({"x": x})["output"], x @ w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (Softmax, {}, "dimension 1 (m) of input 'x' has no fixed size; give the whole shape"),
        (Softmax, {"shapes": {"y": (1, 2)}}, "no input 'y'; the inputs are: x"),
        (Softmax, {"shapes": {"x": (1, 2, 3)}}, "has 2 dimensions, the shape given has 3"),
        (Softmax, {"shapes": {"x": (1, 0)}}, "dimension 1 of input 'x' must be positive, not 0"),
        (Softmax, {"shapes": {"x": (3, 2)}, "batch": 4}, "fixes its batch size at 3, so it cannot"),
        (network(), {"batch": 4}, "fixes its batch size at 2, so it cannot be built for batch 4"),
        (network(), {"shapes": {"scale": (2, 9, 1, 1)}}, "input 'scale' is fixed at 8, not 9"),
        (
            network(0),
            {},
            "dimension 0 of input 'image' is 0: inputs without elements are not supported",
        ),
        (Weighted, {}, "1 parameters are weights, but 0 have values (w...); bind them"),
    ],
)
def test_sizes_and_weights_that_do_not_fit(module, options, message):
    with pytest.raises(top_tvm.ModelError) as caught:
        import_relax(module, **options)
    assert message in str(caught.value)


def test_sizes_are_bound_everywhere():
    imported = import_relax(Softmax, {"x": (3, 7)})
    assert [int(extent) for extent in imported.module["main"].ret_ty.shape] == [3, 7]
    assert imported.batch == 3


@I.ir_module(check_well_formed=False)
class Packed:
    @R.function(pure=False)
    def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
        y = R.call_packed("my.function", x, ty_args=R.Tensor((4,), "float32"))
        return y


@I.ir_module
class PackedByDestination:
    @R.function
    def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
        with R.dataflow():
            gv = R.call_dps_packed("my.function", (x,), out_ty=R.Tensor((4,), "float32"))
            R.output(gv)
        return gv


@I.ir_module
class Branch:
    @R.function
    def main(x: R.Tensor((4,), "float32"), c: R.Tensor((), "bool")) -> R.Tensor((4,), "float32"):
        if c:  # noqa: SIM108 (it is a script)
            y = R.sin(x)
        else:
            y = R.cos(x)
        return y


@I.ir_module
class Other:
    @R.function
    def helper(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
        return R.sin(x)

    @R.function
    def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
        return Other.helper(x)


@I.ir_module
class Prints:
    @R.function(pure=False)
    def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
        _ = R.print(x, format="x: {}")
        return R.sin(x)


@I.ir_module
class NonZero:
    @R.function
    def main(x: R.Tensor((4,), "bool")):
        with R.dataflow():
            gv = R.nonzero(x)
            R.output(gv)
        return gv


@I.ir_module
class TupleInput:
    @R.function
    def main(x: R.Tuple(R.Tensor((4,), "float32"), R.Tensor((4,), "float32"))):
        with R.dataflow():
            gv = R.add(x[0], x[1])
            R.output(gv)
        return gv


@I.ir_module
class OnlyKernel:
    @T.prim_func(s_tir=True)
    def main(x: T.Buffer((4,), "float32")):
        x[0] = T.float32(1)


@I.ir_module
class Cast:
    @R.function
    def main(x: R.Tensor(("n",), "float32")):
        with R.dataflow():
            gv = R.match_cast(x, R.Tensor((4,), "float32"))
            R.output(gv)
        return gv


@I.ir_module
class Local:
    @R.function
    def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
        @R.function
        def inner(y: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            return R.sin(y)

        z = inner(x)
        return z


@I.ir_module
class TwoBlocks:
    @R.function
    def main(x: R.Tensor((4,), "float32")):
        with R.dataflow():
            y = R.sin(x)
            R.output(y)
        with R.dataflow():
            z = R.cos(y)
            R.output(z)
        return z


@I.ir_module
class ShapeResult:
    @R.function
    def main(x: R.Tensor((4,), "float32")):
        with R.dataflow():
            gv = R.shape_of(x)
            R.output(gv)
        return gv


def undefined():
    vector = relax.TensorType((4,), "float32")
    x, y = relax.Var("x", vector), relax.Var("y", vector)
    main = relax.Function([x], y, vector).with_attr("global_symbol", "main")
    return tvm.IRModule({"main": main})


def recursive():
    vector = relax.TensorType((4,), "float32")
    main = tvm.ir.GlobalVar("main")
    relax.expr._update_type(main, relax.FuncType([vector], vector))
    x, y = relax.Var("x", vector), relax.Var("y", vector)
    call = relax.Call(main, [x])
    relax.expr._update_type(call, vector)
    block = relax.BindingBlock([relax.VarBinding(y, call)])
    body = relax.SeqExpr([block], y)
    relax.expr._update_type(body, vector)
    function = relax.Function([x], body, vector).with_attr("global_symbol", "main")
    return tvm.IRModule({main: function})


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Cast, "'gv': match_cast is not supported"),
        (Local, "'inner': a local function is not supported; inline it"),
        (ShapeResult, "'main' must return tensors, not R.Shape([4])"),
        (undefined(), "is not well-formed: Var y is not defined"),
        (recursive(), "'y' calls a function (I.GlobalVar(\"main\")); inline it"),
        (Packed, "'y' calls the packed function 'my.function'; only operators are supported"),
        (PackedByDestination, "relax.call_dps_packed of 'my.function' is not supported"),
        (Branch, "'y': control flow (if) is not supported"),
        (Other, "only 'main' is supported, but there are: helper"),
        (Prints, "relax.print has side effects; not supported"),
        (NonZero, "only running relax.nonzero tells the shape of its result"),
        (TupleInput, "input 'x' is not a tensor of known rank"),
        (OnlyKernel, "has no Relax function 'main'"),
    ],
)
def test_what_the_pipeline_cannot_do_is_named(module, message):
    with pytest.raises(top_tvm.ModelError) as caught:
        import_relax(module)
    assert str(caught.value).startswith("Relax module: ")
    assert message in str(caught.value)


def test_blocks_become_one():
    assert len(import_relax(TwoBlocks).module["main"].body.blocks) == 1


def test_memory_of_a_module():
    memory = relax_memory(import_relax(network()).module)
    assert memory.weights_bytes == 4 * (8 * 3 * 9 + 8 * 3 + 8 * 5)
    inputs, feature = 4 * (2 * 3 * 64 + 2 * 8), 4 * 2 * 8 * 64
    # Two branches and the ReLU of one of them.
    assert memory.activations_bytes == inputs + 3 * feature
    assert memory.largest_bytes >= feature
    assert top_tvm.estimate_memory(network()) > memory.weights_bytes
