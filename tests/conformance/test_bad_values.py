"""Wrong types and values are told at once, in words that name the option, and nothing is stored."""

from __future__ import annotations

import os
from typing import Any

import pytest
from fixture_types import MakeQueue

import mqlite

BAD_OPTIONS: list[tuple[str, Any, type[Exception]]] = [
    ("maxsize", "5", TypeError),
    ("maxsize", 5.0, TypeError),
    ("maxsize", None, TypeError),
    ("maxsize", True, TypeError),
    ("max_message_bytes", 0, ValueError),
    ("max_message_bytes", -1, ValueError),
    ("max_message_bytes", None, TypeError),
    ("max_message_bytes", 1e6, TypeError),
    ("max_deliveries", 0, ValueError),
    ("max_deliveries", -1, ValueError),
    ("max_deliveries", "5", TypeError),
    ("max_deliveries", True, TypeError),
    ("ack_timeout", 0, ValueError),
    ("ack_timeout", -1.0, ValueError),
    ("ack_timeout", float("nan"), ValueError),
    ("ack_timeout", float("inf"), ValueError),
    ("ack_timeout", "30", TypeError),
    ("ack_timeout", True, TypeError),
    ("dead_letter", 1, TypeError),
    ("dead_letter", None, TypeError),
    ("dead_letter", "dead", TypeError),
]


@pytest.mark.parametrize(("option", "value", "error"), BAD_OPTIONS)
def test_a_bad_option_is_refused_by_name(make_queue: MakeQueue, option: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=option):
        make_queue(**{option: value})


@pytest.mark.parametrize(("option", "value", "error"), BAD_OPTIONS)
def test_a_bad_option_makes_no_store(path: str, option: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        mqlite.Queue("q", path, **{option: value})
    assert not os.path.exists(path)


@pytest.mark.parametrize(("option", "value", "error"), BAD_OPTIONS)
def test_configure_refuses_a_bad_value_and_changes_nothing(q: mqlite.Queue[Any], option: str, value: Any, error: type[Exception]) -> None:
    before = q._state.options
    with pytest.raises(error, match=option):
        q.configure(**{option: value})
    assert q._state.options == before


@pytest.mark.parametrize("codec", ["xml", 5, None, dict, object(), ""])
def test_a_codec_is_named_or_has_encode_and_decode(make_queue: MakeQueue, codec: object) -> None:
    with pytest.raises(TypeError, match="codec"):
        make_queue(codec=codec)


def test_an_unknown_option_is_a_type_error(make_queue: MakeQueue) -> None:
    with pytest.raises(TypeError, match="max_size"):
        make_queue(max_size=5)


@pytest.mark.parametrize(("name", "error"), [("", ValueError), ("x" * 256, ValueError), ("ä" * 128, ValueError), ("a\nb", ValueError), ("a\x00", ValueError), ("\ud800", ValueError), (None, TypeError), (b"q", TypeError), (1.5, TypeError)])
def test_a_name_is_a_short_text(make_queue: MakeQueue, name: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="name"):
        make_queue(name)


@pytest.mark.parametrize("name", ["x", "x" * 255, "ä" * 127, "with space", "a/b", "..", "日本", "q.dead"])
def test_any_other_short_text_is_a_name(make_queue: MakeQueue, name: str) -> None:
    q = make_queue(name)
    q.put(1)
    assert (q.name, q.get(timeout=0)) == (name, 1)


def test_a_queue_that_is_named_like_another_s_dead_letters_is_a_queue_of_its_own(path: str) -> None:
    with mqlite.Queue("q", path) as q, mqlite.Queue("q.dead", path) as other:
        q.put(1)
        q.receive()[0].reject()
        assert (len(q.dead), len(other)) == (1, 0)


def test_maxsize_by_position_and_by_name_is_refused() -> None:
    with pytest.raises(TypeError, match="twice"):
        mqlite.Queue(5, maxsize=6)


@pytest.mark.parametrize(("priority", "error"), [(2**31, ValueError), (-(2**31) - 1, ValueError), (1.0, TypeError), ("1", TypeError), (None, TypeError), (True, TypeError)])
def test_a_priority_is_a_signed_32_bit_integer(q: mqlite.Queue[Any], priority: Any, error: type[Exception]) -> None:
    for put in (lambda: q.put(1, priority=priority), lambda: q.put_many([1], priority=priority)):
        with pytest.raises(error, match="priority"):
            put()
    assert q.qsize() == 0


@pytest.mark.parametrize("option", ["type", "reply_to", "correlation_id"])
@pytest.mark.parametrize("value", [5, b"x", ["x"]])
def test_the_texts_of_a_message_are_str(q: mqlite.Queue[Any], option: str, value: Any) -> None:
    with pytest.raises(TypeError, match=option):
        q.put(1, **{option: value})
    assert q.qsize() == 0


@pytest.mark.parametrize("headers", [5, "x", [("a", 1)], {1, 2}])
def test_headers_are_a_mapping(q: mqlite.Queue[Any], headers: Any) -> None:
    with pytest.raises(TypeError, match="headers"):
        q.put(1, headers=headers)


@pytest.mark.parametrize("headers", [{1: 2}, {"a": object()}, {"a": (1, 2)}, {"a": b"x"}, {"a": {1, 2}}])
def test_headers_that_would_come_back_changed_are_refused(q: mqlite.Queue[Any], headers: Any) -> None:
    with pytest.raises(mqlite.CodecError, match="headers"):
        q.put(1, headers=headers)
    assert q.qsize() == 0


@pytest.mark.parametrize("timeout", ["1", [], True])
def test_a_timeout_is_a_number(q: mqlite.Queue[Any], timeout: Any) -> None:
    for call in (lambda: q.put(1, timeout=timeout), lambda: q.get(timeout=timeout), lambda: q.receive(timeout=timeout)):
        with pytest.raises(TypeError, match="timeout"):
            call()
    assert q.qsize() == 0


@pytest.mark.parametrize("option", ["tx", "nonsense"])
def test_an_unknown_option_of_put_is_a_type_error(q: mqlite.Queue[Any], option: str) -> None:
    with pytest.raises(TypeError, match=option):
        q.put(1, **{option: 1})


@pytest.mark.parametrize("durability", ["FULL", "none", 1])
def test_an_unknown_durability_is_refused(path: str, durability: Any) -> None:
    with pytest.raises((mqlite.NotSupported, ValueError, TypeError), match="durability"):
        mqlite.Queue("q", path, durability=durability)
    assert not os.path.exists(path)


@pytest.mark.parametrize("size", [0, -1, 1.5, "16", True, (16 << 20) - 1])
def test_a_store_has_at_least_sixteen_mebibytes(path: str, size: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="max_store_bytes"):
        mqlite.Queue("q", path, max_store_bytes=size)
    assert not os.path.exists(path)


# ---------------------------------------------------------------------- sizes
@pytest.mark.parametrize("body", [b"123456", "123456"])
def test_a_body_over_max_message_bytes_is_refused(make_queue: MakeQueue, body: object) -> None:
    q = make_queue(max_message_bytes=5)
    with pytest.raises(mqlite.MessageTooLarge, match="max_message_bytes=5"):
        q.put(body)
    assert q.qsize() == 0


def test_a_body_of_max_message_bytes_is_taken(make_queue: MakeQueue) -> None:
    q = make_queue(max_message_bytes=5)
    q.put(b"12345")
    assert q.get() == b"12345"


def test_too_large_is_also_a_value_error() -> None:
    assert issubclass(mqlite.MessageTooLarge, ValueError)


def test_a_large_body_comes_back_whole(q: mqlite.Queue[Any]) -> None:
    body = os.urandom(3_000_000)
    q.put(body)
    assert q.get() == body
