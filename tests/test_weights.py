import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from top_tvm.bfloat16 import BFLOAT16, numpy_dtype
from top_tvm.errors import ArtifactError
from top_tvm.plan import DTYPE_BYTES
from top_tvm.weights import aligned, decode_weights, encode_weights, encoded_bytes


def weights_of(dtypes: set[str]) -> st.SearchStrategy[dict[str, np.ndarray]]:
    shapes = array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=9)
    return st.dictionaries(
        st.text(max_size=8).filter(lambda name: not name.startswith("__")),
        st.sampled_from(sorted(dtypes)).flatmap(lambda name: arrays(numpy_dtype(name), shapes)),
        max_size=5,
    )


def memory_at(offset: int, content: bytes) -> memoryview:
    """Content at an address that is ``offset`` beyond a multiple of 64."""
    buffer = np.zeros(len(content) + 128, np.uint8)
    start = -buffer.ctypes.data % 64 + offset
    buffer[start : start + len(content)] = np.frombuffer(content, np.uint8)
    return buffer[start : start + len(content)].data


@settings(max_examples=200, deadline=None)
@given(weights_of({*DTYPE_BYTES}), st.integers(0, 200), st.integers(0, 63))
def test_round_trip_wherever_it_begins(weights: dict, offset: int, place: int) -> None:
    content = b"".join(encode_weights(weights, offset))
    assert len(content) <= encoded_bytes(weights)
    for memory in (memory_at(offset % 64, content), memory_at(place, content)):
        decoded = decode_weights(memory)
        assert list(decoded) == list(weights)
        for name, array in weights.items():
            assert decoded[name].dtype == array.dtype
            assert decoded[name].shape == array.shape
            assert decoded[name].tobytes() == array.tobytes()
            assert decoded[name].ctypes.data % 64 == 0


def test_aligned_data_is_used_in_place_and_other_data_copied() -> None:
    content = b"".join(encode_weights({"a": np.arange(9.0), "b": np.arange(5)}, offset=49))
    for offset, in_place in ((49, True), (48, False)):
        memory = memory_at(offset, content)
        for array in decode_weights(memory).values():
            assert np.shares_memory(array, np.frombuffer(memory, np.uint8)) == in_place


@settings(max_examples=50, deadline=None)
@given(weights_of({*DTYPE_BYTES} - {"bfloat16"}), st.integers(0, 200))
def test_the_reference_implementation_reads_it(weights: dict, offset: int) -> None:
    decoded = safetensors.numpy.load(b"".join(encode_weights(weights, offset)))
    for name, array in weights.items():
        assert decoded.pop(name).tobytes() == array.tobytes()
    assert all(name.startswith("__padding__") for name in decoded)


def test_bfloat16_is_what_others_read_and_write_as_bf16() -> None:
    bits = np.uint16([0x3F80, 0xC000, 0x7F80])  # 1, -2, infinity
    content = b"".join(encode_weights({"a": bits.view(BFLOAT16)}, 0))
    ((name, entry),) = safetensors.deserialize(content)
    assert (name, entry["dtype"], entry["shape"]) == ("a", "BF16", [3])
    assert bytes(entry["data"]) == bits.tobytes()
    values = bits.view(ml_dtypes.bfloat16)
    assert values.astype(float).tolist() == [1, -2, np.inf]
    header = {"a": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}
    decoded = decode_weights(memoryview(encoded(header, values.tobytes())))["a"]
    assert decoded.dtype == BFLOAT16
    assert decoded.tobytes() == bits.tobytes()


def test_what_the_reference_implementation_writes_is_read() -> None:
    weights = {"a": np.arange(7, dtype=np.float32), "b": np.ones((2, 3), bool)}
    content = safetensors.numpy.save(weights, metadata={"origin": "elsewhere"})
    decoded = decode_weights(memoryview(content))
    assert decoded.keys() == weights.keys()
    assert all((decoded[name] == array).all() for name, array in weights.items())


def encoded(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(dtype: object = "U8", shape: object = (4,), offsets: object = (0, 4)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header is truncated"),
        (b"\0" * 7, "header is truncated"),
        ((2**63).to_bytes(8, "little"), "header is truncated"),
        (encoded(b"{"), "weights: header: not valid JSON"),
        (encoded([]), "the header is not an object"),
        (encoded({"a": 1}), "'a': not a tensor entry: 1"),
        (encoded({"a": {**entry(), "more": 1}}, b"abcd"), "'a': not a tensor entry"),
        (encoded({"a": entry(dtype="F8_E5M2")}, b"abcd"), "'a': dtype 'F8_E5M2' is not supported"),
        (encoded({"a": entry(dtype=[])}, b"abcd"), "'a': not a tensor entry"),
        (encoded({"a": entry(shape=[-4])}, b"abcd"), r"'a': \[-4\] is not a shape"),
        (encoded({"a": entry(shape=[True] * 4)}, b"abcd"), "is not a shape"),
        (encoded({"a": entry(shape=[5])}, b"abcd"), "its shape and its number of bytes differ"),
        (encoded({"a": entry(offsets=[-4, 0])}, b"abcd"), "its shape and its number of bytes"),
        (encoded({"a": entry(offsets=[0, 4, 4])}, b"abcd"), "not a tensor entry"),
        (encoded({"a": entry()}, b"abc"), "'a' has bytes 0 to 4"),
        (encoded({"a": entry(offsets=[4, 8])}, b"abcdabcd"), "'a' has bytes 4 to 8, expected 0"),
        (
            encoded({"a": entry(), "b": entry()}, b"abcd"),
            "weights: 'b' has bytes 0 to 4, expected 4 on",
        ),
        (encoded({"a": entry()}, b"abcde"), "1 bytes belong to no tensor"),
        (encoded({"a": entry(shape=[0, 2**80], offsets=[0, 0])}), "has more than 64 bits"),
        (encoded({"a": entry(shape=[0, 2**62 + 1], offsets=[0, 0])}), "weights: 'a': .* not a sha"),
        (encoded({"a": entry(shape=[0] + [2**40] * 9, offsets=[0, 0])}), "'a': .*too big"),
        (encoded({"a": entry(shape=[2**62] * 99, offsets=[0, 0])}), "weights: 'a': .* not a shape"),
        (encoded(b" " * (2**24 + 1)), "a header of 16777217 bytes; at most 16777216 are read"),
        (encoded({"a": entry(shape=[1] * 100 + [4])}, b"abcd"), "weights: 'a': .* is not a shape"),
        (encoded(b'{"a": 1, "a": 1}'), "key 'a' is given twice"),
    ],
)
def test_malformed_weights_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        decode_weights(memoryview(content))


def test_aligned_copies_only_what_it_must() -> None:
    memory = memory_at(0, bytes(256))
    good = np.frombuffer(memory, np.float32)
    assert aligned(good) is good
    for array in (good[1:], good[::2], good.reshape(8, 8).T, np.arange(4, dtype=">f8")):
        copy = aligned(array)
        assert copy.ctypes.data % 64 == 0
        assert copy.flags.c_contiguous
        assert copy.dtype.isnative
        assert not np.shares_memory(copy, array)
        np.testing.assert_array_equal(copy, array)
