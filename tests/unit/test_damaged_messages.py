"""A bit that flipped on the disk: that message goes to the dead letters, the rest goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lmdb
import pytest

import mqlite
from mqlite.log import counting
from mqlite.log import format as fmt


def flip_a_bit(path: str, body: bytes, kind: bytes = fmt.MESSAGE) -> None:
    """Damage the stored message that holds `body`; the store is closed."""
    environment = lmdb.open(f"{path}/log.mdb", subdir=False, lock=False, map_size=256 << 30)
    with environment.begin(write=True) as txn:
        for key, value in txn.cursor():
            if key.startswith(kind) and body in value:
                damaged = bytearray(value)
                damaged[value.index(body)] ^= 1
                txn.put(key, bytes(damaged))
    environment.close()


@pytest.fixture
def damaged(path: str) -> str:
    """A store whose queue holds one damaged and one good message."""
    with mqlite.Queue("q", path) as q:
        q.put_many([b"damaged", b"good"])
    flip_a_bit(path, b"damaged")
    return path


TAKE: dict[str, Callable[[mqlite.Queue[Any]], Any]] = {
    "get": lambda q: q.get(timeout=10),
    "get_nowait": lambda q: q.get_nowait(),
    "receive": lambda q: q.receive(timeout=10)[0].body,
    "receive without waiting": lambda q: q.receive(timeout=0)[0].body,
    "receive of many": lambda q: q.receive(5, timeout=10)[0].body,
    "consumer": lambda q: q.consumer().receive(10).body,
    "consumer without waiting": lambda q: q.consumer().receive(0).body,
    "prefetching consumer": lambda q: q.consumer(prefetch=5).receive(10).body,
    "auto_ack": lambda q: q.consumer(auto_ack=True).receive(10).body,
}


@pytest.mark.parametrize("take", TAKE.values(), ids=TAKE.keys())
def test_the_queue_goes_on_behind_a_damaged_message(damaged: str, take: Callable[[mqlite.Queue[Any]], Any]) -> None:
    with mqlite.Queue("q", damaged) as q:
        assert take(q) == b"good"


@pytest.mark.parametrize("take", TAKE.values(), ids=TAKE.keys())
def test_a_damaged_message_goes_to_the_dead_letters(damaged: str, take: Callable[[mqlite.Queue[Any]], Any]) -> None:
    with mqlite.Queue("q", damaged) as q:
        take(q)
        [message] = q.dead.receive(timeout=0)
        assert message.death is not None
        assert message.death.reason == "corrupted"
        assert (message.death.error or "").startswith("MessageCorrupted")


def test_the_bytes_of_a_damaged_message_are_kept(damaged: str) -> None:
    with mqlite.Queue("q", damaged) as q:
        q.get()
        assert b"amaged" in q.dead.get(timeout=0)


def test_a_damaged_message_is_kept_without_a_dead_letter_queue(path: str) -> None:
    with mqlite.Queue("q", path, dead_letter=False) as q:
        q.put_many([b"damaged", b"good"])
    flip_a_bit(path, b"damaged")
    with mqlite.Queue("q", path) as q:
        q.get()
        assert q.stats().dead == 1


def test_browsing_passes_over_a_damaged_message(damaged: str) -> None:
    with mqlite.Queue("q", damaged) as q:
        assert ([m.body for m in q.browse()], [m.body for m in q.peek(5)]) == ([b"good"], [b"good"])


def test_check_finds_a_damaged_message(damaged: str) -> None:
    with mqlite.Queue("q", damaged) as q:
        problems = q.check()
    assert len(problems) == 1
    assert "checksum" in problems[0]


def test_after_a_damaged_message_was_moved_the_store_is_sound(damaged: str) -> None:
    with mqlite.Queue("q", damaged) as q:
        q.get()
        assert (q.check(), q.stats().claimed, q.stats().ready) == ([], 0, 0)


def test_a_queue_of_damaged_messages_only_is_empty_in_the_end(path: str) -> None:
    with mqlite.Queue("q", path) as q:
        q.put_many([b"damaged"] * 4)
    flip_a_bit(path, b"damaged")
    with mqlite.Queue("q", path) as q:
        with pytest.raises(mqlite.Empty):
            q.receive(2, timeout=0.01)
        assert (q.qsize(), q.stats().dead) == (0, 4)


@pytest.mark.parametrize("number", [0, 60, 99])
def test_one_damaged_message_among_many_that_are_claimed_at_once_dies_alone(path: str, number: int) -> None:
    bodies = [b"damaged" if n == number else b"%d" % n for n in range(100)]
    with mqlite.Queue("q", path) as q:
        q.put_many([b"before", *bodies])
    flip_a_bit(path, b"damaged")
    with mqlite.Queue("q", path) as q:
        q.receive()
        messages = q.receive(100)
        assert [m.body for m in messages] == [body for body in bodies if body != b"damaged"]
        q.ack_many(messages)
        assert (q.stats().claimed, q.stats().dead, q.check()) == (1, 1, [])


def test_a_damaged_dead_letter_is_not_lost(path: str) -> None:
    with mqlite.Queue("q", path) as q:
        q.put(b"damaged")
        q.receive()[0].reject()
    flip_a_bit(path, b"damaged")
    with mqlite.Queue("q", path) as q:
        [message] = q.dead.receive(timeout=1)
        assert b"amaged" in message.body


def test_damaged_settings_stop_the_open(path: str) -> None:
    mqlite.Queue("q", path).close()
    flip_a_bit(path, b"maxsize", fmt.DEFINITION)
    with pytest.raises(mqlite.StoreCorrupted, match="settings"):
        mqlite.Queue("q", path)


@pytest.mark.parametrize("key_of", [counting.put_key, counting.removed_key], ids=["put", "removed"])
def test_damaged_counters_are_never_served(path: str, key_of: Callable[[int], bytes]) -> None:
    with mqlite.Queue("q", path) as q:
        q.put_many([1, 2])
        q.get()
    environment = lmdb.open(f"{path}/log.mdb", subdir=False, lock=False, map_size=256 << 30)
    with environment.begin(write=True) as txn:
        key = key_of(1)
        value = bytearray(txn.get(key))
        value[7] ^= 1
        txn.put(key, bytes(value))
    environment.close()

    def use() -> None:
        with mqlite.Queue("q", path) as q:
            q.qsize()

    with pytest.raises(mqlite.StoreCorrupted, match="counters"):
        use()


# ---------------------------------------------------------------------- in groups
PARTS = {"flags": 7, "id": 19, "group": 43, "body": -1}


def flip_a_byte(path: str, body: bytes, at: int, kind: bytes) -> None:
    """Damage one byte of the stored message that holds `body`; the store is closed."""
    environment = lmdb.open(f"{path}/log.mdb", subdir=False, lock=False, map_size=256 << 30)
    with environment.begin(write=True) as txn:
        for key, value in txn.cursor():
            if key.startswith(kind) and body in value:
                damaged = bytearray(value)
                damaged[at] ^= 1
                txn.put(key, bytes(damaged))
    environment.close()


@pytest.mark.parametrize("part", PARTS)
def test_the_group_of_a_damaged_message_goes_on(path: str, part: str) -> None:
    with mqlite.Queue("q", path) as q:
        q.put_many([b"damaged", b"second", b"third"], group="g", ttl=3600)
    flip_a_byte(path, b"damaged", PARTS[part], fmt.MESSAGE)
    with mqlite.Queue("q", path) as q:
        assert [q.get(timeout=10), q.get(timeout=10)] == [b"second", b"third"]
        assert q.dead.qsize() == 1
        assert q.check() == []


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("how", ["due", "purged"])
def test_the_group_of_a_damaged_retry_goes_on(path: str, part: str, how: str) -> None:
    with mqlite.Queue("q", path) as q:
        q.put_many([b"damaged", b"second", b"third"], group="g")
        [first] = q.receive()
        first.nack(delay=0.01 if how == "due" else 3600)
        q.pause()
    flip_a_byte(path, b"damaged", PARTS[part], fmt.DELAYED)
    with mqlite.Queue("q", path) as other, mqlite.Queue("q", path) as q:
        if how == "purged":
            q.resume()
            with pytest.raises(mqlite.Empty):
                q.receive(timeout=0)  # the claimer passes over the rest
            assert q.purge() == 3
            q.put_many([b"second", b"third"], group="g")
        else:
            q.resume()
        assert [q.get(timeout=10), other.get(timeout=10)] == [b"second", b"third"]
        assert q.check() == []
