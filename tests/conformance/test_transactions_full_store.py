"""Transactions in a store that is full: nothing is done in part, what only takes away works, and makes room."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from contents import fill
from topic_things import held
from transaction_things import Everything, counts

import mqlite

SMALL = 16 << 20
#: More than the disk has, so that it is the disk that is full.
STORE_BYTES = 1 << 30
BODY = b"x" * 10_000
Fill = Callable[[], None]


@pytest.fixture
def small(path: str) -> Iterator[mqlite.Broker]:
    """A small store."""
    with mqlite.open(path, max_store_bytes=SMALL) as broker:
        yield broker
        assert broker.check() == []


@pytest.fixture
def on_small_disk(small_disk: str) -> Iterator[mqlite.Broker]:
    """A store on a small disk."""
    with mqlite.open(os.path.join(small_disk, "app.mq"), max_store_bytes=STORE_BYTES) as broker:
        yield broker
        assert broker.check() == []


def fill_table(broker: mqlite.Broker, name: str = "filler") -> int:
    """Rows until the store is full, at last small ones; how many there was room for."""
    table, count, size = broker.table(name), 0, 20_000
    while size > 10:
        try:
            with broker.transaction() as tx:
                mine = tx.table(name)
                for number in range(count, count + (50 if size == 20_000 else 1)):
                    mine[number] = b"x" * size
            count = len(table)
        except mqlite.StoreFull:
            if size == 20_000:
                size = 10_000
            else:
                size //= 2
    return count


# ---------------------------------------------------------------------- refused
def test_a_full_store_refuses_everything_of_a_transaction(small: mqlite.Broker) -> None:
    everything = Everything(small)
    count = fill(small.queue("filler"))
    assert count > 100
    for _ in range(3):
        tx = small.transaction()
        everything.stage(tx)
        large = everything.out.put(BODY * 20, tx=tx)
        with pytest.raises(mqlite.StoreFull):
            tx.commit()
        assert (type(large.error), type(everything.receipts[0].error), tx.is_open) == (mqlite.StoreFull, mqlite.StoreFull, False)
        everything.assert_nothing_happened()
    assert small.queue("filler").qsize() == count
    everything.settle()


def test_a_full_store_refuses_rows(small: mqlite.Broker) -> None:
    table = small.table("t")
    table["k"] = "small"
    fill_table(small)
    for write in (lambda: table.__setitem__("k", BODY * 20), lambda: table.setdefault("new", BODY * 20)):
        with pytest.raises(mqlite.StoreFull):
            write()
    tx = small.transaction()
    tx.table("t").update(k="changed", new=BODY * 20)
    with pytest.raises(mqlite.StoreFull):
        tx.commit()
    assert dict(table) == {"k": "small"}


def test_a_transaction_that_is_larger_than_the_store_is_refused_whole(small: mqlite.Broker) -> None:
    q = small.queue("q")
    tx = small.transaction()
    for number in range(30):
        q.put(bytes([number]) * (1 << 20), tx=tx)
        tx.table("t")[number] = number
    with pytest.raises(mqlite.StoreFull):
        tx.commit()
    assert (counts(q), small.tables()) == ((0, 0, 0, 0), [])
    with small.transaction() as tx:
        q.put(b"fits", tx=tx)
    assert counts(q) == (1, 0, 0, 0)


# ---------------------------------------------------------------------- taken away
def test_transactions_of_acknowledgements_work_off_a_full_store(small: mqlite.Broker) -> None:
    q = small.queue("filler")
    count = fill(q)
    done = 0
    while counts(q)[0]:
        found = q.receive(20, timeout=0)
        with small.transaction() as tx:
            found[0].ack(tx=tx)
            q.ack_many(found[1:], tx=tx)
        done += len(found)
    assert (done, counts(q)) == (count, (0, 0, 0, 0))
    assert fill(q) > count // 2


def test_an_acknowledgement_of_one_message_after_the_other(small: mqlite.Broker) -> None:
    q = small.queue("filler")
    count = fill(q)
    for message in held(q):
        with small.transaction() as tx:
            message.ack(tx=tx)
        count -= 1
    assert (count, counts(q)) == (0, (0, 0, 0, 0))


def test_rows_of_a_full_store_are_deleted(small: mqlite.Broker) -> None:
    count = fill_table(small)
    assert count > 100
    table = small.table("filler")
    for key in list(table)[: count // 4]:
        del table[key]
    with small.transaction() as tx:
        mine = tx.table("filler")
        for key in list(mine)[: count // 4]:
            mine.pop(key)
    assert len(table) == count - 2 * (count // 4)
    table["again"] = BODY
    table.clear()
    assert (len(table), dict(table)) == (0, {})
    assert fill_table(small) > count // 2


def test_messages_and_rows_go_in_one_transaction(small: mqlite.Broker) -> None:
    q = small.queue("q")
    with small.transaction() as tx:
        for number in range(20):
            q.put(BODY, tx=tx)
            tx.table("t")[number] = BODY
    fill(small.queue("filler"))
    found = held(q)
    with small.transaction() as tx:
        q.ack_many(found, tx=tx)
        tx.table("t").clear()
    assert (counts(q), len(small.table("t"))) == ((0, 0, 0, 0), 0)


# ---------------------------------------------------------------------- a disk without a free block
def test_on_a_full_disk_a_transaction_is_refused_whole(on_small_disk: mqlite.Broker, fill_disk: Fill) -> None:
    everything = Everything(on_small_disk)
    fill(on_small_disk.queue("filler"))
    fill_disk()
    tx = on_small_disk.transaction()
    everything.stage(tx)
    everything.out.put(BODY * 20, tx=tx)
    with pytest.raises(mqlite.StoreFull):
        tx.commit()
    everything.assert_nothing_happened()
    everything.settle()
    assert counts(everything.work) == (0, 0, 0, 0)


@pytest.mark.parametrize("at_once", [1, 30])
def test_on_a_full_disk_transactions_of_acknowledgements_work(on_small_disk: mqlite.Broker, fill_disk: Fill, at_once: int) -> None:
    q = on_small_disk.queue("filler")
    count = fill(q)
    fill_disk()
    done = 0
    while counts(q)[0]:
        found = q.receive(at_once, timeout=0)
        with on_small_disk.transaction() as tx:
            q.ack_many(found, tx=tx)
        done += len(found)
    assert done == count
    assert fill(q) > count // 2


def test_on_a_full_disk_rows_are_deleted_and_make_room(on_small_disk: mqlite.Broker, fill_disk: Fill) -> None:
    count = fill_table(on_small_disk)
    fill_disk()
    table = on_small_disk.table("filler")
    keys: list[Any] = list(table)
    for key in keys[: count // 2]:
        del table[key]
    with on_small_disk.transaction() as tx:
        mine = tx.table("filler")
        for key in keys[count // 2 : count - 10]:
            del mine[key]
    assert list(table) == keys[count - 10 :]
    table["again"] = BODY
    assert table["again"] == BODY


def test_on_a_full_disk_what_was_read_is_still_checked(on_small_disk: mqlite.Broker, fill_disk: Fill) -> None:
    table, q = on_small_disk.table("t"), on_small_disk.queue("q")
    table.update(a=1, b=2)
    q.put("x")
    [message] = q.receive(timeout=0)
    fill(on_small_disk.queue("filler"))
    fill_disk()
    tx = on_small_disk.transaction()
    assert tx.table("t")["a"] == 1
    message.ack(tx=tx)
    del table["a"]
    with pytest.raises(mqlite.Conflict):
        tx.commit()
    message.ack()
    assert (counts(q), dict(table)) == ((0, 0, 0, 0), {"b": 2})
