"""Dispatch to library primitives, lowering of concat, and schedules of generated kernels."""

import json

import numpy as np
import pytest
import tvm
from tvm import relax, te

import top_tvm
from top_tvm.compiler.extract import _is_parallel, extract
from top_tvm.compiler.transform.dispatch_onednn import DispatchOneDNN
from top_tvm.compiler.transform.dispatch_views import DispatchViews
from top_tvm.compiler.transform.library_function import KERNEL_ATTRIBUTE
from top_tvm.compiler.transform.lower_concat import LowerConcat, concat_kernel
from top_tvm.compiler.transform.schedule_cpu import schedule_prim_func

RNG = np.random.default_rng(11)


def const(*shape):
    return relax.const(RNG.standard_normal(shape).astype("float32"))


def module(shape, body):
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = body(builder, x)
            results = result if isinstance(result, tuple) else (result,)
            outputs = [builder.emit_output(var) for var in results]
        builder.emit_func_output(outputs[0] if len(outputs) == 1 else relax.Tuple(outputs))
    return builder.finalize()


def described(mod):
    """(symbol, epilogue) of the library functions, and the number of operators left in main."""
    found, left = library_calls(mod)
    return [(symbol, epilogue) for symbol, epilogue, _, _ in found], left


def library_calls(mod):
    """(symbol, epilogue, attributes, arguments) of each library call, and how many ops are left."""
    mod = DispatchOneDNN(mod)
    found, left = [], 0
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            if not isinstance(binding.value, relax.Call):
                continue
            if isinstance(binding.value.op, tvm.ir.Op):
                left += 1
                continue
            record = json.loads(mod[binding.value.op].attrs[KERNEL_ATTRIBUTE])
            attributes = record["attributes"]
            epilogue = ["bias"] if attributes.get("bias") == [1] else []
            epilogue += [name.partition(".")[2] for name in attributes if name.startswith("post")]
            arguments = [binding.value.args[index] for index in record["arguments"]]
            found.append((record["symbol"], epilogue, attributes, arguments))
    return found, left


def conv(b, x, out=8, inputs=8):
    weight = const(out, inputs, 3, 3)
    return b.emit(
        relax.op.nn.conv2d(
            x, weight, padding=(1, 1, 1, 1), data_layout="NHWC", kernel_layout="OIHW"
        )
    )


def test_convolution_takes_bias_residual_and_relu():
    def body(b, x):
        y = b.emit(relax.op.add(conv(b, x), const(1, 1, 1, 8)))
        return b.emit(relax.op.nn.relu(b.emit(relax.op.add(x, y))))

    found, left = library_calls(module((1, 6, 6, 8), body))
    assert [(symbol, epilogue) for symbol, epilogue, _, _ in found] == [
        ("conv2d", ["bias", "residual", "relu"])
    ]
    data, weight, bias, residual = found[0][3]
    assert data.same_as(residual)
    assert [tuple(int(n) for n in operand.ty.shape) for operand in (weight, bias)] == [
        (8, 8, 3, 3),
        (8,),
    ]
    assert left == 0


def test_two_convolutions_that_meet_in_an_addition():
    def body(b, x):
        left = b.emit(relax.op.add(conv(b, x), const(1, 1, 1, 8)))
        right = b.emit(relax.op.add(conv(b, x), const(1, 1, 1, 8)))
        return b.emit(relax.op.nn.relu(b.emit(relax.op.add(left, right))))

    found, left = described(module((1, 6, 6, 8), body))
    assert sorted(epilogue for _, epilogue in found) == [["bias"], ["bias", "residual", "relu"]]
    assert left == 0


def test_intermediate_with_a_second_reader_is_not_swallowed():
    def body(b, x):
        y = b.emit(relax.op.add(conv(b, x), const(1, 1, 1, 8)))
        return b.emit(relax.op.nn.relu(y)), b.emit(relax.op.exp(y))

    found, left = described(module((1, 6, 6, 8), body))
    assert [epilogue for _, epilogue in found] == [["bias"]]
    assert left == 2


def test_constant_that_is_no_bias_stays_outside():
    def body(b, x):
        return b.emit(relax.op.add(conv(b, x), const(1, 6, 1, 1)))

    found, left = described(module((1, 6, 6, 8), body))
    assert [epilogue for _, epilogue in found] == [[]]
    assert left == 1


@pytest.mark.parametrize("rows", [1, 5])
def test_matmul_takes_its_bias_at_every_batch(rows):
    def body(b, x):
        return b.emit(relax.op.add(b.emit(relax.op.matmul(x, const(4, 3))), const(1, 3)))

    found, left = described(module((rows, 4), body))
    assert found == [("matmul", ["bias"])]
    assert left == 0


def test_matmul_may_broadcast_its_batches():
    mod = module((2, 1, 4, 4), lambda b, x: b.emit(relax.op.matmul(x, const(2, 3, 4, 5))))
    assert described(mod) == ([("matmul", [])], 0)


def test_product_with_a_vector_is_left_to_tvm():
    mod = module((4,), lambda b, x: b.emit(relax.op.matmul(x, const(4, 5))))
    assert described(mod) == ([], 1)


def test_the_longer_of_two_branches_takes_the_addition():
    def body(b, x):
        long = conv(b, b.emit(relax.op.add(conv(b, x), const(1, 1, 1, 8))))
        short = conv(b, x)
        return b.emit(relax.op.add(short, long))

    found, left = library_calls(module((1, 6, 6, 8), body))
    assert [epilogue for _, epilogue, _, _ in found] == [["bias"], [], ["residual"]]
    first, short, last = found
    assert first[3][0].same_as(short[3][0])
    assert last[3][0] not in (first[3][0], short[3][0])
    assert left == 0


def scaled(op, factor):
    return lambda b, y: b.emit(op(y, relax.const(np.float32(factor))))


def hard_sigmoid(b, y):
    shifted = scaled(relax.op.add, 0.5)(b, scaled(relax.op.multiply, 0.2)(b, y))
    return b.emit(relax.op.clip(shifted, 0, 1))


def hard_swish(b, y):
    gate = b.emit(relax.op.clip(scaled(relax.op.add, 3)(b, y), 0, 6))
    return b.emit(relax.op.multiply(y, scaled(relax.op.divide, 6)(b, gate)))


def gelu_of_parts(b, y):
    """As PyTorch's exporter writes it."""
    error = b.emit(relax.op.erf(scaled(relax.op.divide, np.sqrt(2))(b, y)))
    return scaled(relax.op.multiply, 0.5)(
        b, b.emit(relax.op.multiply(y, scaled(relax.op.add, 1)(b, error)))
    )


def gelu_by_tanh(b, y):
    """As TensorFlow's exporter writes it."""
    cube = b.emit(relax.op.power(y, relax.const(np.float32(3))))
    inner = b.emit(relax.op.add(y, scaled(relax.op.multiply, 0.044715)(b, cube)))
    tanh = b.emit(relax.op.tanh(scaled(relax.op.multiply, np.sqrt(2 / np.pi))(b, inner)))
    half = scaled(relax.op.multiply, 0.5)(b, y)
    return b.emit(relax.op.multiply(half, scaled(relax.op.add, 1)(b, tanh)))


ACTIVATIONS = {
    "relu": (lambda b, y: b.emit(relax.op.nn.relu(y)), "relu", [0.0]),
    "leaky relu": (lambda b, y: b.emit(relax.op.nn.leakyrelu(y, 0.1)), "relu", [0.1]),
    "relu6": (lambda b, y: b.emit(relax.op.nn.relu6(y)), "clip", [0.0, 6.0]),
    "clip": (
        lambda b, y: scaled(relax.op.minimum, 3)(b, scaled(relax.op.maximum, -2)(b, y)),
        "clip",
        [-2.0, 3.0],
    ),
    "sigmoid": (lambda b, y: b.emit(relax.op.sigmoid(y)), "sigmoid", []),
    "tanh": (lambda b, y: b.emit(relax.op.tanh(y)), "tanh", []),
    "gelu": (lambda b, y: b.emit(relax.op.nn.gelu(y)), "gelu_erf", []),
    "gelu of parts": (gelu_of_parts, "gelu_erf", []),
    "gelu_tanh": (lambda b, y: b.emit(relax.op.nn.gelu_tanh(y)), "gelu_tanh", []),
    "gelu_tanh of parts": (gelu_by_tanh, "gelu_tanh", []),
    "silu": (lambda b, y: b.emit(relax.op.nn.silu(y)), "swish", [1.0]),
    "silu of parts": (
        lambda b, y: b.emit(relax.op.multiply(b.emit(relax.op.sigmoid(y)), y)),
        "swish",
        [1.0],
    ),
    "hard sigmoid": (hard_sigmoid, "hardsigmoid", [0.2, 0.5]),
    "hard swish": (hard_swish, "hardswish", [1 / 6, 0.5]),
    "scale": (scaled(relax.op.divide, 8), "linear", [0.125, 0.0]),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("residual", ["none", "before", "after"])
def test_activations_follow_in_the_same_primitive(name, residual):
    activation, operation, parameters = ACTIVATIONS[name]

    def body(b, x):
        y = b.emit(relax.op.add(conv(b, x), const(1, 1, 1, 8)))
        if residual == "before":
            y = b.emit(relax.op.add(y, x))
        y = activation(b, y)
        return b.emit(relax.op.add(x, y)) if residual == "after" else y

    found, left = library_calls(module((1, 6, 6, 8), body))
    assert left == 0
    ((_, epilogue, attributes, _),) = found
    expected = {"none": [operation], "before": ["residual", operation]}
    assert epilogue == ["bias", *expected.get(residual, [operation, "residual"])]
    place = 1 if residual == "before" else 0
    np.testing.assert_allclose(attributes[f"post{place}.{operation}"], parameters, rtol=1e-6)


def test_unknown_functions_stay_outside():
    def body(b, x):
        y = conv(b, x)
        return b.emit(relax.op.multiply(y, b.emit(relax.op.exp(y))))

    assert described(module((1, 6, 6, 8), body)) == ([("conv2d", [])], 2)


def test_activation_of_a_value_that_is_read_elsewhere_stays_outside():
    def body(b, x):
        y = conv(b, x)
        gate = b.emit(relax.op.sigmoid(y))
        return b.emit(relax.op.multiply(y, gate)), gate

    assert described(module((1, 6, 6, 8), body)) == ([("conv2d", [])], 2)


def local_response(b, x, size=5, pads=(2, 2)):
    square = b.emit(relax.op.expand_dims(b.emit(relax.op.multiply(x, x)), axis=1))
    mean = relax.op.nn.avg_pool3d(
        square,
        pool_size=(1, 1, size),
        padding=(0, 0, pads[0], 0, 0, pads[1]),
        count_include_pad=True,
    )
    mean = b.emit(relax.op.squeeze(b.emit(mean), axis=[1]))
    base = scaled(relax.op.add, 2)(b, scaled(relax.op.multiply, 0.5)(b, mean))
    return b.emit(relax.op.divide(x, scaled(relax.op.power, 0.75)(b, base)))


def test_local_response_normalisation_is_one_primitive():
    found, left = library_calls(module((1, 3, 4, 6), local_response))
    assert [record[:3] for record in found] == [
        ("lrn", [], {"size": [5], "alpha": [0.5], "beta": [0.75], "k": [2.0]})
    ]
    assert left == 0


def test_other_windows_are_not_local_response_normalisation():
    mod = module((1, 3, 4, 6), lambda b, x: local_response(b, x, 5, (3, 1)))
    assert described(mod) == ([], 8)


def test_attention_needs_no_transposes():
    def body(b, x):
        heads = b.emit(relax.op.reshape(x, (1, 6, 2, 4)))
        query, value = (b.emit(relax.op.permute_dims(heads, [0, 2, 1, 3])) for _ in range(2))
        key = b.emit(relax.op.permute_dims(heads, [0, 2, 3, 1]))
        scores = scaled(relax.op.divide, 2)(b, b.emit(relax.op.matmul(query, key)))
        mixed = b.emit(relax.op.matmul(scores, value))
        return b.emit(relax.op.permute_dims(mixed, [0, 2, 1, 3]))

    found, left = library_calls(module((1, 6, 8), body))
    assert left == 1  # the reshape
    scores, mixed = (attributes for _, _, attributes, _ in found)
    assert scores == {
        "permute_a": [0, 2, 1, 3],
        "permute_b": [0, 2, 3, 1],
        "bias": [0],
        "post0.linear": [0.5, 0.0],
    }
    assert mixed == {"permute_b": [0, 2, 1, 3], "bias": [0], "permute_out": [0, 2, 1, 3]}


def test_nchw_convolution_is_left_to_tvm():
    mod = module((1, 4, 6, 6), lambda b, x: b.emit(relax.op.nn.conv2d(x, const(8, 4, 3, 3))))
    assert described(mod) == ([], 1)


def pool(kind, window, **attributes):
    operator = getattr(relax.op.nn, f"{kind}_pool2d")
    return lambda b, x: b.emit(operator(x, pool_size=window, layout="NHWC", **attributes))


def test_pools_are_primitives():
    body = pool("avg", (3, 2), strides=(2, 2), padding=(1, 0, 1, 1), count_include_pad=True)
    ((symbol, _, attributes, _),), left = library_calls(module((1, 9, 9, 17), body))
    assert (symbol, left) == ("avg_pool2d", 0)
    assert attributes == {
        "window": [3, 2],
        "strides": [2, 2],
        "padding": [1, 0, 1, 1],
        "dilation": [1, 1],
        "include_padding": [1],
    }


@pytest.mark.parametrize("axes", [[1, 2], [-2, 1]])
def test_mean_over_height_and_width_is_a_pool(axes):
    mod = module((1, 7, 5, 17), lambda b, x: b.emit(relax.op.mean(x, axis=axes, keepdims=True)))
    ((symbol, _, attributes, _),), left = library_calls(mod)
    assert (symbol, attributes["window"], left) == ("avg_pool2d", [7, 5], 0)


@pytest.mark.parametrize(
    "body",
    [
        pool("max", (2, 2), strides=(2, 2)),  # faster in TVM
        pool("max", (3, 3), strides=(1, 1), dilation=(2, 2)),
        # The last window ends beyond the padding, where oneDNN counts zeros and TVM does not.
        pool("avg", (3, 3), strides=(2, 2), ceil_mode=True, count_include_pad=True),
        pool("max", (2, 2), strides=(1, 1), padding=(2, 2, 2, 2)),  # windows of padding only
        lambda b, x: b.emit(relax.op.mean(x, axis=[1, 3], keepdims=True)),
        lambda b, x: b.emit(relax.op.nn.softmax(x, axis=1)),
        lambda b, x: b.emit(
            relax.op.nn.layer_norm(x, const(6, 16), const(6, 16), axes=[2, 3], epsilon=1e-3)
        ),
    ],
)
def test_what_onednn_does_otherwise_or_slower_is_left_to_tvm(body):
    assert described(module((1, 6, 6, 16), body)) == ([], 1)


def test_softmax_over_the_last_axis_is_a_primitive():
    mod = module((2, 3, 17), lambda b, x: b.emit(relax.op.nn.softmax(x, axis=-1)))
    assert described(mod) == ([("softmax", [])], 0)


def layer_norm_of_parts(b, x, epsilon=1e-3):
    """As PyTorch's exporter writes it; scale and shift may follow."""
    mean = b.emit(relax.op.mean(x, axis=[-1], keepdims=True))
    centred = b.emit(relax.op.subtract(x, mean))
    square = scaled(relax.op.power, 2)(b, centred)
    variance = b.emit(relax.op.mean(square, axis=[-1], keepdims=True))
    deviation = b.emit(relax.op.sqrt(scaled(relax.op.add, epsilon)(b, variance)))
    return b.emit(relax.op.divide(centred, deviation))


@pytest.mark.parametrize(
    "form", ["operator", "parts", "parts with scale", "parts with shift", "parts with both"]
)
def test_layer_normalisation_is_one_primitive(form):
    def body(b, x):
        if form == "operator":
            norm = relax.op.nn.layer_norm(x, const(17), const(17), axes=[-1], epsilon=1e-3)
            return b.emit(norm)
        y = layer_norm_of_parts(b, x)
        if form in ("parts with scale", "parts with both"):
            y = b.emit(relax.op.multiply(y, const(17)))
        if form in ("parts with shift", "parts with both"):
            y = b.emit(relax.op.add(y, const(1, 1, 17)))
        return y

    ((symbol, _, attributes, arguments),), left = library_calls(module((2, 5, 17), body))
    assert (symbol, left) == ("layer_norm", 0)
    np.testing.assert_allclose(attributes["epsilon"], [1e-3])
    assert [int(argument.ty.shape[-1]) for argument in arguments] == [17, 17, 17]


@pytest.mark.parametrize("shifted", [False, True])
def test_normalisation_without_scale_or_shift_still_gets_them(shifted):
    """The primitive wants both, but passes remove what the body of a function does not use."""
    shift = RNG.standard_normal(17).astype("float32")

    def body(b, x):
        y = layer_norm_of_parts(b, x)
        return b.emit(relax.op.add(y, relax.const(shift))) if shifted else y

    exe = top_tvm.build(module((2, 5, 17), body), partitioner="sequential")
    assert [op.origin.split()[0] for op in exe.artifact.profiles[2]] == ["layer_norm"]
    x = RNG.standard_normal((2, 5, 17)).astype("float32")
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)
    result = exe.run({"x": x})["output"]
    np.testing.assert_allclose(result, expected + shift * shifted, rtol=1e-4, atol=1e-5)


def test_normalisation_whose_mean_is_read_elsewhere_is_left_to_tvm():
    def body(b, x):
        y = layer_norm_of_parts(b, x)
        mean = b.emit(relax.op.mean(x, axis=[-1], keepdims=True))
        return y, b.emit(relax.op.add(x, mean))

    found, left = described(module((5, 17), body))
    assert found == [("layer_norm", [])]  # a mean of its own
    assert left == 2


def test_transposed_convolution_between_permutations_is_one_primitive():
    def body(b, x):
        planar = b.emit(relax.op.permute_dims(x, [0, 3, 1, 2]))
        y = b.emit(relax.op.nn.conv2d_transpose(planar, const(8, 3, 2, 2), strides=(2, 2)))
        y = b.emit(relax.op.permute_dims(y, [0, 2, 3, 1]))
        return b.emit(relax.op.nn.relu(b.emit(relax.op.add(y, const(1, 1, 1, 3)))))

    assert described(module((1, 4, 4, 8), body)) == ([("deconv2d", ["bias", "relu"])], 0)


def test_reshapes_become_views_of_one_storage():
    def body(b, x):
        return b.emit(relax.op.exp(b.emit(relax.op.reshape(b.emit(relax.op.exp(x)), (4, 6)))))

    mod = DispatchViews(module((2, 12), body))
    for step in (relax.transform.LegalizeOps(), relax.transform.AnnotateTIROpPattern()):
        mod = step(mod)
    graph = extract(mod, ("x",), ("y",)).graph
    assert len(graph.ops) == 2
    first, second = graph.ops
    assert graph.values[first.outputs[0]].storage == graph.values[second.inputs[0]].storage
    assert graph.values[second.inputs[0]].shape == (4, 6)


def compiled(function, *arrays):
    library = tvm.compile(
        tvm.IRModule({"kernel": function.with_attr("global_symbol", "kernel")}),
        target=tvm.target.Target({"kind": "llvm"}),
    )
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    library["kernel"](*tensors)
    return tensors[-1].numpy()


def test_concat_kernel_copies_rows():
    parts = [RNG.standard_normal((5, width)).astype("float32") for width in (3, 16, 1)]
    result = compiled(concat_kernel(5, (3, 16, 1), "float32"), *parts, np.zeros((5, 20), "float32"))
    np.testing.assert_array_equal(result, np.concatenate(parts, axis=1))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat_is_lowered_along_any_axis(axis):
    mod = module((2, 3, 4), lambda b, x: b.emit(relax.op.concat([x, x, const(2, 3, 4)], axis=axis)))
    after = LowerConcat(mod)
    x = RNG.standard_normal((2, 3, 4)).astype("float32")

    def run(m):
        vm = relax.VirtualMachine(
            tvm.compile(m, target=tvm.target.Target({"kind": "llvm"})), tvm.cpu()
        )
        return vm["main"](tvm.runtime.tensor(x)).numpy()

    assert "concat(" not in after["main"].script().replace("cls.concat", "")
    np.testing.assert_array_equal(run(after), run(mod))


def has_vector_loop(function):
    return "T.vectorized" in function.script()


@pytest.mark.parametrize("shape", [(7, 32), (3, 5, 17), (64,), (5,), (1, 1)])
def test_elementwise_kernels_are_inlined_and_right(shape):
    source = te.placeholder(shape, "float32", name="source")
    middle = te.compute(shape, lambda *i: source(*i) + np.float32(1), name="middle")
    result = te.compute(shape, lambda *i: te.max(middle(*i), np.float32(0)), name="result")
    scheduled = schedule_prim_func(te.create_prim_func([source, result]))
    assert "alloc_buffer" not in scheduled.script()
    assert has_vector_loop(scheduled) == (max(shape) % 16 == 0)
    x = RNG.standard_normal(shape).astype("float32")
    np.testing.assert_allclose(compiled(scheduled, x, np.zeros_like(x)), np.maximum(x + 1, 0))


@pytest.mark.parametrize("channels", [32, 3])
def test_channels_last_pooling_is_vectorised_and_right(channels):
    source = te.placeholder((1, 8, 8, channels), "float32", name="source")
    dy, dx = te.reduce_axis((0, 2), "dy"), te.reduce_axis((0, 2), "dx")
    result = te.compute(
        (1, 4, 4, channels),
        lambda n, h, w, c: te.max(source[n, 2 * h + dy, 2 * w + dx, c], axis=[dy, dx]),
        name="result",
    )
    scheduled = schedule_prim_func(te.create_prim_func([source, result]))
    assert has_vector_loop(scheduled) == (channels == 32)
    assert _is_parallel(scheduled.body)
    x = RNG.standard_normal((1, 8, 8, channels)).astype("float32")
    expected = x.reshape(1, 4, 2, 4, 2, channels).max(axis=(2, 4))
    np.testing.assert_array_equal(compiled(scheduled, x, np.zeros_like(expected)), expected)
