"""A compaction: the disk has its room back, and everything goes on as if nothing had happened."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fixture_types import InThread, UntilWaiting

import mqlite
import mqlite.system.directory
from mqlite.checks import LEVELS

GUARD = 60.0
BODY = "x" * 10_000
MESSAGES = 1000


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def broker(path: str, level: str) -> Iterator[mqlite.Broker]:
    with mqlite.open(path, durability=level) as opened:
        yield opened
        assert opened.check() == []


def disk_bytes(path: str) -> int:
    return os.stat(os.path.join(path, "log.mdb")).st_blocks * 512


def make_free_pages(broker: mqlite.Broker, left: int = 100) -> mqlite.Queue[Any]:
    """A queue with so many messages, in a file for ten times as many."""
    queue = broker.queue("q")
    queue.put_many([BODY] * MESSAGES)
    queue.ack_many(queue.receive(MESSAGES - left))
    return queue


def test_a_compaction_gives_the_disk_back_what_is_free(broker: mqlite.Broker, path: str) -> None:
    queue = make_free_pages(broker)
    found = disk_bytes(path)
    before, after = broker.compact()
    assert before == found > 12_000_000
    assert after == disk_bytes(path) < 8_800_000
    assert broker.check() == []
    assert [message.body for message in queue.receive(MESSAGES)] == [BODY] * 100
    names = {"store.json", "log.mdb", "log.mdb-lock", "log.control", "open.lock", "run"}
    assert set(os.listdir(path)) - {"log.front"} == names


def test_where_nothing_is_gained_nothing_is_done(broker: mqlite.Broker, path: str) -> None:
    inode = os.stat(os.path.join(path, "log.mdb")).st_ino
    before, after = broker.compact()
    assert before == after
    assert os.stat(os.path.join(path, "log.mdb")).st_ino == inode


@pytest.mark.parametrize("odd", [0, 1])
def test_all_that_is_held_and_known_goes_on(broker: mqlite.Broker, path: str, odd: int, children: Any) -> None:
    """Of an odd last commit LMDB looks for the tree in another page than of an even one."""
    queue = make_free_pages(broker)
    other = broker.queue("other", max_deliveries=2)
    for number in range(4 + odd):
        other.put(number)
    acked, nacked, released, returned = other.receive(4)
    returned.nack()
    with other.consumer(prefetch=2) as consumer:
        kept = consumer.receive()
        assert broker.compact()[1] < 8_800_000
        acked.ack()
        nacked.nack()
        released.release()
        kept.ack()
    assert other.stats().claimed == 0
    assert kept.delivery_count == 1
    queue.put("new")
    with pytest.raises(mqlite.NotClaimed):
        acked.ack()
    assert broker.check() == []

    def child(talk: Any) -> None:
        with mqlite.open(path) as here:
            messages = here.queue("other").receive(10)
            talk.say({str(message.body): message.delivery_count for message in messages})
            here.queue("other").ack_many(messages)
            talk.say(here.check())

    forked = children.fork(child)
    assert forked.hear() == {"1": 1, "2": 0, **({"4": 0} if odd else {})}
    assert forked.hear() == []
    forked.end()


def test_many_compactions_with_changes_in_between_keep_every_message(broker: mqlite.Broker) -> None:
    queue = broker.queue("q")
    expected: list[int] = []
    for turn in range(4):
        queue.put_many([[turn * 1000 + number, BODY] for number in range(700 + turn)])
        expected += range(turn * 1000, turn * 1000 + 700 + turn)
        messages = queue.receive(650)
        queue.ack_many(messages)
        assert [message.body[0] for message in messages] == expected[:650]
        del expected[:650]
        before, after = broker.compact()
        assert after < before
        assert broker.check() == []
    assert [message.body[0] for message in queue.receive(MESSAGES)] == expected


def test_threads_that_wait_are_woken_by_a_put_afterwards(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    make_free_pages(broker)
    queue = broker.queue("other")
    waiting = [in_thread(queue.get, timeout=GUARD) for _ in range(3)]
    until_waiting(queue, n=3)
    broker.compact()
    queue.put_many([1, 2, 3])
    assert sorted(each.result(GUARD) for each in waiting) == [1, 2, 3]


def test_threads_at_work_notice_nothing(broker: mqlite.Broker, in_thread: InThread) -> None:
    queue = broker.queue("other")
    got: list[int] = []

    def put() -> None:
        for number in range(300):
            queue.put(number)

    def take() -> None:
        while len(got) < 600:
            [message] = queue.receive(timeout=GUARD)
            got.append(message.body)
            message.ack()

    working = [in_thread(put), in_thread(put), in_thread(take)]
    for _ in range(3):
        make_free_pages(broker, left=0)
        broker.compact()
    for each in working:
        each.result(GUARD)
    assert sorted(got) == sorted([*range(300), *range(300)])


def test_a_fork_waits_for_a_compaction_and_both_processes_go_on(broker: mqlite.Broker, in_thread: InThread, children: Any) -> None:
    queue = make_free_pages(broker, left=0)
    forked: list[Any] = []

    def child(talk: Any) -> None:
        queue.put("from the child")
        talk.say(queue.check())

    def progress(done: int, total: int) -> None:
        if not forked:
            forked.append(in_thread(children.fork, child))

    assert broker.compact(progress=progress)[1] < 8_800_000
    other = forked[0].result(GUARD)
    assert other.hear() == []
    other.end()
    assert queue.get(timeout=GUARD) == "from the child"


def test_a_forked_process_that_has_not_used_the_store_yet_goes_on_with_the_new_file(broker: mqlite.Broker, children: Any) -> None:
    queue = make_free_pages(broker)

    def child(talk: Any) -> None:
        talk.hear()
        talk.say(len(queue.receive(MESSAGES)))
        queue.put("from the child")
        talk.say(queue.check())
        talk.hear()

    forked = children.fork(child)
    assert broker.compact()[1] < 8_800_000
    forked.say("go")
    assert forked.hear() == 100
    assert forked.hear() == []
    assert queue.stats().claimed == 100
    assert queue.get(timeout=GUARD) == "from the child"
    forked.say("end")
    forked.end()
    assert queue.get(timeout=GUARD) == BODY


def test_a_process_that_opens_the_store_meanwhile_waits_and_shares_the_claims(broker: mqlite.Broker, path: str, children: Any) -> None:
    queue = make_free_pages(broker)
    held = queue.receive(50)
    opens: list[Any] = []

    def child(talk: Any) -> None:
        talk.say("opens")
        with mqlite.open(path) as here:
            talk.say(here.queue("q").stats().claimed)
            talk.say(here.check())

    forked = children.fork(_told(child))

    def progress(done: int, total: int) -> None:
        if not opens:
            opens.append(forked.say("go"))
            assert forked.hear() == "opens"

    assert broker.compact(progress=progress)[1] < 8_800_000
    assert forked.hear() == 50
    assert forked.hear() == []
    forked.end()
    queue.ack_many(held)


def _told(function: Callable[[Any], None]) -> Callable[[Any], None]:
    def wait(talk: Any) -> None:
        talk.hear()
        function(talk)

    return wait


@pytest.mark.parametrize("use", [lambda queue: queue.peek(), lambda queue: queue.receive()], ids=["reads", "takes"])
def test_while_another_process_uses_the_store_there_is_no_compaction(broker: mqlite.Broker, path: str, children: Any, use: Callable[[Any], Any]) -> None:
    make_free_pages(broker)

    def child(talk: Any) -> None:
        with mqlite.open(path) as here:
            use(here.queue("q"))
            talk.say("open")
            talk.hear()

    forked = children.fork(child)
    forked.hear()
    size = disk_bytes(path)
    with pytest.raises(mqlite.StoreError, match="another process"):
        broker.compact()
    assert disk_bytes(path) >= size
    forked.say("close")
    forked.end()
    broker.compact()
    assert disk_bytes(path) < size


def test_while_the_store_is_copied_there_is_no_compaction(broker: mqlite.Broker, path: str) -> None:
    make_free_pages(broker, left=400)
    refused = []

    def progress(done: int, total: int) -> None:
        if not done:
            with pytest.raises(mqlite.StoreError, match="another process"):
                broker.compact()
            refused.append(done)

    broker.backup(path + ".copy", progress=progress)
    assert refused
    broker.compact()
    with mqlite.open(path + ".copy") as copy:
        assert copy.check() == []
        assert copy.queue("q").stats().ready == 400


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_of_progress_ends_it_and_changes_nothing(broker: mqlite.Broker, path: str, error: type[BaseException]) -> None:
    queue = make_free_pages(broker)
    size = disk_bytes(path)

    def progress(done: int, total: int) -> None:
        if done:
            raise error

    with pytest.raises(error):
        broker.compact(progress=progress)
    assert disk_bytes(path) >= size
    assert not os.path.exists(os.path.join(path, "log.mdb.new"))
    queue.put("goes on")
    broker.compact()
    assert disk_bytes(path) < size


def test_without_room_for_the_copy_nothing_is_changed(small_disk: str, fill_disk: Callable[[], None], level: str) -> None:
    with mqlite.open(os.path.join(small_disk, "app.mq"), durability=level) as broker:
        queue = broker.queue("q")
        for _ in range(20):
            queue.put_many([BODY] * 10)
        for _ in range(10):
            queue.ack_many(queue.receive(10))
        fill_disk()
        with pytest.raises(mqlite.StoreFull, match="nothing was changed"):
            broker.compact()
        assert broker.check() == []
        queue.ack_many(queue.receive(100))
        os.unlink(os.path.join(small_disk, "filler"))
        queue.put("fits again")
        assert broker.compact()[1] < 8_800_000
        assert queue.get(timeout=0) == "fits again"
        assert broker.check() == []


def test_on_a_full_disk_a_compacted_store_refuses_puts_and_can_be_worked_off(small_disk: str, fill_disk: Callable[[], None], level: str) -> None:
    path = os.path.join(small_disk, "app.mq")
    with mqlite.open(path, durability=level) as broker:
        queue = broker.queue("q")
        for _ in range(20):
            queue.put_many([BODY] * 10)
        for _ in range(10):
            queue.ack_many(queue.receive(10))
        before, after = broker.compact()
        assert after < before
        fill_disk()
        stored = 100
        with contextlib.suppress(mqlite.StoreFull):
            while stored < 1000:
                queue.put(BODY)
                stored += 1
        assert stored < 700
        while stored:
            messages = queue.receive(50)
            queue.ack_many(messages)
            stored -= len(messages)
        assert queue.stats().ready == 0
        assert broker.check() == []
        for _ in range(50):
            queue.put(BODY)


def test_after_a_power_cut_a_compacted_store_is_whole(path: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with mqlite.open(path, durability=level) as broker:
        make_free_pages(broker)
        broker.compact()
        broker.queue("q").put("after")
        broker.sync()
    monkeypatch.setattr(mqlite.system.directory, "boot_id", lambda: "another boot")
    with mqlite.open(path) as broker:
        assert broker.check() == []
        assert broker.queue("q").stats().ready == 101
        broker.compact()
        assert broker.check() == []


def test_a_broker_in_memory_has_nothing_to_compact() -> None:
    with mqlite.open() as broker, pytest.raises(mqlite.NotSupported, match="in memory"):
        broker.compact()


def test_a_closed_broker_cannot_be_compacted(path: str) -> None:
    broker = mqlite.open(path)
    broker.close()
    with pytest.raises(mqlite.Closed):
        broker.compact()
