"""Damage to ``.top`` files: of bytes and of the archive, and of parts with all checksums mended.

A checksum tells damage by accident. Whoever mends the checksums can change what a file computes as
well, so then right numbers are not asked for; but neither is a crash allowed, short of other native
code in ``kernels.so``, which is executed as it is.
"""

from __future__ import annotations

import copy
import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import top_tvm
from top_tvm.container import Writer

BATCHES = (1, 3)
_PLAN = re.compile(r"(.*/)?(plans|variants)/\d+\.json")
_EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1)

Random = np.random.Generator
Parts = dict[str, bytes]


def prepare(folder: Path) -> None:
    """Build two artifacts and keep what the first computes."""
    from small_model import small_model

    for index, (size, partitioner) in enumerate(((16, "greedy"), (12, "sequential"))):
        executable = top_tvm.build(
            small_model(batch="n", size=size, seed=index),
            partitioner=partitioner,
            streams=2,
            batch_sizes=BATCHES,
        )
        executable.save(folder / f"{index}.top")
    executable = top_tvm.load(folder / "0.top")
    for batch in BATCHES:
        data = np.random.default_rng(batch).standard_normal((batch, 3, 16, 16), np.float32)
        outputs = executable.run({"data": data})
        np.savez(folder / f"{batch}.npz", data=data, **outputs)


def open_trial(folder: Path) -> Callable[[int, Path, Callable[..., None]], str]:
    """The function that tries one seed and says what came of it."""
    original, other = ((folder / f"{index}.top").read_bytes() for index in (0, 1))
    expected = [dict(np.load(folder / f"{batch}.npz")) for batch in BATCHES]

    def trial(seed: int, place: Path, tell: Callable[..., None]) -> str:
        random = np.random.default_rng(seed)
        how, damaged, mended = corrupt(original, other, random)
        tell("run", how=how)
        path = place / f"{seed}.top"
        path.write_bytes(damaged)
        executable = top_tvm.load(path)
        repr(executable.plan(batch=executable.batch_sizes[0]))
        for arrays in expected:
            outputs = executable.run({"data": arrays["data"]})
            if not mended:
                np.testing.assert_array_equal(outputs["scores"], arrays["scores"], strict=True)
        return "ran" if mended else "identical"

    executable = top_tvm.load(folder / "0.top")
    for arrays in expected:
        outputs = executable.run({"data": arrays["data"]})
        np.testing.assert_array_equal(outputs["scores"], arrays["scores"], strict=True)
    return trial


def corrupt(original: bytes, other: bytes, random: Random) -> tuple[str, bytes, bool]:
    """A damaged file: how, its bytes, and whether its checksums were mended."""
    if random.random() < 0.4:
        damage = choose(random, [_flip, _truncate, _overwrite, _cut, _join, _structure, _bomb])
        return f"bytes: {damage.__name__[1:]}", damage(original, random), False
    parts = parts_of(original)
    damages = (
        [_plan_value] * 8
        + [_plan_arguments] * 3
        + [_plan_schedule] * 2
        + [_kernel] * 4
        + [_any_json] * 4
    )
    damages += [_swap, _exchange, _drop, _add, _header, _header, _weights, _library, _format, _many]
    damage = choose(random, damages)
    damage(parts, parts_of(other), random)
    return f"mended: {damage.__name__[1:]}", sealed(parts), True


# --- Bytes ---


def _flip(data: bytes, random: Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(random.integers(1, 9)):
        damaged[random.integers(len(damaged))] ^= 1 << random.integers(8)
    return bytes(damaged)


def _truncate(data: bytes, random: Random) -> bytes:
    return data[: random.integers(len(data))]


def _overwrite(data: bytes, random: Random) -> bytes:
    begin, size = random.integers(len(data)), int(2 ** random.integers(0, 14))
    junk = choose(random, [bytes(size), b"\xff" * size, random.bytes(size), data[:size]])
    return data[:begin] + junk + data[begin + size :]


def _cut(data: bytes, random: Random) -> bytes:
    begin, end = sorted(int(i) for i in random.integers(len(data), size=2))
    piece = data[begin:end]
    return data[:begin] + (piece * int(random.integers(3))) + data[end:]


def _join(data: bytes, random: Random) -> bytes:
    junk = choose(random, [bytes(100), b"PK\x05\x06" + bytes(18), random.bytes(500), data])
    return choose(random, [junk + data, data + junk])


def _structure(data: bytes, random: Random) -> bytes:
    """A number of the directory, of a local header or of the end record."""
    damaged = bytearray(data)
    signature = choose(random, [b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"])
    places = [i for i in range(len(data)) if data.startswith(signature, i)]
    place = choose(random, places) + 4 + 2 * int(random.integers(20))
    form = choose(random, ["<H", "<I"])
    value = choose(random, list(_EXTREMES)) & (2 ** (8 * struct.calcsize(form)) - 1)
    struct.pack_into(form, damaged, min(place, len(data) - 4), value)
    return bytes(damaged)


def _bomb(data: bytes, random: Random) -> bytes:
    """Compressed parts: much less in the file than it says, or than comes of it."""
    parts = parts_of(data)
    parts[choose(random, sorted(parts))] = bytes(2 ** int(random.integers(10, 25)))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
        archive.comment = b"top_tvm seal " + b"0" * 64
    return file.getvalue()


# --- Parts, with the checksums of the result ---


def parts_of(data: bytes) -> Parts:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sealed(parts: Parts) -> bytes:
    """An archive of these parts whose checksums are right."""
    file = io.BytesIO()
    writer = Writer(file)
    for name, content in parts.items():
        if name != "metadata.json":
            writer.add(name, len(content), lambda _, content=content: (content,))
    try:
        document = json.loads(parts.get("metadata.json", b""))
        document["parts"] = {
            name: {"nbytes": part.nbytes, "sha256": part.sha256}
            for name, part in writer.parts.items()
        }
        content = json.dumps(document).encode()
    except (ValueError, TypeError, RecursionError):
        content = parts.get("metadata.json", b"")
    if "metadata.json" in parts:
        writer.add("metadata.json", len(content), lambda _: (content,))
    writer.close()
    return file.getvalue()


def _plan_name(parts: Parts, random: Random) -> str:
    """A plan of a model or of a variant."""
    return choose(random, sorted(name for name in parts if _PLAN.fullmatch(name)))


def _plan_value(parts: Parts, other: Parts, random: Random) -> None:
    """Some value of a plan."""
    name = _plan_name(parts, random)
    plan = json.loads(parts[name])
    damage_value(plan, random)
    parts[name] = _dump(plan, random)


def _any_json(parts: Parts, other: Parts, random: Random) -> None:
    """Some value of any JSON part."""
    name = choose(random, sorted(name for name in parts if name.endswith(".json")))
    document = json.loads(parts[name])
    for _ in range(random.integers(1, 4)):
        damage_value(document, random)
    parts[name] = _dump(document, random)


def _plan_arguments(parts: Parts, other: Parts, random: Random) -> None:
    """What a call takes."""
    name = _plan_name(parts, random)
    plan = json.loads(parts[name])
    tensors = plan["tensors"]
    call = choose(random, plan["calls"])
    args, at = call["args"], int(random.integers(len(call["args"])))
    match int(random.integers(7)):
        case 0:
            args[at] = int(random.integers(len(tensors)))
        case 1:
            del args[at]
        case 2:
            args.insert(at, int(random.integers(len(tensors))))
        case 3:
            random.shuffle(args)
        case 4:
            call["num_outputs"] = int(random.integers(4))
        case 5:
            call["kernel"] = int(random.integers(len(plan["kernels"])))
        case _:
            plan["outputs"] = [int(random.integers(len(tensors)))]
            tensor = tensors[plan["outputs"][0]]
            tensor["name"] = tensor["name"] if random.random() < 0.5 else "scores"
    parts[name] = _dump(plan, random)


def _plan_schedule(parts: Parts, other: Parts, random: Random) -> None:
    """When a call runs, and where."""
    name = _plan_name(parts, random)
    plan = json.loads(parts[name])
    calls = plan["calls"]
    call = choose(random, calls)
    match int(random.integers(5)):
        case 0:
            call["waits"] = [int(random.integers(len(calls)))]
        case 1:
            calls.remove(call)
        case 2:
            random.shuffle(calls)
        case 3:
            call["stream"], call["threads"] = (int(i) for i in random.integers(3, size=2))
        case _:
            call["waits"] = []
    parts[name] = _dump(plan, random)


def _kernel(parts: Parts, other: Parts, random: Random) -> None:
    """Attributes of a library kernel, or what it is; or the tensors that it gets."""
    name = _plan_name(parts, random)
    plan = json.loads(parts[name])
    kernel = choose(random, plan["kernels"])
    attributes = kernel["attributes"]
    match int(random.integers(6)):
        case 0:
            symbols = [k["symbol"] for k in plan["kernels"]]
            names = ["conv2d", "deconv2d", "matmul", "softmax", "layer_norm", "lrn", "max_pool2d"]
            names += ["_library_ctx", "main", "", "x" * 5000, "\x00"]
            kernel["symbol"] = choose(random, symbols + names)
        case 1:
            kernel["library"] = choose(random, ["tvm", "onednn", "cuda"])
        case 2 | 3 if attributes:
            values = attributes[choose(random, sorted(attributes))]
            if values:
                values[int(random.integers(len(values)))] = _number(random)
            else:
                values.append(_number(random))
        case 4:
            key = choose(random, ["post0.relu", "post9.tanh", "bias", "groups", "padding", "x"])
            attributes[key] = [_number(random) for _ in range(random.integers(5))]
        case _:
            tensor = choose(random, plan["tensors"])
            _damage_tensor(tensor, random)
    parts[name] = _dump(plan, random)


def _damage_tensor(tensor: dict[str, Any], random: Random) -> None:
    shape = tensor["shape"]
    match int(random.integers(6)):
        case 0 if shape:
            shape[int(random.integers(len(shape)))] = _number(random)
        case 1:
            random.shuffle(shape)
        case 2:
            tensor["shape"] = [int(np.prod(shape))]
        case 3:
            tensor["dtype"] = choose(random, ["int8", "float64", "bool", "bfloat16", "int32"])
        case 4:
            tensor["offset"] = 64 * int(random.integers(1, 100))
        case _:
            tensor["strides"] = [int(i) for i in random.integers(1, 64, size=len(shape))]


def _swap(parts: Parts, other: Parts, random: Random) -> None:
    """Two parts of one file."""
    first, second = (str(name) for name in random.choice(sorted(parts), 2, replace=False))
    parts[first], parts[second] = parts[second], parts[first]


def _exchange(parts: Parts, other: Parts, random: Random) -> None:
    """Parts of another model."""
    for name in sorted(parts):
        if random.random() < 0.4 and name in other:
            parts[name] = other[name]


def _drop(parts: Parts, other: Parts, random: Random) -> None:
    del parts[choose(random, sorted(parts))]


def _add(parts: Parts, other: Parts, random: Random) -> None:
    """Names that would escape a folder, or stand for a plan."""
    names = ["../../etc/passwd", "/etc/passwd", "plans/2.json", "plans/01.json", "a" * 60_000, "x/"]
    parts[choose(random, [*names, "plans/../plans/1.json", "plans/-1.json"])] = parts[
        _plan_name(parts, random)
    ]


def _header(parts: Parts, other: Parts, random: Random) -> None:
    """The header of the weights."""
    data = parts["weights.safetensors"]
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if random.random() < 0.2:
        wrong = choose(random, [0, 1, size - 1, size + 1, len(data), 2**31, 2**40, 2**64 - 1])
        parts["weights.safetensors"] = wrong.to_bytes(8, "little") + data[8:]
        return
    entry = header[choose(random, sorted(header))]
    match int(random.integers(5)):
        case 0:
            entry["shape"] = [_number(random) for _ in range(random.integers(6))]
        case 1:
            entry["data_offsets"] = [_number(random), _number(random)]
        case 2:
            entry["dtype"] = choose(random, ["F64", "U8", "F32", "I64", "C64"])
        case 3:
            entry["shape"] = [1] * 10_000
        case _:
            damage_value(header, random)
    text = _dump(header, random)
    text += b" " * (-(size - len(text)) % 64 if len(text) > size else size - len(text))
    parts["weights.safetensors"] = len(text).to_bytes(8, "little") + text + data[8 + size :]


def _weights(parts: Parts, other: Parts, random: Random) -> None:
    """The numbers themselves."""
    data = bytearray(parts["weights.safetensors"])
    size = int.from_bytes(data[:8], "little")
    for _ in range(random.integers(1, 100)):
        data[random.integers(8 + size, len(data))] = random.integers(256)
    parts["weights.safetensors"] = bytes(data)


def _library(parts: Parts, other: Parts, random: Random) -> None:
    """Kernels that are no library, or less than one."""
    data = parts["kernels.so"]
    cut = data[: random.integers(len(data))]
    parts["kernels.so"] = choose(
        random, [b"", cut, data[:64], random.bytes(1000), b"\x7fELF" + bytes(5000), cut + bytes(64)]
    )


def _format(parts: Parts, other: Parts, random: Random) -> None:
    name = choose(random, ["metadata.json", _plan_name(parts, random)])
    document = json.loads(parts[name])
    if name == "metadata.json":
        place = document["metadata" if "metadata" in document else "mix"]
    else:
        place = document
    place["format"] = choose(random, [0, 1, 3, 99, -1, 2**40, "2", None, 2.0, True])
    place["novelty"] = 1
    parts[name] = json.dumps(document).encode()


def _many(parts: Parts, other: Parts, random: Random) -> None:
    """More parts than any file has, in a long directory."""
    for index in range(int(random.integers(1_000, 12_000))):
        parts[f"plans/{index + 10}.json"] = b""


# --- Values ---


def damage_value(document: Any, random: Random) -> None:
    """Change, remove, repeat or exchange something somewhere in a document."""
    holder, key = _place(document, random)
    if holder is None:
        return
    match int(random.integers(8)):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.insert(key, holder[key])
        case 2 if isinstance(holder, list):
            random.shuffle(holder)
        case 3:
            elsewhere, there = _place(document, random)
            if elsewhere is not None:
                holder[key] = copy.deepcopy(elsewhere[there])  # it may hold this place
        case _:
            holder[key] = _value(random)


def _place(document: Any, random: Random) -> tuple[Any, Any]:
    holder, key = None, None
    while isinstance(document, (dict, list)) and document:
        if holder is not None and random.random() < 0.05:
            break
        holder = document
        keys = sorted(document) if isinstance(document, dict) else range(len(document))
        key = choose(random, list(keys))
        document = document[key]
    return holder, key


def _number(random: Random) -> int | float:
    exact = [*_EXTREMES, -1, 2**53, 2**62, 2**63 - 1, -(2**63), 10**30, 3, 5, 8, 16, 40, 64, 640]
    return choose(random, [*exact, 0.5, 1e30, -1e300, 1e-320])


def _value(random: Random) -> Any:
    others = [None, True, "", "x", "é" * 100, "\ud800", "a\x00b", [], {}, [[]], "x" * 100_000]
    if random.random() < 0.6:
        return _number(random)
    return choose(random, others)


def _dump(document: Any, random: Random) -> bytes:
    """JSON, at times of a kind that is hard to read."""
    text = json.dumps(document)
    match int(random.integers(40)):
        case 0:
            text = text[: random.integers(len(text))]
        case 1:
            text = "[" * 200_000 + text
        case 2:
            text = text.replace("1", "9" * int(random.choice([25, 5_000, 100_000])), 1)
        case 3:
            text = "{" + ", ".join(f'"k{i % 50_000}": {i}' for i in range(60_000)) + "}"
        case 4:
            text = text.replace("1", choose(random, ["NaN", "1e999", "-Infinity", "01"]), 1)
        case 5:
            text = '{"x": ' * 50_000 + text
    return text.encode("utf-8", "surrogatepass")


def choose(random: Random, choices: list[Any]) -> Any:
    return choices[int(random.integers(len(choices)))]
