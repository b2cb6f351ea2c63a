import json
import os
import resource
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corrupt_top import sealed
from top_tvm.artifact import Artifact, Metadata, OpProfile, TensorSpec, load, save
from top_tvm.bfloat16 import BFLOAT16, dtype_name
from top_tvm.container import Writer
from top_tvm.cost import DeviceModel, OpCost
from top_tvm.device import host_features
from top_tvm.errors import ArtifactError
from top_tvm.plan import DTYPE_BYTES, Call, Kernel, Plan, Tensor
from top_tvm.roofline import Roofline


def make_plan(batch: int) -> Plan:
    return Plan(
        batch=batch,
        streams=2,
        partitioner="list",
        tensors=(
            Tensor("x", "float32", (batch, 5), "input", "x"),
            Tensor("w", "float32", (3, 5), "constant", "w.float32"),
            Tensor("y", "float32", (batch, 3), "output", "y"),
        ),
        kernels=(Kernel("tvm", "f", moldable=True),),
        calls=(Call("f", 0, (0, 1, 2), 1, 0, 0, 0, 2),),
        inputs=(0,),
        outputs=(2,),
        arena_bytes=0,
        predicted_us=4.5,
    )


def make_artifact(seed: int = 0) -> Artifact:
    rng = np.random.default_rng(seed)
    constants = {
        f"w.{dtype}": rng.integers(0, 2, (3, 5)).astype(dtype)
        for dtype in DTYPE_BYTES
        if dtype != "bfloat16"  # which NumPy has not: "brain"
    } | {
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 3), np.float32),
        "special": np.array([np.nan, -np.nan, -0.0, np.inf, 5e-324]),
        "transposed": rng.random((7, 3)).T,
        "brain": rng.integers(0, 2**16, 7, "u2").view(BFLOAT16),
        "big_endian": np.arange(5, dtype=">i4"),
        'né"me': np.arange(3),
    }
    spec_x, spec_y = TensorSpec("x", "float32", (1, 5)), TensorSpec("y", "float32", (1, 3))
    return Artifact(
        metadata=Metadata(
            name="model",
            target="cpu",
            cpu_features=tuple(sorted(host_features()))[:3],
            libraries={"onednn": "3.2.0"},
            creator="top_tvm 0.1.0",
            inputs=(spec_x,),
            outputs=(spec_y,),
            device=DeviceModel(2, 0.25, 0.5, 1.0, 4.0),
        ),
        kernels=b"\x7fELF" + rng.bytes(999),
        constants=constants,
        plans={4: make_plan(4), 1: make_plan(1)},
        profiles={
            1: (
                OpProfile("f", 30, 96, 1.5, 0.75, "MatMul_0", 0.5, 2.25, 0.5, 1.0, 0.5, 0.0),
                OpProfile("g", 0, 0, 0.25, float("inf"), ""),
            )
        },
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.top"
    save(make_artifact(), path)
    return path


def assert_same(first: Artifact, second: Artifact) -> None:
    assert first.metadata == second.metadata
    assert first.kernels == second.kernels
    assert first.plans == second.plans
    assert first.profiles == second.profiles
    assert list(first.constants) == list(second.constants)
    for name, array in first.constants.items():
        other = second.constants[name]
        assert dtype_name(array.dtype) == dtype_name(other.dtype)
        assert array.shape == other.shape
        native, other_native = (a.astype(a.dtype.newbyteorder("=")) for a in (array, other))
        assert native.tobytes() == other_native.tobytes()


def test_round_trip_is_bit_exact(path: Path) -> None:
    assert_same(make_artifact(), load(path))
    assert_same(load(path), load(str(path)))


def test_profiles_hold_what_the_simulator_needs(path: Path) -> None:
    loaded = load(path)
    assert loaded.profiles[1][0].cost == OpCost(1.5, 0.75, 0.5, 1.0, 0.5, 0.0)
    assert loaded.metadata.device == DeviceModel(2, 0.25, 0.5, 1.0, 4.0)


def test_constants_are_mapped_aligned_and_read_only(path: Path) -> None:
    for array in load(path).constants.values():
        assert array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous
        assert array.dtype.isnative
        if array.size:
            # A mapped array owns nothing: a copy to aligned memory would be writable.
            assert not array.flags.writeable


def test_a_loaded_artifact_can_be_saved(path: Path, tmp_path: Path) -> None:
    save(load(path), tmp_path / "again.top")
    assert (tmp_path / "again.top").read_bytes() == path.read_bytes()
    loaded = load(path)
    save(loaded, path)  # over the file that its constants are mapped from
    assert_same(loaded, load(path))


def test_the_same_artifact_gives_the_same_file(path: Path, tmp_path: Path) -> None:
    save(make_artifact(), tmp_path / "again.top")
    assert (tmp_path / "again.top").read_bytes() == path.read_bytes()


def test_it_is_a_plain_zip_of_plain_files(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            "weights.safetensors",
            "kernels.so",
            "plans/1.json",
            "plans/4.json",
            "profiles/1.json",
            "metadata.json",
        ]
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert json.loads(archive.read("plans/4.json"))["batch"] == 4
        assert archive.read("kernels.so") == make_artifact().kernels


def test_the_file_has_ordinary_permissions(path: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def part_ranges(path: Path) -> dict[str, tuple[int, int]]:
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    return {name: (data.index(c), data.index(c) + len(c)) for name, c in contents.items()}


@pytest.mark.parametrize(
    "name",
    [
        *("weights.safetensors", "kernels.so", "plans/1.json", "plans/4.json"),
        *("profiles/1.json", "metadata.json"),
    ],
)
def test_a_change_in_any_part_is_found(path: Path, name: str) -> None:
    begin, end = part_ranges(path)[name]
    original = path.read_bytes()
    for position in (begin, (begin + end) // 2, end - 1):
        data = bytearray(original)
        data[position] ^= 1
        path.write_bytes(data)
        expected = "its structure or metadata" if name == "metadata.json" else name
        with pytest.raises(ArtifactError, match=f"damaged: the checksum of {expected}"):
            load(path)


@settings(max_examples=400, deadline=None)
@given(position=st.integers(0, 2**20), flip=st.integers(1, 255))
def test_any_flipped_byte_is_found(
    tmp_path_factory: pytest.TempPathFactory, position: int, flip: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.top"
    save(make_artifact(), path)
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= flip
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"flipped.top: "):
        load(path)


def test_any_flipped_bit_of_the_structure_is_found(path: Path) -> None:
    original = path.read_bytes()
    covered = {i for begin, end in part_ranges(path).values() for i in range(begin, end)}
    for position in sorted(set(range(len(original))) - covered):
        data = bytearray(original)
        data[position] ^= 1 << position % 8
        path.write_bytes(data)
        with pytest.raises(ArtifactError):
            load(path)


def test_truncated_files_are_refused(path: Path) -> None:
    original = path.read_bytes()
    for size in [*range(0, len(original), 97), len(original) - 1]:
        path.write_bytes(original[:size])
        with pytest.raises(ArtifactError, match=r"model.top: "):
            load(path)


@pytest.mark.parametrize("junk", [b"x", b"PK\x05\x06" + bytes(18), bytes(100_000)])
def test_joined_files_are_refused(path: Path, junk: bytes) -> None:
    original = path.read_bytes()
    for data in (original + junk, junk + original):
        path.write_bytes(data)
        with pytest.raises(ArtifactError):
            load(path)


def rewrite(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Write the parts of a file anew, sealed, after a change to their content."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    change(parts)
    with path.open("w+b") as file:
        writer = Writer(file)
        for name, content in parts.items():
            writer.add(name, len(content), lambda _, content=content: (content,))
        writer.close()


def swap(parts: dict[str, bytes]) -> None:
    parts["plans/1.json"], parts["plans/4.json"] = parts["plans/4.json"], parts["plans/1.json"]


def update_metadata(parts: dict[str, bytes], **fields: Any) -> None:
    document = json.loads(parts["metadata.json"])
    document["metadata"].update(fields)
    parts["metadata.json"] = json.dumps(document).encode()


SEALED = {
    "unchanged": (lambda parts: None, ""),
    "swapped": (swap, "the checksum of plans/1.json does not match"),
    "removed": (lambda parts: parts.pop("kernels.so"), "missing or unknown: kernels.so"),
    "added": (lambda parts: parts.update({"../../etc/x": b""}), "missing or unknown: ../../etc/x"),
    "no metadata": (lambda parts: parts.pop("metadata.json"), "it has no metadata.json"),
    "bad json": (
        lambda parts: parts.update({"metadata.json": b"{"}),
        "metadata.json: not valid JSON",
    ),
    "no format": (
        lambda parts: parts.update({"metadata.json": b"{}"}),
        "it has no format version",
    ),
    "newer": (
        lambda parts: update_metadata(parts, format=5, novelty=1),
        "format version 5 is newer than 4, .*: upgrade top_tvm",
    ),
    "older": (
        lambda parts: update_metadata(parts, format=3),
        "format version 3 is no longer read: build the model again",
    ),
    "unknown key": (
        lambda parts: update_metadata(parts, novelty=1),
        "metadata.json: metadata: unknown key 'novelty'",
    ),
    "other cpu": (
        lambda parts: update_metadata(parts, cpu_features=["warp", "avx9000", "flux"]),
        "this machine's CPU lacks avx9000, flux, warp, which the kernels use",
    ),
    "other input": (
        lambda parts: update_metadata(parts, inputs=[]),
        "plan for batch 1: its inputs are .*, the metadata's \\[\\]",
    ),
}


@pytest.mark.parametrize(("change", "message"), SEALED.values(), ids=SEALED.keys())
def test_sealed_nonsense_is_refused(
    path: Path, change: Callable[[dict[str, bytes]], None], message: str
) -> None:
    rewrite(path, change)
    if message:
        with pytest.raises(ArtifactError, match=message):
            load(path)
    else:
        assert_same(load(path), make_artifact())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("plans/4.json", b"{", "plans/4.json: plan: not valid JSON"),
        ("plans/4.json", b"[]", "plans/4.json: plan: expected an object, got list"),
        ("profiles/1.json", b"{", "profiles/1.json: not valid JSON"),
        ("profiles/1.json", b'{"ops": 1}', "profiles/1.json: ops: expected a list, got int 1"),
    ],
)
def test_errors_within_a_part_name_it(path: Path, name: str, content: bytes, message: str) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {entry: archive.read(entry) for entry in archive.namelist()}
    path.write_bytes(sealed({**parts, name: content}))
    with pytest.raises(ArtifactError, match=f"model.top: {message}"):
        load(path)


# Fields of a directory entry: their position in it, and their width in bytes.
FLAGS, STORED_BYTES, CONTENT_BYTES, HEADER_OFFSET = (8, 2), (20, 4), (24, 4), (42, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({FLAGS: 1}, r"part 'kernels.so' has flags 0x1$"),
        (
            {STORED_BYTES: 10**6, CONTENT_BYTES: 10**6},
            r"part 'kernels.so' ends outside the file$",
        ),
        ({HEADER_OFFSET: 0}, r"model.top: damaged: two parts overlap$"),
    ],
)
def test_a_damaged_directory_is_refused(
    path: Path, changes: dict[tuple[int, int], int], message: str
) -> None:
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)  # the second: the kernels
    for (position, width), value in changes.items():
        start = entry + position
        data[start : start + width] = value.to_bytes(width, "little")
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=message):
        load(path)


def test_an_archive_without_a_seal_is_refused(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", b"{}")
    with pytest.raises(ArtifactError, match=r"model.top: not a .top file: it has no seal$"):
        load(path)


def test_compressed_parts_are_refused(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(ArtifactError, match=r"'weights.safetensors' is compressed"):
        load(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_repeated_names_are_refused(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("kernels.so", b"other")
    with pytest.raises(ArtifactError, match="two parts have the same name"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x04K\x01.", b"\x7fELF" + bytes(4096)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"other: (the file is empty|damaged, or not a .top)"):
        load(tmp_path / "other")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"absent.top: cannot read: No such file"):
        load(tmp_path / "absent.top")
    with pytest.raises(ArtifactError, match="cannot read: Is a directory"):
        load(tmp_path)
    with pytest.raises(ArtifactError, match="cannot write: No such file"):
        save(make_artifact(), tmp_path / "absent" / "model.top")


class Interrupting(Mapping[str, np.ndarray]):
    """Constants that cannot be read to the end."""

    def __init__(self, arrays: Mapping[str, np.ndarray], error: BaseException) -> None:
        self.arrays, self.error, self.reads = arrays, error, 0

    def __getitem__(self, name: str) -> np.ndarray:
        self.reads += 1
        if self.reads > 3 * len(self.arrays):  # sizes and the header are known, data is written
            raise self.error
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), SystemExit()])
def test_an_interrupted_save_leaves_the_old_file(path: Path, error: BaseException) -> None:
    before = path.read_bytes()
    artifact = make_artifact(seed=1)
    constants = Interrupting(artifact.constants, error)
    with pytest.raises(type(error)):
        save(replace(artifact, constants=constants), path)
    assert constants.reads > 3 * len(artifact.constants)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(path: Path) -> None:
    before = path.read_bytes()
    large = replace(make_artifact(), kernels=bytes(2**20))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises(ArtifactError, match="cannot write: File too large"):
            save(large, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


INCONSISTENT = {
    "no plan": (lambda a: replace(a, plans={}, profiles={}), "there is no plan"),
    "format": (
        lambda a: replace(a, metadata=replace(a.metadata, format=2)),
        "metadata: format is 2, expected 4",
    ),
    "roofline": (
        lambda a: replace(a, metadata=replace(a.metadata, roofline=Roofline(gang_gflops=0.0))),
        "metadata: not all limits are positive: .*gang_gflops=0.0",
    ),
    "batch": (lambda a: replace(a, plans={2: make_plan(1)}), "batch 2: it says batch 1"),
    "plan": (
        lambda a: replace(a, plans={1: replace(make_plan(1), streams=0)}),
        "streams is 0",
    ),
    "profile": (lambda a: replace(a, profiles={3: ()}), "profile for batch 3: there is no such"),
    "times": (
        lambda a: replace(a, profiles={1: (OpProfile("f", 1, 1, -1.0, 1.0, ""),)}),
        "profile for batch 1: op 'f' has costs",
    ),
    "demands": (
        lambda a: replace(
            a, profiles={1: (OpProfile("f", 1, 1, 1.0, 1.0, "", gang_bandwidth=1.5),)}
        ),
        "profile for batch 1: op 'f' has demands",
    ),
    "device": (
        lambda a: replace(a, metadata=replace(a.metadata, device=DeviceModel(2, wait_us=-1.0))),
        "metadata: there is no such device: .*wait_us=-1.0",
    ),
    "streams": (
        lambda a: replace(a, metadata=replace(a.metadata, device=DeviceModel(0))),
        "metadata: there is no such device: .*streams=0",
    ),
    "constant": (lambda a: replace(a, constants={}), "there is no constant 'w.float32'"),
    "short": (
        lambda a: replace(a, constants={"w.float32": np.zeros(14, np.float32)}),
        "tensor 'w' ends after constant 'w.float32'",
    ),
    "kernels": (lambda a: replace(a, kernels=b""), "calls TVM kernels, but there are none"),
    "shape": (
        lambda a: replace(
            a, metadata=replace(a.metadata, inputs=(TensorSpec("x", "float32", (9, 5)),))
        ),
        "plan for batch 1: its inputs are",
    ),
    "name": (
        lambda a: replace(
            a, metadata=replace(a.metadata, outputs=(TensorSpec("z", "float32", (1, 3)),))
        ),
        "plan for batch 4: its outputs are",
    ),
    "dtype": (
        lambda a: replace(a, constants={**a.constants, "c": np.zeros(1, np.complex64)}),
        "constant 'c': dtype complex64 is not supported",
    ),
    "reserved": (
        lambda a: replace(a, constants={**a.constants, "__metadata__": np.zeros(1)}),
        "'__metadata__': names that start with '__' are reserved",
    ),
}


@pytest.mark.parametrize(("change", "message"), INCONSISTENT.values(), ids=INCONSISTENT.keys())
def test_inconsistent_artifacts_are_not_saved(
    tmp_path: Path, change: Callable[[Artifact], Artifact], message: str
) -> None:
    with pytest.raises(ArtifactError, match=f"model.top: not saved: .*{message}"):
        save(change(make_artifact()), tmp_path / "model.top")
    assert list(tmp_path.iterdir()) == []
