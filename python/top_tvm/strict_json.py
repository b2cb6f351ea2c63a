"""Frozen dataclasses to JSON and back, with nothing guessed on the way back.

Decoding follows the type hints: every field must be present, no other may be, and no type is
converted. An infinite float, which JSON cannot write, is ``null``. Integers have at most 64 bits:
sums and products of a few stay cheap, and all fit into a float.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
Decoder = Callable[[object], Any]

_MAX_DIGITS = 20  # of an integer of 64 bits, with its sign
_MAX_KEYS = 5  # that a message lists


class StrictJSONError(ValueError):
    """A document does not have the expected form; the message starts with the place."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.place = ""

    def within(self, step: str) -> StrictJSONError:
        """Say that the problem lies inside ``step``, e.g. ``"calls"`` or ``"[3]"``."""
        separator = "." if self.place and not self.place.startswith("[") else ""
        self.place = step + separator + self.place
        return self

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}" if self.place else self.problem


def parse(text: str | bytes) -> object:
    """Parse JSON text; unlike :func:`json.loads`, refuse repeated keys, NaN and large numbers.

    Raises
    ------
    StrictJSONError
        If the text is not JSON.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_bounded_int,
        )
    except StrictJSONError:
        raise
    except (ValueError, RecursionError) as error:
        raise StrictJSONError(f"not valid JSON: {error}") from error


def encode(value: object) -> Any:
    """Turn dataclasses, tuples and dicts into what :func:`json.dumps` writes.

    Raises
    ------
    StrictJSONError
        If there is a list, which would come back as a tuple.
    """
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    if isinstance(value, list):
        raise StrictJSONError(f"expected a tuple, got list {value!r:.60}")
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, float) and value == math.inf:
        return None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value


def decode(kind: type[T], document: object) -> T:
    """Build a ``kind`` from a parsed document.

    Raises
    ------
    StrictJSONError
        If a key is missing or unknown, or a value has another type.
    """
    decoder: Decoder = _decoder(kind)  # type: ignore[arg-type]  # classes are hashable
    decoded: T = decoder(document)
    return decoded


@functools.cache
def _decoder(kind: Any) -> Decoder:
    origin, args = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _record_decoder(kind)
    if origin is Literal:
        return functools.partial(_decode_literal, args)
    if origin is tuple and args[1:] == (Ellipsis,):
        return functools.partial(_decode_tuple, _decoder(args[0]))
    if origin is dict and args[0] is str:
        return functools.partial(_decode_dict, _decoder(args[1]))
    if kind is float:
        return _decode_float
    if origin is UnionType and set(args) == {int, float}:
        return _decode_number
    if kind in (bool, int, str):
        return functools.partial(_decode_scalar, kind)
    raise TypeError(f"no JSON form for fields of type {kind}")


def _record_decoder(kind: Any) -> Decoder:
    hints = get_type_hints(kind)
    decoders = {f.name: _decoder(hints[f.name]) for f in dataclasses.fields(kind)}

    def decode_record(value: object) -> Any:
        if not isinstance(value, dict):
            raise _mismatch("an object", value)
        if value.keys() != decoders.keys():
            raise _wrong_keys(value.keys(), decoders.keys())
        fields = {}
        for name, decoder in decoders.items():
            try:
                fields[name] = decoder(value[name])
            except StrictJSONError as error:
                raise error.within(name) from None
        return kind(**fields)

    return decode_record


def _decode_tuple(decoder: Decoder, value: object) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _mismatch("a list", value)
    items: list[Any] = []
    try:
        for item in value:
            items.append(decoder(item))
    except StrictJSONError as error:
        raise error.within(f"[{len(items)}]") from None
    return tuple(items)


def _decode_dict(decoder: Decoder, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _mismatch("an object", value)
    items: dict[str, Any] = {}
    for key, item in value.items():
        if type(key) is not str:
            raise _mismatch("string keys", key)
        _check_text(key)
        try:
            items[key] = decoder(item)
        except StrictJSONError as error:
            raise error.within(key) from None
    return items


def _decode_literal(choices: tuple[object, ...], value: object) -> object:
    if value not in choices or type(value) not in map(type, choices):
        raise StrictJSONError(f"expected one of {', '.join(map(repr, choices))}, got {value!r:.60}")
    return value


def _decode_scalar(kind: type, value: object) -> object:
    if type(value) is not kind:
        raise _mismatch(kind.__name__, value)
    if kind is str:
        _check_text(str(value))
    return value


def _decode_float(value: object) -> float:
    if value is None:
        return math.inf
    # Not isinstance: bool is an int, and numpy.float64 is a float, which JSON would not give back.
    if type(value) is int or type(value) is float:
        try:
            return float(value)
        except OverflowError:
            raise StrictJSONError("the number is too large for a float") from None
    raise _mismatch("float", value)


def _decode_number(value: object) -> int | float:
    return value if type(value) is int else _decode_float(value)


def _mismatch(expected: str, value: object) -> StrictJSONError:
    return StrictJSONError(f"expected {expected}, got {type(value).__name__} {value!r:.60}")


def _wrong_keys(given: Iterable[str], expected: Iterable[str]) -> StrictJSONError:
    missing = [key for key in expected if key not in set(given)]
    unknown = [key for key in given if key not in set(expected)]
    problems = [
        f"{problem} key{'s'[: len(keys) - 1]} {_listed(keys)}"
        for problem, keys in (("missing", missing), ("unknown", unknown))
        if keys
    ]
    return StrictJSONError("; ".join(problems))


def _listed(keys: list[str]) -> str:
    names = [f"{key!r:.60}" for key in keys[:_MAX_KEYS]]
    return ", ".join([*names, "..."] if len(keys) > _MAX_KEYS else names)


def _check_text(text: str) -> None:
    # JSON can escape one half of a surrogate pair, which is no character and cannot be encoded.
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise StrictJSONError(f"{text!r:.60} is not valid Unicode")


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        repeated = next(key for key, count in counts.items() if count > 1)
        raise StrictJSONError(f"key {repeated!r:.60} is given twice")
    return document


def _bounded_int(text: str) -> int:
    number = int(text) if len(text) <= _MAX_DIGITS else 2**63
    if not -(2**63) <= number < 2**63:
        raise StrictJSONError(f"the integer {text:.40} has more than 64 bits")
    return number


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise StrictJSONError(f"the number {text:.40} is too large for a float")
    return number


def _refuse_constant(name: str) -> object:
    raise StrictJSONError(f"{name} is not valid JSON")
