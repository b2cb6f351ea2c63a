"""Damage to ONNX files: of bytes, and of what a graph says.

What still builds must agree with ONNX Runtime on random inputs, where that takes the model at all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

import top_tvm
from corrupt_top import choose

Random = np.random.Generator
_HUGE = (2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)
_INTEGERS = (-(2**63), -(2**31), -5, -2, -1, 0, 1, 2, 3, 4, 5, 7, 8, 100, 65_536, *_HUGE)
_TOLERANCE = 2e-3
_ABSURD = 1e15


def prepare(folder: Path) -> None:
    """Write the undamaged models."""
    for name, model in models().items():
        onnx.save(model, folder / f"{name}.onnx")
    weight = numpy_helper.from_array(_values(64, 32), "w")
    model = _model(
        [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])],
        {"x": (2, 64)},
        ["y"],
        [weight],
    )
    path = folder / "external.onnx"
    onnx.save(model, path, save_as_external_data=True, location="external.bin", size_threshold=0)


def models() -> dict[str, onnx.ModelProto]:
    """Small models, each of which builds in a second."""
    from small_model import small_model

    node = helper.make_node
    shapes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Concat", ["n", "minus"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["flat"]),
        node("ConstantOfShape", ["size"], ["ones"], value=_tensor("one", np.float32([1]))),
        node("Add", ["flat", "ones"], ["sum"]),
        node("Expand", ["sum", "wide"], ["expanded"]),
        node("Tile", ["expanded", "repeats"], ["tiled"]),
        node("Pad", ["tiled", "pads"], ["y"]),
    ]
    shape_constants = {
        "zero": np.int64([0]),
        "minus": np.int64([-1]),
        "size": np.int64([1, 12]),
        "wide": np.int64([2, 12]),
        "repeats": np.int64([1, 2]),
        "pads": np.int64([0, 1, 0, 1]),
    }
    images = [
        node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2], kernel_shape=[3, 3]),
        node("BatchNormalization", ["c", "g", "b", "mean", "var"], ["n"]),
        node("Relu", ["n"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[1, 1]),
        node("Resize", ["p", "", "scales"], ["z"], mode="nearest"),
        node("Transpose", ["z"], ["t"], perm=[0, 2, 3, 1]),
        node("Softmax", ["t"], ["y"], axis=-1),
    ]
    image_constants = {
        "k": _values(8, 3, 3, 3),
        "g": np.abs(_values(8)) + 0.5,
        "b": _values(8),
        "mean": _values(8),
        "var": np.abs(_values(8)) + 0.5,
        "scales": np.float32([1, 1, 2, 2]),
    }
    rows = [
        node("LayerNormalization", ["x", "scale", "shift"], ["l"], axis=-1),
        node("Split", ["l", "parts"], ["q", "v"], axis=-1),
        node("Transpose", ["q"], ["qt"], perm=[0, 2, 1]),
        node("MatMul", ["v", "qt"], ["a"]),
        node("Gemm", ["flat", "w", "bias"], ["g"], transB=1, alpha=0.5),
        node("Flatten", ["a"], ["flat"]),
        node("Slice", ["g", "start", "stop"], ["y"]),
    ]
    row_constants = {
        "scale": _values(16),
        "shift": _values(16),
        "parts": np.int64([8, 8]),
        "w": _values(6, 25),
        "bias": _values(6),
        "start": np.int64([0, 1]),
        "stop": np.int64([1, 5]),
    }
    rows[4], rows[5] = rows[5], rows[4]
    return {
        "small": small_model(size=8),
        "shapes": _model(shapes, {"x": (1, 3, 4)}, ["y"], _tensors(shape_constants)),
        "images": _model(images, {"x": (1, 3, 12, 12)}, ["y"], _tensors(image_constants)),
        "rows": _model(rows, {"x": (1, 5, 16)}, ["y"], _tensors(row_constants)),
    }


def open_trial(folder: Path) -> Callable[[int, Path, Callable[..., None]], str]:
    """The function that tries one seed and says what came of it."""
    top_tvm.build(folder / "small.onnx", partitioner="sequential", streams=1)

    def trial(seed: int, place: Path, tell: Callable[..., None]) -> str:
        random = np.random.default_rng(seed)
        how, path = corrupt(folder, place, seed, random)
        tell("build", how=how)
        executable = top_tvm.build(path, partitioner="sequential", streams=1)
        arrays = {s.name: _random_input(random, s) for s in executable.inputs}
        outputs = executable.run(arrays)
        tell("reference", how=how)
        expected = _reference(path, arrays, list(outputs))
        tell("compare", how=how)
        if expected is None:
            return "ran alone"
        for name, value in expected.items():
            _assert_close(outputs[name], value, name)
        return "right"

    return trial


def corrupt(folder: Path, place: Path, seed: int, random: Random) -> tuple[str, Path]:
    """Write a damaged model; says how it was damaged, and where it is."""
    name = str(choose(random, ["small", "shapes", "images", "rows", "external"]))
    data = (folder / f"{name}.onnx").read_bytes()
    (place / "external.bin").write_bytes((folder / "external.bin").read_bytes())
    path = place / f"{seed}.onnx"
    if random.random() < 0.25:
        damage = choose(random, [_flip, _flip, _truncate, _overwrite])
        path.write_bytes(damage(data, random))
    else:
        model = onnx.load_from_string(data)
        damages = [_attribute] * 3 + [_small_tensor] * 4 + [_edge] * 3 + [_dims] * 2 + _DAMAGES
        damages += [_location] * (6 if name == "external" else 0)
        damage = choose(random, damages)
        damage(model, random)
        path.write_bytes(model.SerializeToString())
    return f"{damage.__name__[1:]}", path


# --- Bytes ---


def _flip(data: bytes, random: Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(random.integers(1, 6)):
        damaged[random.integers(len(damaged))] ^= 1 << random.integers(8)
    return bytes(damaged)


def _truncate(data: bytes, random: Random) -> bytes:
    return data[: random.integers(len(data))]


def _overwrite(data: bytes, random: Random) -> bytes:
    begin, size = random.integers(len(data)), int(2 ** random.integers(0, 10))
    return data[:begin] + random.bytes(size) + data[begin + size :]


# --- Graphs ---


def _attribute(model: onnx.ModelProto, random: Random) -> None:
    """Another value, type or name of an attribute, or none."""
    nodes = [node for node in model.graph.node if node.attribute]
    if not nodes:
        return
    node = choose(random, nodes)
    attribute = choose(random, list(node.attribute))
    match int(random.integers(6)):
        case 0:
            node.attribute.remove(attribute)
        case 1:
            attribute.type = int(random.integers(15))
        case 2:
            attribute.name = choose(random, ["axis", "pads", "perm", "mode", "x", "", "group"])
        case 3:
            attribute.CopyFrom(helper.make_attribute(attribute.name, choose(random, [0.5, "a", 3])))
        case _ if attribute.type == AttributeProto.INT:
            attribute.i = int(choose(random, list(_INTEGERS)))
        case _ if attribute.ints:
            attribute.ints[random.integers(len(attribute.ints))] = choose(random, list(_INTEGERS))
        case _:
            attribute.f = float(choose(random, [0, -1, np.inf, np.nan, 1e30]))


def _small_tensor(model: onnx.ModelProto, random: Random) -> None:
    """A shape, axes, repeats, pads: what the sizes of tensors follow from."""
    tensors = [t for t in model.graph.initializer if t.data_type == TensorProto.INT64 or _few(t)]
    if not tensors:
        return _dims(model, random)
    tensor = choose(random, tensors)
    values = numpy_helper.to_array(tensor).copy().reshape(-1)
    for _ in range(random.integers(1, 3)):
        value = choose(random, list(_INTEGERS))
        values[random.integers(len(values))] = value
    tensor.CopyFrom(numpy_helper.from_array(values.reshape(tuple(tensor.dims)), tensor.name))
    return None


def _few(tensor: TensorProto) -> bool:
    return np.prod(tensor.dims) <= 4 and not tensor.external_data


def _dims(model: onnx.ModelProto, random: Random) -> None:
    """Shape of an initializer, with its data or without; or of an input."""
    initializers = list(model.graph.initializer)
    if random.random() < 0.3 or not initializers:
        dims = choose(random, list(model.graph.input)).type.tensor_type.shape.dim
        if random.random() < 0.3:
            dims.add().dim_value = 1
        dim = choose(random, list(dims))
        dim.dim_value = int(choose(random, list(_INTEGERS)))
        return
    tensor = choose(random, initializers)
    match int(random.integers(4)):
        case 0 if tensor.dims:
            tensor.dims[random.integers(len(tensor.dims))] = choose(random, list(_INTEGERS))
        case 1:
            tensor.dims.append(int(choose(random, [0, 1, 2, -1])))
        case 2:
            size = int(np.prod(tensor.dims))
            del tensor.dims[:]
            tensor.dims.extend([1] * int(random.integers(40)) + [size])
        case _:
            tensor.raw_data = tensor.raw_data[: random.integers(len(tensor.raw_data) + 1)]


def _edge(model: onnx.ModelProto, random: Random) -> None:
    """Names that nodes take and give: cycles, repetitions, nothing there."""
    graph = model.graph
    node = choose(random, list(graph.node))
    results = [output for other in graph.node for output in other.output]
    match int(random.integers(8)):
        case 0:
            node.input[random.integers(len(node.input))] = choose(random, results)
        case 1:
            node.output[random.integers(len(node.output))] = choose(random, results)
        case 2:
            node.input[random.integers(len(node.input))] = choose(random, ["", "nobody", "é" * 50])
        case 3:
            graph.output[0].name = choose(random, [*results, "nobody", "", "x"])
        case 4:
            node.input.append(choose(random, results))
        case 5:
            del node.input[random.integers(len(node.input))]
        case 6:
            node.output.append("more")
        case _:
            graph.node.remove(node)


def _op_type(model: onnx.ModelProto, random: Random) -> None:
    others = ["Relu", "Softmax", "Add", "MatMul", "Conv", "ConstantOfShape", "Shape", "Reshape"]
    others += [
        "Loop",
        "If",
        "Scan",
        "SequenceEmpty",
        "Optional",
        "StringConcat",
        "",
        "\x00",
        "Gather",
    ]
    others += ["NonZero", "TopK", "GatherND", "ScatterND", "Resize", "Upsample", "LSTM", "Einsum"]
    node = choose(random, list(model.graph.node))
    node.op_type = choose(random, others)
    if random.random() < 0.3:
        del node.attribute[:]


def _domain(model: onnx.ModelProto, random: Random) -> None:
    choose(random, list(model.graph.node)).domain = choose(random, ["com.x", "ai.onnx.ml", "é"])


def _versions(model: onnx.ModelProto, random: Random) -> None:
    match int(random.integers(5)):
        case 0:
            model.ir_version = int(choose(random, [0, 1, 2, 3, 99, -1, 2**40]))
        case 1:
            del model.opset_import[:]
        case 2:
            model.opset_import.add(version=3)
        case _:
            version = int(choose(random, [-1, 0, 1, 5, 7, 9, 11, 13, 18, 21, 28, 29, 2**40]))
            model.opset_import[0].version = version


def _repeat(model: onnx.ModelProto, random: Random) -> None:
    """Something twice."""
    graph = model.graph
    members = [m for m in (graph.node, graph.input, graph.output, graph.initializer) if len(m)]
    member = choose(random, members)
    member.add().CopyFrom(choose(random, list(member)))


def _remove(model: onnx.ModelProto, random: Random) -> None:
    graph = model.graph
    members = [m for m in (graph.node, graph.input, graph.output, graph.initializer) if len(m)]
    member = choose(random, members)
    member.remove(choose(random, list(member)))


def _types(model: onnx.ModelProto, random: Random) -> None:
    """Element types, and inputs that are no tensors."""
    graph = model.graph
    match int(random.integers(5)):
        case 0 | 1:
            value = choose(random, [*graph.input, *graph.output])
            value.type.tensor_type.elem_type = int(random.integers(-1, 30))
        case 2 if graph.initializer:
            choose(random, list(graph.initializer)).data_type = int(random.integers(-1, 30))
        case 3:
            value = choose(random, [*graph.input, *graph.output])
            inner = helper.make_tensor_type_proto(TensorProto.FLOAT, [1])
            makers = [helper.make_sequence_type_proto, helper.make_optional_type_proto]
            value.type.CopyFrom(choose(random, makers)(inner))
        case _:
            choose(random, [*graph.input, *graph.output]).ClearField("type")


def _huge_constant(model: onnx.ModelProto, random: Random) -> None:
    """A node that asks for terabytes, from an initializer or a Constant."""
    graph = model.graph
    extents = np.int64([choose(random, list(_HUGE)) for _ in range(random.integers(1, 4))])
    op_type = choose(random, ["ConstantOfShape", "Expand", "Tile", "Range", "OneHot"])
    shape = choose(random, ["computed", "initializer", "constant"])
    if shape == "initializer":
        graph.initializer.append(_tensor("extents", extents))
    else:
        value = _tensor("v", extents if shape == "constant" else extents // 2)
        first = "extents" if shape == "constant" else "half"
        graph.node.insert(0, helper.make_node("Constant", [], [first], value=value))
        if shape == "computed":
            graph.node.insert(1, helper.make_node("Add", ["half", "half"], ["extents"]))
    graph.initializer.append(_tensor("one", np.float32(1)))
    graph.initializer.append(_tensor("whole", np.int64(0)))
    graph.initializer.append(_tensor("step", np.int64(1)))
    graph.initializer.append(_tensor("last", np.int64(2**50)))
    graph.initializer.append(_tensor("offon", np.float32([0, 1])))
    inputs = {
        "ConstantOfShape": ["extents"],
        "Expand": ["one", "extents"],
        "Tile": ["one", "extents"],
        "Range": ["whole", "last", "step"],
        "OneHot": ["whole", "last", "offon"],
    }
    graph.node.append(helper.make_node(op_type, inputs[op_type], ["huge"]))
    graph.node.append(helper.make_node("ReduceMax", ["huge"], ["most"], keepdims=0))
    graph.output.append(helper.make_tensor_value_info("most", TensorProto.FLOAT, []))
    if random.random() < 0.3:
        graph.output.append(helper.make_tensor_value_info("huge", TensorProto.FLOAT, None))


def _control_flow(model: onnx.ModelProto, random: Random) -> None:
    graph = model.graph
    body = helper.make_graph(
        [helper.make_node("Identity", [graph.input[0].name], ["inner"])],
        "body",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    graph.initializer.append(_tensor("yes", np.bool_(True)))
    node = helper.make_node("If", ["yes"], ["branch"], then_branch=body, else_branch=body)
    if random.random() < 0.5:
        inner = AttributeProto.FromString(node.attribute[0].SerializeToString())
        for attribute in node.attribute:
            attribute.g.node[0].attribute.append(inner)
    graph.node.append(node)
    graph.output.append(helper.make_tensor_value_info("branch", TensorProto.FLOAT, None))


def _functions(model: onnx.ModelProto, random: Random) -> None:
    """Functions that call themselves, each other, or too many others."""
    depth, width = int(random.integers(1, 150)), int(random.integers(1, 4))
    closed = random.random() < 0.5
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    for level in range(depth):
        last = level + 1 == depth
        callee = f"f{0 if closed else level + 1}" if last else f"f{level + 1}"
        nodes = [helper.make_node(callee, ["a"], [f"b{i}"], domain="local") for i in range(width)]
        if last and not closed:
            nodes = [helper.make_node("Relu", ["a"], ["b0"])]
        nodes.append(helper.make_node("Identity", ["b0"], ["b"]))
        model.functions.append(
            helper.make_function("local", f"f{level}", ["a"], ["b"], nodes, opsets)
        )
    model.opset_import.append(helper.make_opsetid("local", 1))
    node = helper.make_node("f0", [model.graph.input[0].name], ["result"], domain="local")
    model.graph.node.append(node)
    model.graph.output.append(helper.make_tensor_value_info("result", TensorProto.FLOAT, None))


def _sparse(model: onnx.ModelProto, random: Random) -> None:
    values = _tensor("w", np.float32([1, 2]))
    indices = _tensor("i", np.int64([0, 2**40]))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2**41]))


def _location(model: onnx.ModelProto, random: Random) -> None:
    """Where weights lie that are in another file."""
    tensor = choose(random, list(model.graph.initializer))
    tensor.data_location = TensorProto.EXTERNAL
    places = ["../../../../../../etc/passwd", "/etc/passwd", "absent", "", "/dev/zero", ".", "\x00"]
    changes = {
        "location": [*places, "external.bin"],
        "offset": ["-1", "4", "8192", str(2**62), str(2**70), "x"],
        "length": ["-1", "0", "4", "9000", str(2**40), str(2**70), "x"],
    }
    key = choose(random, sorted(changes))
    value = choose(random, changes[key])
    for entry in tensor.external_data:
        if entry.key == key:
            entry.value = value
            return
    tensor.external_data.add(key=key, value=value)


def _many_nodes(model: onnx.ModelProto, random: Random) -> None:
    """A chain longer than recursion goes."""
    first = model.graph.input[0].name
    for index in range(int(random.choice([300, 1_000, 120_000]))):
        model.graph.node.append(helper.make_node("Relu", [first], [f"chain{index}"]))
        first = f"chain{index}"
    model.graph.output.append(helper.make_tensor_value_info(first, TensorProto.FLOAT, None))


_DAMAGES = [
    *(_op_type, _op_type, _op_type, _domain, _versions, _repeat, _remove, _types, _types),
    *(_huge_constant, _huge_constant, _control_flow, _functions, _sparse, _location, _many_nodes),
]


# --- Models and references ---


def _reference(path: Path, arrays: dict[str, Any], names: list[str]) -> dict[str, Any] | None:
    """What ONNX Runtime computes, or None where it refuses the model."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    try:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        wanted = {value.name for value in session.get_inputs()}
        given = {name: value for name, value in arrays.items() if name in wanted}
        return dict(zip(names, session.run(names, given), strict=True))
    except Exception:
        # Each of its many errors is a class of its own, derived from Exception.
        return None


def _assert_close(output: Any, expected: Any, name: str) -> None:
    """The same shape, type and numbers, unless weights are so large that sums overflow."""
    assert output.shape == expected.shape, f"{name}: {output.shape}, expected {expected.shape}"
    assert output.dtype == expected.dtype, f"{name}: {output.dtype}, expected {expected.dtype}"
    largest = max(abs(float(extreme(expected, initial=0))) for extreme in (np.max, np.min))
    if largest < _ABSURD:  # nor NaN
        tolerance = _TOLERANCE * max(1, largest)
        np.testing.assert_allclose(output, expected, _TOLERANCE, tolerance, err_msg=name)


def _random_input(random: Random, spec: Any) -> Any:
    if np.dtype(spec.dtype).kind == "f":
        return random.standard_normal(spec.shape).astype(spec.dtype)
    return random.integers(0, 2, spec.shape).astype(spec.dtype)


@functools.cache
def _generator() -> Random:
    return np.random.default_rng(0)


def _values(*shape: int) -> Any:
    return _generator().standard_normal(shape).astype(np.float32)


def _tensor(name: str, value: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def _tensors(values: dict[str, Any]) -> list[TensorProto]:
    return [_tensor(name, value) for name, value in values.items()]


def _model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, ...]],
    outputs: list[str],
    initializers: list[TensorProto],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
