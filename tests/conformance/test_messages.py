"""What travels with a body, and which bodies travel."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fixture_types import MakeQueue

import mqlite


def test_a_message_without_options_has_empty_fields(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    [m] = q.receive()
    found = (m.priority, m.headers, m.type, m.group, m.routing_key, m.expires_at, m.reply_to, m.correlation_id, m.queue)
    assert found == (0, {}, None, None, None, None, None, None, "q")


def test_all_options_come_back(q: mqlite.Queue[Any]) -> None:
    q.put(1, priority=-7, headers={"a": [1, {"b": None}], "ü": "ß"}, type="order.paid", reply_to="replies", correlation_id="4711")
    [m] = q.receive()
    assert (m.priority, m.headers, m.type, m.reply_to, m.correlation_id) == (-7, {"a": [1, {"b": None}], "ü": "ß"}, "order.paid", "replies", "4711")


def test_empty_texts_and_headers_come_back(q: mqlite.Queue[Any]) -> None:
    q.put(1, headers={}, type="", reply_to="", correlation_id="")
    [m] = q.receive()
    assert (m.headers, m.type, m.reply_to, m.correlation_id) == ({}, "", "", "")


def test_put_nowait_takes_the_options_of_put(q: mqlite.Queue[Any]) -> None:
    q.put_nowait(1, priority=3, type="t")
    [m] = q.receive()
    assert (m.priority, m.type) == (3, "t")


def test_enqueued_at_is_an_aware_time_of_now(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    [m] = q.receive()
    assert m.enqueued_at.tzinfo is UTC
    assert abs(datetime.now(UTC) - m.enqueued_at) < timedelta(minutes=5)


def test_changing_the_headers_given_to_put_changes_no_message(q: mqlite.Queue[Any]) -> None:
    headers = {"a": 1}
    q.put(1, headers=headers)
    headers["a"] = 2
    assert q.receive()[0].headers == {"a": 1}


def test_changing_the_headers_of_a_delivery_does_not_change_the_next(q: mqlite.Queue[Any]) -> None:
    q.put(1, headers={"a": 1})
    [message] = q.receive()
    message.headers["a"] = 2
    message.nack()
    assert q.receive()[0].headers == {"a": 1}


def test_a_message_has_no_room_for_other_attributes(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    [message] = q.receive()
    with pytest.raises(AttributeError):
        message.nonsense = 1  # type: ignore[attr-defined]


def test_the_repr_of_a_message_shows_its_body(q: mqlite.Queue[Any]) -> None:
    q.put("hello")
    assert "body='hello'" in repr(q.receive()[0])


# ---------------------------------------------------------------------- bodies
BODIES: list[Any] = [
    None,
    True,
    False,
    0,
    -(10**40),
    1.5,
    -0.0,
    float("inf"),
    "",
    "text with ß, 日本 and \x00",
    "\ud83d\ude00",
    "\ud800",
    b"",
    b"\x00\xff" * 100,
    [],
    {},
    [1, [2, {"a": [None, True, "x", 1.5]}]],
    {"": {"a": {"b": []}}},
]


@pytest.mark.parametrize("body", BODIES, ids=ascii)
def test_bytes_texts_and_json_values_come_back_unchanged(q: mqlite.Queue[Any], body: Any) -> None:
    q.put(body)
    got = q.get()
    assert (type(got), repr(got)) == (type(body), repr(body))


@pytest.mark.parametrize(
    "body",
    [object(), {1, 2}, (1, 2), [(1, 2)], {"a": b"x"}, {1: "a"}, bytearray(b"x"), 1j, datetime(2020, 1, 1), type("Text", (str,), {})("x"), type("Number", (int,), {})(1)],
    ids=lambda body: type(body).__name__,
)
def test_a_body_that_json_would_change_is_refused_on_disk(path: str, body: Any) -> None:
    with mqlite.Queue("q", path) as q:
        with pytest.raises(mqlite.CodecError):
            q.put(body)
        assert q.qsize() == 0


def test_a_body_that_contains_itself_is_refused_on_disk(path: str) -> None:
    body: list[Any] = []
    body.append(body)
    with mqlite.Queue("q", path) as q, pytest.raises(mqlite.CodecError):
        q.put(body)


def test_a_refusal_says_what_to_do(path: str) -> None:
    with mqlite.Queue("q", path) as q, pytest.raises(mqlite.CodecError, match="codec='pickle'"):
        q.put({1, 2})


# ---------------------------------------------------------------------- codecs
def test_pickle_carries_what_json_cannot(path: str) -> None:
    body = {(1, 2): {3, 4}, "when": datetime(2020, 1, 1)}
    with mqlite.Queue("q", path, codec="pickle") as q:
        q.put(body)
        assert q.get() == body


def test_pickle_must_be_asked_for_again_at_every_open(path: str) -> None:
    with mqlite.Queue("q", path, codec="pickle") as q:
        q.put({1})
    with pytest.raises(mqlite.SettingsMismatch, match="codec='pickle'"):
        mqlite.Queue("q", path)
    with mqlite.Queue("q", path, codec="pickle") as q:
        assert q.get(timeout=0) == {1}


def test_a_queue_with_json_cannot_be_opened_with_pickle(path: str) -> None:
    mqlite.Queue("q", path).close()
    with pytest.raises(mqlite.SettingsMismatch, match="codec"):
        mqlite.Queue("q", path, codec="pickle")


def test_what_cannot_be_pickled_is_refused(path: str) -> None:
    with mqlite.Queue("q", path, codec="pickle") as q, pytest.raises(mqlite.CodecError, match="pickle"):
        q.put(lambda: None)


class Rot13:
    """A codec of the user's own."""

    def encode(self, body: Any) -> bytes:
        return bytes((b + 13) % 256 for b in repr(body).encode())

    def decode(self, data: bytes) -> Any:
        return bytes((b - 13) % 256 for b in data).decode()


class Careless:
    def encode(self, body: Any) -> Any:
        return str(body)

    def decode(self, data: bytes) -> Any:
        return data


class Failing:
    def encode(self, body: Any) -> bytes:
        raise ZeroDivisionError("inside the codec")

    def decode(self, data: bytes) -> Any:
        return data


def test_a_codec_of_the_user_s_own_encodes_and_decodes(path: str) -> None:
    with mqlite.Queue("q", path, codec=Rot13()) as q:
        q.put([1, 2])
        assert q.get() == "[1, 2]"


def test_bytes_and_str_travel_as_they_are_under_every_codec(path: str) -> None:
    with mqlite.Queue("q", path, codec=Failing()) as q:
        q.put_many([b"x", "y"])
        assert [q.get(), q.get()] == [b"x", "y"]


def test_an_error_of_the_codec_is_a_codec_error_with_its_cause(path: str) -> None:
    with mqlite.Queue("q", path, codec=Failing()) as q:
        with pytest.raises(mqlite.CodecError, match="inside the codec") as caught:
            q.put([1])
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_codec_that_returns_no_bytes_is_told_so(path: str) -> None:
    with mqlite.Queue("q", path, codec=Careless()) as q, pytest.raises(mqlite.CodecError, match="bytes"):
        q.put([1])


def test_a_queue_of_another_codec_cannot_be_opened_without_it(path: str) -> None:
    mqlite.Queue("q", path, codec=Rot13()).close()
    for options in ({}, {"codec": "json"}, {"codec": Failing()}):
        with pytest.raises(mqlite.SettingsMismatch, match="codec"):
            mqlite.Queue("q", path, **options)


# ---------------------------------------------------------------------- settings
CHANGES: list[tuple[str, Any]] = [("maxsize", 7), ("max_message_bytes", 100), ("max_deliveries", 2), ("max_deliveries", None), ("ack_timeout", 60.0), ("ack_timeout", None), ("dead_letter", False)]


@pytest.mark.parametrize(("option", "value"), CHANGES)
def test_a_setting_is_stored_and_taken_where_none_is_named(path: str, option: str, value: Any) -> None:
    with mqlite.Queue("q", path, **{option: value}):
        pass
    with mqlite.Queue("q", path) as q:
        assert getattr(q._state.options, option) == value


@pytest.mark.parametrize(("option", "value"), CHANGES)
def test_the_same_setting_may_be_named_again(path: str, option: str, value: Any) -> None:
    for _ in range(2):
        mqlite.Queue("q", path, **{option: value}).close()


@pytest.mark.parametrize(("option", "value"), CHANGES)
def test_another_setting_than_the_stored_one_is_a_mismatch(path: str, option: str, value: Any) -> None:
    with mqlite.Queue("q", path), pytest.raises(mqlite.SettingsMismatch, match=f"{option}.*configure"):
        mqlite.Queue("q", path, **{option: value})


def test_after_a_mismatch_the_store_is_not_kept_open(path: str) -> None:
    mqlite.Queue("q", path, maxsize=1).close()
    with pytest.raises(mqlite.SettingsMismatch):
        mqlite.Queue("q", path, maxsize=2)
    with mqlite.Queue("q", path, maxsize=1) as q:
        q.put(1)
        q.close()


@pytest.mark.parametrize(("option", "value"), CHANGES)
def test_configure_changes_a_setting_for_other_handles_and_the_next_open(path: str, option: str, value: Any) -> None:
    with mqlite.Queue("q", path) as q, mqlite.Queue("q", path) as other:
        q.configure(**{option: value})
        other.put(b"x")
        assert getattr(other._state.options, option) == value
    with mqlite.Queue("q", path, **{option: value}):
        pass


def test_configure_takes_several_settings(make_queue: MakeQueue) -> None:
    q = make_queue()
    q.configure(maxsize=2, max_deliveries=1)
    assert (q.maxsize, q._state.options.max_deliveries) == (2, 1)


@pytest.mark.parametrize("name", ["codec", "name", "nonsense"])
def test_configure_refuses_what_is_no_changeable_setting(q: mqlite.Queue[Any], name: str) -> None:
    with pytest.raises(TypeError, match=name):
        q.configure(**{name: "x"})


def test_a_smaller_maxsize_keeps_what_is_there_and_refuses_more(make_queue: MakeQueue) -> None:
    q = make_queue()
    q.put_many(range(5))
    q.configure(maxsize=2)
    with pytest.raises(mqlite.Full):
        q.put_nowait(5)
    assert (q.full(), [m.body for m in q.receive(10)]) == (True, list(range(5)))


def test_a_negative_maxsize_named_again_is_no_mismatch(path: str) -> None:
    for maxsize in (-1, 0, -5):
        mqlite.Queue("q", path, maxsize=maxsize).close()


def test_another_max_store_bytes_is_a_mismatch(path: str) -> None:
    mqlite.Queue("q", path, max_store_bytes=32 << 20).close()
    with pytest.raises(mqlite.SettingsMismatch, match="max_store_bytes"):
        mqlite.Queue("q", path, max_store_bytes=64 << 20)


def test_another_max_store_bytes_is_a_mismatch_while_the_store_is_open_too(path: str) -> None:
    with mqlite.Queue("q", path, max_store_bytes=32 << 20), pytest.raises(mqlite.SettingsMismatch, match="max_store_bytes"):
        mqlite.Queue("q", path, max_store_bytes=64 << 20)


def test_what_is_known_of_a_message_can_be_asked_after_it_was_settled(q: mqlite.Queue[Any]) -> None:
    q.put("a", priority=3, headers={"h": 1}, type="t")
    number = q.put("b", priority=2)
    several = q.receive(2)
    q.ack_many(several)
    assert [(m.body, m.priority, m.headers, m.type, m.acquired_count) for m in several] == [("a", 3, {"h": 1}, "t", 1), ("b", 2, {}, None, 1)]
    assert several[1].id == number


def test_the_headers_of_a_message_are_one_dict(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    [message] = q.receive()
    message.headers["seen"] = True
    assert message.headers == {"seen": True}


def test_a_message_shows_what_it_is(q: mqlite.Queue[Any]) -> None:
    number = q.put("x", headers={"h": 1})
    [message] = q.peek(1)
    assert repr(message) == (
        f"Message(body='x', id={number}, priority=0, headers={{'h': 1}}, type=None, group=None, routing_key=None, delivery_count=0, "
        "acquired_count=0, expires_at=None, reply_to=None, correlation_id=None, queue='q', death=None)"
    )
