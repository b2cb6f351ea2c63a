"""Damage to ``.top`` files of mixes, as in ``corrupt_top.py``, and to how variants use plans."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

import top_tvm
from chains import run_chain
from corrupt_top import Parts, Random, choose, corrupt, damage_value, parts_of, sealed
from top_tvm.compiler.session import Session
from top_tvm.errors import DeviceError, InputError
from top_tvm.mix import Mix
from top_tvm.weights import aligned

BATCHES = (1, 3)
SIZES = {"a": 16, "b": 12}
Results = dict[tuple[str, int], np.ndarray]


def prepare(folder: Path) -> None:
    """Build two mixes and keep what the first computes."""
    from small_model import small_model

    for index, partitioner in enumerate(("list", "sequential")):
        mix = top_tvm.build(
            {
                name: small_model(batch="n", size=size, seed=seed + index)
                for seed, (name, size) in enumerate(SIZES.items())
            },
            partitioner=partitioner,
            batch_sizes=BATCHES,
            segments=(1, 2),
        )
        mix.save(folder / f"{index}.top")
    loaded = top_tvm.load(folder / "0.top").mix
    for number, ((name, batch), scores) in enumerate(_run(loaded).items()):
        np.savez(folder / f"{number}.npz", name=name, batch=batch, scores=scores)


def open_trial(folder: Path) -> Callable[[int, Path, Callable[..., None]], str]:
    """The function that tries one seed and says what came of it."""
    original, other = ((folder / f"{index}.top").read_bytes() for index in (0, 1))
    files = [dict(np.load(path)) for path in sorted(folder.glob("*.npz"))]
    expected = {(str(file["name"]), int(file["batch"])): file["scores"] for file in files}

    def trial(seed: int, place: Path, tell: Callable[..., None]) -> str:
        random = np.random.default_rng(seed)
        if random.random() < 0.3:
            parts = parts_of(original)
            _variants(parts, random)
            how, damaged, mended = "mended: variants", sealed(parts), True
        else:
            how, damaged, mended = corrupt(original, other, random)
        tell("run", how=how)
        path = place / f"{seed}.top"
        path.write_bytes(damaged)
        loaded = top_tvm.load(path)
        if not isinstance(loaded, top_tvm.MixExecutable):
            raise InputError("no mix any more")
        results = _run(loaded.mix)
        if not mended:
            for key, scores in expected.items():
                np.testing.assert_array_equal(results[key], scores, strict=True)
        return "ran" if mended else "identical"

    results = _run(top_tvm.load(folder / "0.top").mix)
    for key, scores in expected.items():
        np.testing.assert_array_equal(results[key], scores, strict=True)
    return trial


def _run(mix: Mix) -> Results:
    """Outputs of every model and batch size; chains of all variants run, too."""
    results: Results = {}
    try:
        first = next(iter(mix.models.values()))
        session = Session.open(first.kernels, first.constants)
        for name, artifact in mix.models.items():
            for batch, whole in artifact.plans.items():
                data = np.random.default_rng(batch).standard_normal(
                    (batch, 3, SIZES.get(name, 16), SIZES.get(name, 16)), np.float32
                )
                inputs = {"data": aligned(data)}
                tensors = [whole.tensors[index] for index in whole.inputs]
                if [(t.name, t.dtype, t.shape) for t in tensors] != [
                    ("data", "float32", data.shape)
                ]:
                    raise InputError("another input")
                chains = {
                    tuple(map(id, plans)): plans
                    for variant in mix.variants
                    for lane in variant.models[name].lanes
                    for size, plans in lane.plans.items()
                    if size == batch
                }
                for plans in chains.values():
                    run_chain(plans, session.executor, inputs)
                values = run_chain([whole], session.executor, inputs)
                results[name, batch] = values["scores"]
    except (ValueError, RuntimeError) as error:  # as an executable tells what native code says
        raise DeviceError(str(error)) from error
    except KeyError as error:
        raise InputError(f"another output: {error}") from error
    return results


def _variants(parts: Parts, random: Random) -> None:
    """How variants use plans."""
    document = json.loads(parts["metadata.json"])
    variant = choose(random, document["mix"]["variants"])
    model = choose(random, variant["models"])
    lane = choose(random, model["lanes"])
    key = choose(random, sorted(lane["plans"]))
    plans = sorted(name for name in parts if name != "metadata.json" and "profiles" not in name)
    match int(random.integers(8)):
        case 0:
            lane["plans"][key] = [choose(random, plans) for _ in lane["plans"][key]]
        case 1:
            lane["plans"][key] = lane["plans"][key] * int(random.integers(4))
            model["segments"] = len(lane["plans"][key])
        case 2:
            model["lanes"] = model["lanes"] * int(random.integers(2000))
        case 3:
            lane["first_stream"] = int(random.integers(-1, 3))
        case 4:
            random.shuffle(variant["models"])
        case 5:
            variant["streams"] = choose(random, [0, 1, 3, 2000, 2**40])
        case 6:
            document["mix"]["variants"] *= int(random.integers(300))
        case _:
            damage_value(document["mix"], random)
    parts["metadata.json"] = json.dumps(document).encode("utf-8", "surrogatepass")
