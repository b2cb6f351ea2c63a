"""The nine real architectures inside the onnx wheel, with seeded random weights.

The wheel ships them "light": every weight is a ``ConstantOfShape`` node, so every output is the
same constant and a wrong kernel would go unnoticed. Here each such node becomes a random
initializer of the shape it stands for: He-scaled for convolutions and matmuls (He et al., 2015,
arXiv:1502.01852), near the identity for batch normalisation and scale-shift pairs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from top_tvm.errors import ModelError

LIGHT_MODELS = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)

Array = npt.NDArray[Any]


def light_model(name: str, batch: int = 1, seed: int = 0) -> onnx.ModelProto:
    """Load a light model of the onnx wheel with random weights.

    Parameters
    ----------
    name : str
        One of ``LIGHT_MODELS``.
    batch : int
        Size of the leading dimension of the input and of every reshape that keeps it.
    seed : int
        Seed of the weights; the same seed gives the same weights for every batch.

    Raises
    ------
    ModelError
        If there is no such model.
    """
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    path = folder / f"light_{name}.onnx"
    if name not in LIGHT_MODELS or not path.is_file():
        raise ModelError(f"no light model {name!r}; there are: {', '.join(LIGHT_MODELS)}")
    model = onnx.load(path)
    model.ir_version = 8  # version 3 wants every initializer to be listed as an input, too
    randomise_weights(model, seed)
    if batch != 1:
        _set_batch(model, batch)
    onnx.checker.check_model(model)
    return model


def randomise_weights(model: onnx.ModelProto, seed: int) -> None:
    """Replace every ``ConstantOfShape`` of a constant shape by a seeded random initializer."""
    graph = model.graph
    initial = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    roles = _roles(graph)
    generator = np.random.default_rng(seed)
    kept, shapes = [], set()
    for node in graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in initial:
            kept.append(node)
            continue
        shapes.add(node.input[0])
        shape = tuple(int(size) for size in initial[node.input[0]])
        value = _random(generator, roles.get(node.output[0], "bias"), shape)
        graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    _keep(graph.initializer, lambda tensor: tensor.name in used or tensor.name not in shapes)
    constants = {tensor.name for tensor in graph.initializer}
    _keep(graph.input, lambda value: value.name in used and value.name not in constants)
    _keep(graph.initializer, lambda tensor: tensor.name in used)


def _keep(field: Any, wanted: Any) -> None:
    kept = [entry for entry in field if wanted(entry)]
    del field[:]
    field.extend(kept)


def _roles(graph: onnx.GraphProto) -> dict[str, str]:
    """What each weight is used as, looking through the ``Unsqueeze`` of scale-shift pairs."""
    roles: dict[str, str] = {}
    summed = {name for node in graph.node if node.op_type == "Sum" for name in node.input}
    source = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Unsqueeze"}
    for node in graph.node:
        names = list(node.input)
        while any(name in source for name in names):
            names = [source.get(name, name) for name in names]
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            roles[names[1]] = "weight"
        elif node.op_type == "BatchNormalization":
            scale = "branch scale" if node.output[0] in summed else "scale"
            roles.update(zip(names[1:5], (scale, "bias", "bias", "variance"), strict=True))
        elif node.op_type == "Mul":
            roles[names[1]] = "scale"
    return roles


def _random(generator: np.random.Generator, role: str, shape: tuple[int, ...]) -> Array:
    noise: Array = generator.standard_normal(shape, dtype=np.float32)
    if role == "weight":
        noise *= np.float32(np.sqrt(2.0 / np.prod(shape[1:])))
    elif role == "scale":
        noise = np.float32(0.8) + np.float32(0.1) * noise
    elif role == "branch scale":  # small, or sums grow from block to block (arXiv:1706.02677)
        noise = np.float32(0.2) + np.float32(0.02) * noise
    elif role == "variance":
        noise = np.float32(1.0) + np.abs(np.float32(0.2) * noise)
    else:
        noise *= np.float32(0.05)
    return noise


def _set_batch(model: onnx.ModelProto, batch: int) -> None:
    graph = model.graph
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    constants = {tensor.name for tensor in graph.initializer}
    reshapes = {
        node.input[1]
        for node in graph.node
        if node.op_type == "Reshape" and node.input[0] not in constants
    }
    for tensor in graph.initializer:
        if tensor.name in reshapes:
            target = numpy_helper.to_array(tensor).copy()
            target[0] = 0  # ONNX: copy this dimension from the input
            tensor.CopyFrom(numpy_helper.from_array(target, tensor.name))
    del graph.value_info[:]
