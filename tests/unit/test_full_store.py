"""A store without room: puts are refused, and everything else goes on, so that it can drain."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from contents import fill

import mqlite
from mqlite.log import space
from mqlite.system import environment

SIZE = 16 << 20


@pytest.fixture
def tiny(path: str) -> Iterator[mqlite.Queue[Any]]:
    """A queue in the smallest store, full."""
    with mqlite.Queue("q", path, max_store_bytes=SIZE) as q:
        assert fill(q) > 100
        yield q
        assert q.check() == []


def test_puts_end_in_store_full(tiny: mqlite.Queue[Any]) -> None:
    for call in (lambda: tiny.put(b"x" * 10_000), lambda: tiny.put_many([b"x" * 10_000] * 3), lambda: tiny.put(b"x" * 10_000, timeout=0)):
        with pytest.raises(mqlite.StoreFull, match="acknowledge"):
            call()


def test_a_refused_put_stored_nothing(tiny: mqlite.Queue[Any]) -> None:
    before = tiny.qsize()
    with pytest.raises(mqlite.StoreFull):
        tiny.put_many([b"x" * 10_000] * 3)
    assert tiny.qsize() == before


def test_a_put_larger_than_the_store_is_refused_whole(path: str) -> None:
    with mqlite.Queue("q", path, max_store_bytes=SIZE) as q:
        with pytest.raises(mqlite.StoreFull):
            q.put(b"x" * (15 << 20))
        assert (q.qsize(), q.check()) == (0, [])


def test_a_batch_larger_than_the_store_is_refused_whole(path: str) -> None:
    with mqlite.Queue("q", path, max_store_bytes=SIZE) as q:
        with pytest.raises(mqlite.StoreFull):
            q.put_many([b"x" * 10_000] * 3000)
        assert (q.qsize(), q.check()) == (0, [])


@pytest.mark.parametrize(
    "drain",
    [
        lambda q: q.get(timeout=0),
        lambda q: q.receive(timeout=0)[0].ack(),
        lambda q: q.ack_many(q.receive(50, timeout=0)),
        lambda q: q.receive(timeout=0)[0].reject("no room for it"),
        lambda q: q.consumer(auto_ack=True).receive(0),
    ],
    ids=["get", "ack", "ack_many", "reject", "auto_ack"],
)
def test_a_full_store_can_be_drained_to_the_end(tiny: mqlite.Queue[Any], drain: Callable[[mqlite.Queue[Any]], Any]) -> None:
    while tiny.qsize():
        drain(tiny)
    assert (tiny.stats().ready, tiny.stats().claimed) == (0, 0)


def test_failures_are_counted_in_a_full_store(tiny: mqlite.Queue[Any]) -> None:
    for _ in range(5):
        tiny.receive(timeout=0)[0].nack(error="boom")
    assert tiny.stats().dead == 1


def test_after_draining_puts_work_again(tiny: mqlite.Queue[Any]) -> None:
    before = tiny.qsize()
    while tiny.qsize():
        tiny.ack_many(tiny.receive(20))
    assert fill(tiny) > before // 2


def test_a_full_store_can_be_filled_and_drained_again_and_again(tiny: mqlite.Queue[Any]) -> None:
    counts = []
    for _ in range(4):
        while tiny.qsize():
            tiny.ack_many(tiny.receive(100))
        counts.append(fill(tiny))
    assert min(counts) > max(counts) // 2


def test_a_few_acknowledgements_make_room_for_a_few_puts(tiny: mqlite.Queue[Any]) -> None:
    tiny.ack_many(tiny.receive(60))
    tiny.put(b"x" * 10_000)


def test_a_full_store_opens_again(path: str) -> None:
    with mqlite.Queue("q", path, max_store_bytes=SIZE) as q:
        count = fill(q)
    with mqlite.Queue("q", path) as q:
        assert (q.qsize(), len([q.get() for _ in range(count)]), q.check()) == (count, count, [])


def test_store_full_reaches_the_receipts_of_a_producer(tiny: mqlite.Queue[Any]) -> None:
    producer = tiny.producer()
    receipts = [producer.put(b"x" * 10_000) for _ in range(5)]
    with pytest.raises(mqlite.StoreFull):
        producer.close()
    assert all(isinstance(receipt.error, mqlite.StoreFull) for receipt in receipts)


def test_store_full_is_not_full(tiny: mqlite.Queue[Any]) -> None:
    assert not tiny.full()  # waiting for room in the queue would not help


def test_small_messages_fill_and_drain_a_store_too(path: str) -> None:
    with mqlite.Queue("q", path, max_store_bytes=SIZE) as q:
        count = fill(q, b"x" * 50)
        taken = 0
        while q.qsize():
            messages = q.receive(500)
            q.ack_many(messages)
            taken += len(messages)
        assert (taken, q.check()) == (count, [])


# ---------------------------------------------------------------------- the disk is full
def no_room(fd: int, start: int, size: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_gives_no_more_blocks_refuses_puts_and_drains(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with mqlite.Queue("q", path) as q:
        q.put(b"first")
        monkeypatch.setattr(space, "reserve", no_room)
        count = fill(q)
        while q.qsize():
            q.get(timeout=0)
        assert (count > 0, q.check()) == (True, [])


def test_when_the_disk_has_room_again_puts_work_again(path: str, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]) -> None:
    with mqlite.Queue("q", path) as q:
        with monkeypatch.context() as full:
            full.setattr(space, "reserve", no_room)
            fill(q)

        def put() -> bool:
            try:
                q.put(b"x" * 10_000)
            except mqlite.StoreFull:
                return False
            return True

        eventually(put)


def test_a_store_that_cannot_be_made_for_want_of_room_says_so(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "reserve", no_room)
    with pytest.raises(mqlite.StoreFull, match="room"):
        mqlite.Queue("q", path)


def test_a_store_that_could_not_be_made_for_want_of_room_is_made_later(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr(environment, "reserve", no_room)
        with pytest.raises(mqlite.StoreFull):
            mqlite.Queue("q", path)
    with mqlite.Queue("q", path) as q:
        q.put(1)
        assert q.get() == 1


def test_a_really_full_disk_refuses_puts_and_drains_and_takes_puts_again(small_disk: str, fill_disk: Callable[[], None]) -> None:
    with mqlite.Queue("q", os.path.join(small_disk, "app.mq")) as q:
        count = fill(q)
        fill_disk()
        taken = 0
        while q.qsize():
            q.receive(timeout=0)[0].ack()
            taken += 1
        again = fill(q)
        assert (taken, again > count // 2, q.check()) == (count, True, [])


def test_messages_can_be_rejected_on_a_really_full_disk(small_disk: str) -> None:
    with mqlite.Queue("q", os.path.join(small_disk, "app.mq")) as q:
        count = fill(q)
        for _ in range(count):
            q.receive(timeout=0)[0].reject("why")
        assert (q.stats().dead, q.check()) == (count, [])


def test_after_a_commit_that_failed_messages_are_received_at_once(path: str) -> None:
    """What was read in it is in doubt, the settings too."""
    with mqlite.Queue("q", path) as q:
        q.put("first")
        q._engine.log.after_failure()
        [message] = q.receive(timeout=0)
        message.ack()
        assert q.empty()
