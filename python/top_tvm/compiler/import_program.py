"""torch.export in, Relax out: PyTorch translates the program to ONNX, which the frontend imports.

Of two ways this is the correct one: ``docs/architecture.md`` says why.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import onnx

from top_tvm.compiler.frontend import Imported, import_onnx
from top_tvm.errors import DependencyError, ModelError

if TYPE_CHECKING:
    from torch import fx
    from torch.export import ExportedProgram

# What PyTorch's translations are written in; any other version is converted from it.
_OPSET = 18
_NOISY_LOGGERS = ("torch.export", "torch.onnx", "onnxscript", "onnx_ir")
# Below, a bound says only that torch.export assumes that no size is 0 or 1.
_SMALLEST_BOUND = 2


@dataclass(frozen=True)
class TranslatedProgram:
    """An exported program as ONNX, and the smallest and largest batch size that it allows."""

    model: onnx.ModelProto
    name: str
    batches: tuple[int, float]


def is_exported_program(source: object) -> TypeGuard[ExportedProgram]:
    """Whether this is a ``torch.export.ExportedProgram``, without importing torch."""
    module = sys.modules.get("torch.export")
    return module is not None and isinstance(source, module.ExportedProgram)


def load_program(path: Path) -> ExportedProgram:
    """Read a file that ``torch.export.save`` wrote.

    PyTorch may execute code that it finds in such a file.

    Raises
    ------
    ModelError
        If it is no such file.
    DependencyError
        If torch is not installed.
    """
    if not path.is_file():
        raise ModelError(f"no such model file: {path}")
    _require("torch")
    import torch

    try:
        with _quiet():
            return torch.export.load(path)
    except Exception as error:  # of many kinds: the archive, the schema, pickle
        raise ModelError(
            f"{path}: cannot be read as a file of torch.export.save: {_last_line(error)}"
        ) from error


def translate_program(
    program: ExportedProgram, name: str = "exported program"
) -> TranslatedProgram:
    """Translate to ONNX.

    Parameters
    ----------
    program : torch.export.ExportedProgram
        Is not changed.
    name : str
        For messages.

    Raises
    ------
    ModelError
        If the program has state that it changes, random numbers, arguments that are not tensors or
        fixed, or operators without a translation: all of those are named, with their lines in the
        source.
    DependencyError
        If the packages that translate are not installed.
    """
    _require("torch", "onnxscript")
    import torch

    inputs, batches = _inputs(program, name)
    outputs = _outputs(program, inputs, name)
    try:
        with _quiet():
            translated = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=_OPSET,
                verbose=False,
                input_names=inputs,
                output_names=outputs,
            )
            assert translated is not None  # as it is without dynamo
            model = translated.model_proto
    except Exception as error:  # of many kinds, from the converters
        missing = _untranslatable(program)
        if missing:
            raise ModelError(f"{name}: unsupported operators: {'; '.join(missing)}") from error
        raise ModelError(
            f"{name}: PyTorch cannot translate it to ONNX: {_last_line(error)}"
        ) from error
    _check_pure(translated.exported_program, name)
    model.graph.name = name
    return TranslatedProgram(model, name, batches)


def import_program(
    program: TranslatedProgram,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
) -> Imported:
    """Import a translated program with static shapes; as :func:`~.frontend.import_onnx`."""
    try:
        imported = import_onnx(program.model, shapes, batch)
    except ModelError as error:
        raise ModelError(_with_places(str(error), program.model)) from error
    low, high = program.batches
    if not low <= imported.batch <= high:
        raise ModelError(
            f"{program.name}: was exported for batch sizes {low} to {high}, not {imported.batch}"
        )
    return imported


def _require(*packages: str) -> None:
    for package in packages:
        try:
            __import__(package)
        except ModuleNotFoundError as error:
            raise DependencyError(
                f"building an exported program needs the package {error.name!r}: "
                "pip install 'top_tvm[compile]'"
            ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without advice to those who work on the exporter."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _inputs(program: ExportedProgram, name: str) -> tuple[list[str], tuple[int, float]]:
    """Names of the tensors that a user passes, and the batch sizes that all of them allow."""
    from torch.export.graph_signature import ConstantArgument, InputKind, TensorArgument

    nodes = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    names: list[str] = []
    low, high = 1, float("inf")
    for spec in program.graph_signature.input_specs:
        if spec.kind != InputKind.USER_INPUT or isinstance(spec.arg, ConstantArgument):
            continue  # what is no tensor was fixed by torch.export
        if not isinstance(spec.arg, TensorArgument):
            raise ModelError(
                f"{name}: input {spec.arg.name!r} is a number that may change; export it as a "
                "constant or as a tensor"
            )
        names.append(spec.arg.name)
        shape = nodes[spec.arg.name].meta["val"].shape
        if not shape or isinstance(shape[0], int):
            continue
        size = shape[0].node.expr
        if not size.is_symbol:
            raise ModelError(
                f"{name}: the leading dimension of input {spec.arg.name!r} is computed ({size}); "
                "only a plain batch size may be left open there"
            )
        bounds = program.range_constraints.get(size)
        if bounds is not None:
            low = max(low, int(bounds.lower)) if bounds.lower > _SMALLEST_BOUND else low
            high = min(high, float(bounds.upper))
    return names, (low, high if high == float("inf") else int(high))


def _outputs(program: ExportedProgram, inputs: Sequence[str], name: str) -> list[str]:
    """Names of the results: ``output``, ``output_0``..., or the keys of dictionaries.

    A result under the name of an input gets a prefix: an executable has different names for all.
    """
    from torch.export.graph_signature import ConstantArgument, OutputKind, TensorArgument

    kinds = (OutputKind.USER_OUTPUT, OutputKind.LOSS_OUTPUT)
    specs = [s for s in program.graph_signature.output_specs if s.kind in kinds]
    names = []
    for path, spec in zip(_output_paths(program, len(specs)), specs, strict=True):
        if isinstance(spec.arg, ConstantArgument) and spec.arg.value is None:
            continue
        if not isinstance(spec.arg, TensorArgument):
            raise ModelError(f"{name}: result {path!r} is a number; return tensors only")
        names.append(f"output_{path}" if path in inputs else path)
    if len(set(names)) < len(names):
        raise ModelError(f"{name}: results share a name: {', '.join(names)}; rename some keys")
    return names


def _output_paths(program: ExportedProgram, count: int) -> list[str]:
    from torch.utils import _pytree as pytree

    try:
        tree = pytree.tree_unflatten(range(count), program.call_spec.out_spec)
        paths = [path for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    except (ValueError, TypeError):  # a class of the user that does not tell its keys
        return [f"output_{index}" for index in range(count)]

    def name(path: tuple[Any, ...]) -> str:
        keys = [
            str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path
        ]
        in_dictionary = bool(path) and not isinstance(path[0], pytree.SequenceKey)
        return "_".join(keys if in_dictionary else ["output", *keys])

    return [name(path) for path in paths]


def _check_pure(program: ExportedProgram | None, name: str) -> None:
    """Refuse state, random numbers and what the exporter drops; only decomposition shows them."""
    assert program is not None
    signature = program.graph_signature
    changed = [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]
    if changed:
        raise ModelError(
            f"{name}: changes its state or inputs ({', '.join(changed)}), which is not supported; "
            "call eval() before torch.export.export, and return new values instead"
        )
    divided = [node for node in program.graph.nodes if _arguments(node).get("divisor_override")]
    if divided:
        raise ModelError(
            f"{name}: divisor_override is not supported, as ONNX has none: "
            f"{'; '.join(_grouped(divided))}; multiply the result of the pool instead"
        )
    averaged = [
        node
        for node in program.graph.nodes
        if "scatter_reduce" in str(node.target) and _arguments(node).get("reduce") == "mean"
    ]
    if averaged:
        raise ModelError(
            f"{name}: scattering means is not supported, as ONNX has none: "
            f"{'; '.join(_grouped(averaged))}; divide scattered sums by scattered counts instead"
        )
    random = [node for node in program.graph.nodes if _is_random(node)]
    if random:
        raise ModelError(
            f"{name}: random numbers are not supported: {'; '.join(_grouped(random))}; call eval() "
            "before torch.export.export"
        )


def _is_random(node: fx.Node) -> bool:
    """Whether it draws random numbers; those with dropout inside do so only if they are told to."""
    import torch

    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    given = _arguments(node)
    return given.get("train") is not False and given.get("dropout_p") != 0


def _arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments of an operator by their names, with their defaults."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {}
    given = {parameter.name: parameter.default_value for parameter in schema.arguments}
    given |= zip((parameter.name for parameter in schema.arguments), node.args, strict=False)
    return given | node.kwargs


def _untranslatable(program: ExportedProgram) -> list[str]:
    """All operators that PyTorch's exporter has no translation for.

    The exporter itself names the first one only. What tells all of them is not public and may move:
    without it, that first one is what the message names.
    """
    try:
        from torch.onnx._internal.exporter import _core, _dispatching, _registration

        with _quiet():
            registry = _registration.ONNXRegistry.from_torchlib()
            decomposed = _core._prepare_exported_program_for_export(program, registry=registry)
            return _grouped(
                node
                for node in decomposed.graph.nodes
                if node.op == "call_function" and not _dispatching.dispatch(node, registry)[0]
            )
    except Exception:  # it would hide the error that is being reported
        return []


def _grouped(nodes: Iterator[fx.Node] | Sequence[fx.Node]) -> list[str]:
    """One text per operator: how many nodes, and the first of them with its line of source."""
    groups: dict[str, list[fx.Node]] = {}
    for node in nodes:
        groups.setdefault(str(node.target), []).append(node)
    return [
        f"{target} ({len(group)} node{'s' if len(group) > 1 else ''}: {group[0].name}"
        f"{_place(group[0].meta.get('stack_trace'))}{', ...' if len(group) > 1 else ''})"
        for target, group in sorted(groups.items())
    ]


def _place(stack_trace: str | None) -> str:
    """The innermost line of a stack trace in a file, as `` at model.py:7: y = f(x)``."""
    lines = (stack_trace or "").strip().splitlines()
    frames = [index for index, line in enumerate(lines) if re.match(r'\s*File "[^<]', line)]
    match = re.match(r'\s*File "(.*)", line (\d+)', lines[frames[-1]]) if frames else None
    if match is None:
        return ""
    code = "".join(f": {line.strip()}" for line in lines[frames[-1] + 1 : frames[-1] + 2])
    return f" at {Path(match[1]).name}:{match[2]}{code}"


def _with_places(message: str, model: onnx.ModelProto) -> str:
    """The message, with the lines of source behind the names of nodes that it mentions."""
    places = {}
    for node in model.graph.node:
        properties = {item.key: item.value for item in node.metadata_props}
        place = _place(properties.get("pkg.torch.onnx.stack_trace"))
        if node.name and place:
            places[node.name] = place.removeprefix(" at ")
    words = dict.fromkeys(re.findall(r"[\w./]+", message))
    known = [f"{word} is {places[word]}" for word in words if word in places]
    return f"{message} ({'; '.join(known)})" if known else message


def _last_line(error: BaseException) -> str:
    """The last thing that the innermost cause says."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
