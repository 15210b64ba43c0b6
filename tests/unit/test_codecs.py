"""Bodies become bytes and come back as they were, or are refused."""

from __future__ import annotations

import enum
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqlite.codecs import BYTES, CUSTOM, JSON, PICKLE, TEXT, BodyCodec, Codec, check_json
from mqlite.errors import CodecError

any_text = st.text(st.characters())  # lone surrogates, too
atoms = st.none() | st.booleans() | st.integers() | st.floats() | any_text
json_values = st.recursive(atoms, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4), max_leaves=20)
impure = st.tuples(atoms) | st.sets(st.integers(), min_size=1) | st.binary() | st.complex_numbers() | st.dictionaries(st.integers() | st.none() | st.booleans(), atoms, min_size=1)


def same(one: Any, other: Any) -> bool:
    """Equal, of equal types all the way down, nan and the sign of zero included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or (one == other and math.copysign(1, one) == math.copysign(1, other))
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


@given(json_values)
def test_every_json_value_comes_back_the_same(body: Any) -> None:
    codec = BodyCodec("json")
    assert same(codec.decode(codec.encode(body)), body)


@given(st.binary())
def test_bytes_are_stored_as_they_are(body: bytes) -> None:
    assert BodyCodec("json").encode(body) == (BYTES, body)


@given(any_text)
def test_text_comes_back_with_every_character(body: str) -> None:
    codec = BodyCodec("json")
    tag, data = codec.encode(body)
    assert (tag, codec.decode((tag, data))) == (TEXT, body)


@given(st.lists(json_values, max_size=3), impure, st.integers(0, 3))
def test_a_value_that_json_would_change_is_refused_wherever_it_hides(around: list[Any], value: Any, place: int) -> None:
    for body in (value, [*around[:place], value, *around[place:]], {"a": {"b": [value]}}):
        if type(body) is not bytes:
            with pytest.raises(CodecError):
                BodyCodec("json").encode(body)


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


class Items(list):  # type: ignore[type-arg]
    pass


class Fields(dict):  # type: ignore[type-arg]
    pass


@pytest.mark.parametrize("value", [Colour.RED, Text("x"), Items([1]), Fields(a=1), {Text("a"): 1}], ids=repr)
def test_a_subclass_that_would_come_back_as_its_base_is_refused(value: Any) -> None:
    for body in (value, [value]):
        with pytest.raises(CodecError):
            BodyCodec("json").encode(body)


def test_keys_that_would_fall_together_are_refused() -> None:
    with pytest.raises(CodecError, match="keys are str"):
        BodyCodec("json").encode({1: "a", "1": "b"})


def test_an_endless_body_is_refused() -> None:
    body: list[Any] = []
    body.append({"again": body})
    with pytest.raises(CodecError):
        BodyCodec("json").encode(body)


def test_a_body_that_is_nested_too_deeply_is_refused_when_it_is_put() -> None:
    body: list[Any] = []
    for _ in range(100_000):
        body = [body]
    with pytest.raises(CodecError):
        BodyCodec("json").encode(body)


@pytest.mark.parametrize("depth", [50, 200, 400, 900])
def test_a_nested_body_that_was_taken_comes_back(depth: int) -> None:
    body: list[Any] = []
    for _ in range(depth):
        body = [body]
    codec = BodyCodec("json")
    try:
        payload = codec.encode(body)
    except CodecError:
        return
    assert codec.decode(payload) == body


def test_an_int_too_long_for_json_is_refused_when_it_is_put() -> None:
    with pytest.raises(CodecError):
        BodyCodec("json").encode(10**5000)


@given(st.recursive(atoms | st.binary() | st.complex_numbers(allow_nan=False), lambda inner: st.tuples(inner, inner) | st.lists(inner)))
def test_pickle_carries_python_values(body: Any) -> None:
    codec = BodyCodec("pickle")
    payload = codec.encode(body)
    assert repr(codec.decode(payload)) == repr(body)


def test_pickle_stores_bytes_and_text_as_they_are() -> None:
    codec = BodyCodec("pickle")
    assert (codec.encode(b"x"), codec.encode("x"), codec.encode(1)[0]) == ((BYTES, b"x"), (TEXT, b"x"), PICKLE)


def test_json_never_unpickles() -> None:
    payload = BodyCodec("pickle").encode({1})
    with pytest.raises(CodecError, match="another codec"):
        BodyCodec("json").decode(payload)


@pytest.mark.parametrize("tag", [TEXT, JSON])
def test_bytes_that_are_no_utf8_are_a_codec_error(tag: int) -> None:
    with pytest.raises(CodecError):
        BodyCodec("json").decode((tag, b"\xff\xfe"))


@pytest.mark.parametrize(("tag", "data"), [(JSON, b"{"), (JSON, b""), (CUSTOM, b"x"), (77, b"x"), (PICKLE, b"x")])
def test_what_this_codec_did_not_write_is_a_codec_error(tag: int, data: bytes) -> None:
    with pytest.raises(CodecError):
        BodyCodec("json").decode((tag, data))


class Reversed:
    def encode(self, body: Any) -> bytes:
        return repr(body).encode()[::-1]

    def decode(self, data: bytes) -> Any:
        return data[::-1].decode()


def test_a_user_s_codec_is_known_by_its_class() -> None:
    codec = BodyCodec(Reversed())
    assert (codec.name.endswith("Reversed"), codec.decode(codec.encode([1]))) == (True, "[1]")


def test_a_class_instead_of_an_object_is_refused() -> None:
    with pytest.raises(TypeError, match="codec"):
        BodyCodec(Reversed)


def test_an_object_with_both_methods_is_a_codec() -> None:
    assert isinstance(Reversed(), Codec)


@given(json_values)
def test_check_json_returns_what_it_was_given(value: Any) -> None:
    assert check_json(value, "headers") is value


def test_check_json_names_what_is_wrong() -> None:
    with pytest.raises(CodecError, match="headers: "):
        check_json({"a": (1,)}, "headers")
