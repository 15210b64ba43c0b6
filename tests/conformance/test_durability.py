"""The levels of durability: chosen once, stored, the same to all above the log, and what each survives."""

from __future__ import annotations

import os
import pickle
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from fixture_types import Eventually

import mqlite
import mqlite.system.directory
from mqlite import durability
from mqlite.checks import LEVELS
from mqlite.system.control import IS_CLEAN, MAPPED, MARKED, PIN_PROCESS


@pytest.fixture(params=LEVELS)
def durable(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def another_boot(monkeypatch: pytest.MonkeyPatch) -> Any:
    """another_boot(): from now on this is another boot of the machine."""
    boots = iter(range(100))

    def boot() -> None:
        name = f"boot {next(boots)}"
        monkeypatch.setattr(mqlite.system.directory, "boot_id", lambda: name)

    return boot


def words(broker: mqlite.Broker) -> Any:
    return broker._store._control.words


# ---------------------------------------------------------------------- choosing
def test_a_new_store_has_the_level_that_was_asked_for_and_later_openings_need_not_name_it(path: str, durable: str) -> None:
    with mqlite.open(path, durability=durable) as broker:
        broker.queue("q").put("x")
    for asked in (None, durable):
        with mqlite.open(path, durability=asked) as broker:
            assert broker._store.durability == durable
            assert broker.queue("q").qsize() == 1
    assert mqlite.system.directory.StoreDirectory(path).read_marker().durability == durable


def test_the_default_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # tests make stores of other levels by default
    with mqlite.open(tmp_path / "app.mq") as broker:
        assert broker._store.durability == "full"


def test_another_level_than_the_stored_one_is_refused_also_while_the_store_is_open(path: str, durable: str) -> None:
    other = LEVELS[LEVELS.index(durable) - 1]
    with mqlite.open(path, durability=durable), pytest.raises(mqlite.SettingsMismatch, match="durability"):
        mqlite.open(path, durability=other)
    for opened in (lambda: mqlite.open(path, durability=other), lambda: mqlite.Queue("q", path, durability=other), lambda: mqlite.Topic("t", path, durability=other)):
        with pytest.raises(mqlite.SettingsMismatch, match="durability"):
            opened()


@pytest.mark.parametrize("wrong", ["fast", "", "FULL", 1, True, ["full"], b"full"])
def test_a_level_that_does_not_exist_is_refused_and_nothing_is_made(path: str, wrong: Any) -> None:
    for opened in (lambda: mqlite.open(path, durability=wrong), lambda: mqlite.open(durability=wrong), lambda: mqlite.Queue("q", path, durability=wrong)):
        with pytest.raises(ValueError, match="checkpoint"):
            opened()
    assert not os.path.exists(path)


def test_queues_and_topics_choose_it_too(tmp_path: Path, durable: str) -> None:
    with mqlite.Queue("q", tmp_path / "a.mq", durability=durable) as queue, mqlite.Topic("t", tmp_path / "b.mq", durability=durable) as topic:
        queue.put("x")
        topic.publish("y")
    for name in ("a.mq", "b.mq"):
        with mqlite.open(tmp_path / name, durability=durable) as broker:
            assert broker.check() == []


def test_in_memory_every_level_is_the_same(durable: str) -> None:
    with mqlite.open(durability=durable) as broker:
        broker.queue("q").put("x")
        broker.sync()
        assert broker.queue("q").get() == "x"


def test_a_pickled_broker_has_the_level_of_its_store(path: str, durable: str) -> None:
    with mqlite.open(path, durability=durable) as broker, pickle.loads(pickle.dumps(broker)) as again:
        assert again._store is broker._store


# ---------------------------------------------------------------------- surviving
def _put_and_hang(talk: Any, path: str, synced: bool) -> None:
    broker = mqlite.open(path)
    queue = broker.queue("q")
    queue.put_many(range(100))
    queue.ack_many(queue.receive(50))
    if synced:
        broker.sync()
        queue.put_many(range(100, 150))
    talk.say("done")
    signal.pause()


@pytest.mark.parametrize("synced", [False, True])
def test_a_killed_process_loses_nothing(path: str, durable: str, synced: bool, children: Any) -> None:
    mqlite.open(path, durability=durable).close()
    child = children.fork(_put_and_hang, path, synced)
    assert child.hear() == "done"
    child.kill()
    with mqlite.open(path) as broker:
        assert broker.check() == []
        assert [message.body for message in broker.queue("q").receive(200)] == list(range(50, 150 if synced else 100))


def test_what_was_synced_is_there_in_the_next_boot(path: str, durable: str, children: Any, another_boot: Any) -> None:
    mqlite.open(path, durability=durable).close()
    child = children.fork(_put_and_hang, path, True)
    assert child.hear() == "done"
    child.kill()
    another_boot()
    with mqlite.open(path) as broker:
        assert broker.check() == []
        bodies = [message.body for message in broker.queue("q").receive(200)]
        assert bodies[:50] == list(range(50, 100))


def test_a_closed_store_is_whole_in_the_next_boot(path: str, durable: str, another_boot: Any) -> None:
    for boot in range(3):
        with mqlite.open(path, durability=durable) as broker:
            assert broker.check() == []
            assert broker.queue("q").qsize() == 10 * boot
            broker.queue("q").put_many(range(10))
        another_boot()


def test_sync_with_nothing_new_changes_nothing(path: str, durable: str) -> None:
    with mqlite.open(path, durability=durable) as broker:
        broker.queue("q").put("x")
        broker.sync()
        with open(os.path.join(path, "log.control"), "rb") as file:
            before = file.read()[4096:]
            broker.sync()
            file.seek(4096)
            assert file.read() == before


def test_after_close_sync_raises_closed(path: str) -> None:
    broker = mqlite.open(path)
    broker.close()
    with pytest.raises(mqlite.Closed):
        broker.sync()


# ---------------------------------------------------------------------- checkpoint
def test_a_checkpoint_comes_by_itself_and_then_the_pin_goes(path: str, eventually: Eventually) -> None:
    with mqlite.open(path, durability="checkpoint") as broker:
        broker.queue("q").put("x")
        last = broker._store.log._environment.last_txnid()
        assert words(broker)[PIN_PROCESS] == os.getpid()
        eventually(lambda: words(broker)[MARKED] == last)
        eventually(lambda: words(broker)[PIN_PROCESS] == 0)
        broker.queue("q").put("y")
        assert words(broker)[PIN_PROCESS] == os.getpid()


def _put_and_die(talk: Any, path: str) -> None:
    mqlite.Queue("q", path).put("x")
    talk.say("put")
    signal.pause()


def test_who_sees_a_process_die_makes_the_checkpoint_that_it_did_not(path: str, children: Any, eventually: Eventually) -> None:
    with mqlite.open(path, durability="checkpoint") as broker:
        child = children.fork(_put_and_die, path)
        assert child.hear() == "put"
        child.kill()
        log = broker._store.log._environment
        eventually(lambda: broker.stats() and words(broker)[MARKED] == log.last_txnid())


def test_a_log_that_was_replaced_by_an_older_one_is_refused(path: str, another_boot: Any) -> None:
    log = os.path.join(path, "log.mdb")
    mqlite.open(path, durability="checkpoint").close()
    with open(log, "rb") as file:
        old = file.read()
    with mqlite.open(path) as broker:
        for number in range(5):
            broker.queue("q").put(number)
    another_boot()
    with open(log, "r+b") as file:
        file.write(old)
    with pytest.raises(mqlite.StoreCorrupted, match="replaced"):
        mqlite.open(path)


@pytest.mark.parametrize("level", ["checkpoint", "process"])
def test_without_its_marks_a_store_is_refused_in_the_next_boot(path: str, level: str, another_boot: Any) -> None:
    mqlite.open(path, durability=level).close()
    os.unlink(os.path.join(path, "log.control"))
    another_boot()
    with pytest.raises(mqlite.StoreCorrupted, match="recover"):
        mqlite.open(path)


# ---------------------------------------------------------------------- process
@pytest.mark.parametrize("mapped", [True, False])
def test_where_blocks_are_not_kept_the_log_is_written_with_plain_writes(path: str, mapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durability, "keeps_blocks", lambda log: mapped)
    with mqlite.open(path, durability="process", max_store_bytes=64 << 20) as broker:
        assert words(broker)[MAPPED] == mapped
        queue = broker.queue("q")
        queue.put_many(["x" * 1000] * 100)
        queue.ack_many(queue.receive(100))
        assert broker.check() == []
        assert (os.path.getsize(os.path.join(path, "log.mdb")) == 64 << 20) == mapped


def test_a_store_is_marked_before_it_is_changed_and_not_by_who_only_looks(path: str) -> None:
    with mqlite.open(path, durability="process") as broker:
        queue = broker.queue("q")
        broker.sync()
        assert words(broker)[IS_CLEAN]
        assert queue.peek() == []
        with pytest.raises(mqlite.Empty):
            queue.receive(timeout=0)
        assert broker.check() == []
        assert words(broker)[IS_CLEAN]
        queue.put("x")
        assert not words(broker)[IS_CLEAN]
        broker.sync()
        assert words(broker)[IS_CLEAN]


def _destroy(log: str, body: bytes) -> None:
    """Every page that holds that body, in use or not."""
    with open(log, "r+b") as file:
        content = file.read(8 << 20)
        for page in {found.start() // 4096 for found in re.finditer(body, content)}:
            file.seek(page * 4096)
            file.write(os.urandom(4096))


def test_damage_by_a_stop_of_the_machine_is_noticed_and_what_is_whole_is_saved(path: str, tmp_path: Path, children: Any, another_boot: Any) -> None:
    mqlite.open(path, durability="process", max_store_bytes=64 << 20).close()

    def child(talk: Any) -> None:
        queue = mqlite.Queue("q", path)
        for number in range(500):
            queue.put(f"a message {number}")
        assert queue.qsize() == 500  # all of them are in the log now
        talk.say("done")
        signal.pause()

    writer = children.fork(child)
    assert writer.hear() == "done"
    writer.kill()
    _destroy(os.path.join(path, "log.mdb"), b"a message 250")
    another_boot()
    for _ in range(2):
        with pytest.raises(mqlite.StoreCorrupted, match="recover"):
            mqlite.open(path)
    saved = mqlite.recover(path, tmp_path / "saved.mq")
    assert 400 < saved.messages < 500, saved
    with mqlite.open(tmp_path / "saved.mq") as broker:
        assert broker.check() == []
        assert broker.queue("q").qsize() == saved.messages


def test_a_large_group_reserves_no_more_than_a_few_times_what_it_takes(path: str) -> None:
    with mqlite.open(path, durability="process") as broker:
        for _ in range(2):
            broker.queue("q").put_many([b"x" * 100] * 5000)
        assert os.stat(os.path.join(path, "log.mdb")).st_blocks * 512 < 24 << 20
