import json
import math
from dataclasses import dataclass
from typing import Literal

import pytest

from top_tvm.strict_json import StrictJSONError, decode, encode, parse


@dataclass(frozen=True)
class Inner:
    kind: Literal["a", "b"]
    time_us: float


@dataclass(frozen=True)
class Outer:
    name: str
    flag: bool
    sizes: tuple[tuple[int, ...], ...]
    inners: dict[str, Inner]


VALUE = Outer("n", True, ((1, 2), ()), {"x": Inner("a", 0.1), "y": Inner("b", math.inf)})


def test_round_trip() -> None:
    text = json.dumps(encode(VALUE), allow_nan=False)
    assert decode(Outer, parse(text)) == VALUE
    assert '"time_us": null' in text  # infinity


def test_an_integer_is_a_float() -> None:
    inner = decode(Inner, {"kind": "a", "time_us": 3})
    assert (inner.time_us, type(inner.time_us)) == (3.0, float)


@dataclass(frozen=True)
class Numbers:
    values: tuple[int | float, ...]


def test_integers_and_floats_stay_what_they_are() -> None:
    text = json.dumps(encode(Numbers((1, 2.0, 0.5))))
    assert text == '{"values": [1, 2.0, 0.5]}'
    assert [type(value) for value in decode(Numbers, parse(text)).values] == [int, float, float]
    with pytest.raises(StrictJSONError, match=r"^values\[0\]: expected float, got bool True$"):
        decode(Numbers, {"values": [True]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "^name: expected str, got NoneType None$"),
        ({"flag": 1}, "^flag: expected bool, got int 1$"),
        ({"sizes": {}}, "^sizes: expected a list, got dict {}$"),
        ({"sizes": [[1], [2, "3"]]}, r"^sizes\[1\]\[1\]: expected int, got str '3'$"),
        ({"sizes": [[True]]}, r"^sizes\[0\]\[0\]: expected int, got bool True$"),
        ({"inners": []}, "^inners: expected an object, got list"),
        ({"inners": {"x": [1]}}, r"^inners.x: expected an object, got list \[1\]$"),
        ({"inners": {1: {}}}, "^inners: expected string keys, got int 1$"),
        ({"sizes": [[1], 2]}, r"^sizes\[1\]: expected a list, got int 2$"),
        (
            {"inners": {"x": {"kind": "a", "time_us": "1"}}},
            "^inners.x.time_us: expected float, got str '1'$",
        ),
        (
            {"inners": {"x": {"kind": "c", "time_us": 1.0}}},
            "^inners.x.kind: expected one of 'a', 'b', got 'c'$",
        ),
        (
            {"inners": {"x": {"kind": "a", "time_us": 10**400}}},
            "^inners.x.time_us: the number is too large",
        ),
        ({"inners": {"x": {}}}, "^inners.x: missing keys 'kind', 'time_us'$"),
        ({"more": 1}, "^unknown key 'more'$"),
    ],
)
def test_the_place_of_an_error_is_given(change: dict, message: str) -> None:
    with pytest.raises(StrictJSONError, match=message):
        decode(Outer, encode(VALUE) | change)


def test_missing_and_unknown_keys_are_told_together() -> None:
    with pytest.raises(StrictJSONError, match=r"^missing key 'kind'; unknown key 'king'$"):
        decode(Inner, {"king": "a", "time_us": 1.0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "^not valid JSON: Expecting value: line 1 column 1"),
        ("{", "^not valid JSON: "),
        ("[1,]", "^not valid JSON: "),
        (b"\xff", "^not valid JSON: "),
        ("[" * 10**5, "^not valid JSON: maximum recursion depth"),
        ("NaN", "^NaN is not valid JSON$"),
        ("-Infinity", "^-Infinity is not valid JSON$"),
        ("1e999", "too large for a float"),
        ('{"a":1,"a":1}', "^key 'a' is given twice$"),
    ],
)
def test_lenient_json_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(StrictJSONError, match=message):
        parse(text)


@dataclass(frozen=True)
class Unwritable:
    values: set[int]


def test_a_type_that_json_does_not_have_is_named() -> None:
    with pytest.raises(TypeError, match=r"^no JSON form for fields of type set\[int\]$"):
        decode(Unwritable, {"values": []})


def test_lists_are_refused_where_they_would_come_back_as_tuples() -> None:
    with pytest.raises(StrictJSONError, match=r"expected a tuple, got list \[1\]"):
        encode(Outer("n", True, ([1],), {}))
