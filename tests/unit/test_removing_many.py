"""Messages that are acknowledged together are taken out by one walk over them, which counts what it uses."""

from __future__ import annotations

from typing import Any

import pytest

import mqlite
from mqlite.log import format as fmt
from mqlite.log.lmdb_txn import LmdbTxn
from mqlite.log.space import Usage

LEVEL = "process"  # where every page is counted before it is changed


def singly_removed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What is removed one by one from now on."""
    seen: list[int] = []
    remove = LmdbTxn.remove

    def noted(self: LmdbTxn, queue: int, position: int) -> bytes | None:
        seen.append(position)
        return remove(self, queue, position)

    monkeypatch.setattr(LmdbTxn, "remove", noted)
    return seen


@pytest.mark.parametrize("size", [0, 100, 1000, 1900, 2100, 3000, 9000])
@pytest.mark.parametrize("count", [2, 10, 200])
def test_no_more_pages_are_used_than_were_counted(disk_queue: mqlite.Queue[Any], size: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    q = disk_queue
    q.put_many([b"x" * size] * 700)
    counted: list[int] = []
    seal = Usage.seal

    def noted(self: Usage) -> None:
        counted.append(self._pages())
        seal(self)

    monkeypatch.setattr(Usage, "seal", noted)
    environment = q._engine.log._environment
    q.ack_many(q.receive(50))
    with q._engine.log.read():  # no page is used again meanwhile: what is changed is new at the end of the file
        for _ in range(3):
            before = environment.last_pgno()
            counted.clear()
            messages = q.receive(count)
            q.ack_many(messages)
            assert environment.last_pgno() - before <= sum(counted)
    assert q.qsize() == 650 - 3 * count


def test_neighbours_are_removed_by_one_walk(disk_queue: mqlite.Queue[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    disk_queue.put_many(range(3000))
    singly = singly_removed(monkeypatch)
    disk_queue.ack_many(disk_queue.receive(1000))
    assert singly == []
    assert [m.body for m in disk_queue.receive(2500)] == list(range(1000, 3000))


def test_messages_with_others_between_them_are_removed_one_by_one(disk_queue: mqlite.Queue[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    disk_queue.put_many(range(10))
    singly = singly_removed(monkeypatch)
    disk_queue.ack_many(disk_queue.receive(10)[::2])
    assert len(singly) == 5
    assert disk_queue.stats().claimed == 5


@pytest.mark.parametrize("left", [b"", b"abc", b"x" * 7, b"x" * 20])
def test_a_message_that_was_damaged_while_it_was_claimed_is_removed_with_the_others(disk_queue: mqlite.Queue[Any], left: bytes) -> None:
    q = disk_queue
    q.put_many(range(5))
    messages = q.receive(5)
    position = messages[2].lease.claim.position  # type: ignore[attr-defined]
    key = fmt.message_key(fmt.queue_key(fmt.MESSAGE, q._state.id), position)
    q._engine.log.write(lambda txn: txn.put_raw(key, left))
    q.ack_many(messages)
    assert (q.stats().ready, q.stats().claimed) == (0, 0)
    q._engine.log.write(_recount(q._state.id))


def _recount(queue: int) -> Any:
    """The bytes that damage has taken are missing in the numbers of the queue."""

    def op(txn: LmdbTxn) -> None:
        counters = txn.counters(queue)
        counters.removed_bytes, counters.removed_sum = counters.put_bytes, counters.put_sum
        txn.changed = True
        txn._removed_from.add(queue)

    return op


def test_nothing_behind_the_last_message_is_touched(path: str) -> None:
    with mqlite.open(path) as broker:
        first, second = broker.queue("first"), broker.queue("second")
        second.put_many(range(50))
        first.put_many(range(100), priority=-(2**31))
        first.ack_many(first.receive(100))
        assert [m.body for m in second.receive(50)] == list(range(50))
        assert broker.check() == []
        first.put_many(range(3))
        assert [m.body for m in first.receive(3)] == [0, 1, 2]


@pytest.mark.parametrize("other", [True, False], ids=["another queue behind it", "the last queue"])
def test_batches_line_up_behind_each_other_wherever_the_queue_lies(path: str, other: bool) -> None:
    with mqlite.open(path) as broker:
        q = broker.queue("q")
        if other:
            broker.queue("z").put_many(range(10))
            q.put(0, delay=60)
        for n in range(20):
            q.put_many([n] * 30, priority=n % 2)
        assert [m.body for m in q.receive(600)] == [n for odd in (1, 0) for n in range(20) if n % 2 == odd for _ in range(30)]
        assert broker.check() == []


def test_a_batch_for_a_queue_that_was_changed_a_moment_ago_goes_by_its_new_options(path: str, children: Any) -> None:
    def change(talk: Any) -> None:
        with mqlite.Queue("q", path) as q:
            q.configure(maxbytes=1000)

    with mqlite.Queue("q", path) as q:
        q.put_many([b"x" * 100] * 2)
        child = children.fork(change)
        child.wait()
        with pytest.raises(mqlite.Full):
            q.put_many([b"x" * 100] * 6, block=False)
        assert q.put_many([b"x" * 100] * 2, block=False)
        assert q.qsize() == 4
