"""A backup of a store in use: what is in it, where it may go, and that nothing is left behind of one that fails."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixture_types import Eventually

import mqlite
import mqlite.system.directory
from mqlite.checks import LEVELS

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def broker(path: str) -> Iterator[mqlite.Broker]:
    with mqlite.open(path) as opened:
        yield opened
        assert opened.check() == []


@pytest.fixture
def target(tmp_path: Path) -> str:
    return os.path.join(tmp_path, "copy.mq")


@pytest.fixture
def opened() -> Iterator[Callable[[str], mqlite.Broker]]:
    """opened(path): a broker whose store is in order, and is closed at the end."""
    brokers: list[mqlite.Broker] = []

    def open_it(path: str) -> mqlite.Broker:
        brokers.append(mqlite.open(path))
        assert brokers[-1].check() == []
        return brokers[-1]

    yield open_it
    for one in brokers:
        one.close()


def only_the_store(path: str) -> bool:
    """Whether nothing else lies beside it."""
    return os.listdir(os.path.dirname(path)) == [os.path.basename(path)]


# ---------------------------------------------------------------------- what is in it
def test_a_backup_has_everything_but_claims(broker: mqlite.Broker, target: str, opened: Callable[[str], mqlite.Broker]) -> None:
    queue = broker.queue("q", maxsize=100, max_deliveries=1)
    for number in range(5):
        queue.put(number, priority=number, headers={"n": number})
    queue.put("later", delay=3600)
    big = queue.put("b" * 100_000, priority=-1)
    queue.receive()[0].reject("bad")  # 4
    [held] = queue.receive()  # 3
    topic = broker.topic("events", retention="limits")
    topic.subscribe("s", "a.*")
    topic.publish("kept", "a.b")
    broker.table("t")["key"] = {"value": 1}
    with broker.transaction() as tx:
        assert tx.once("seen")
    broker.backup(target)
    held.ack()
    copy = opened(target)
    other = copy.queue("q")
    assert (other.maxsize, other.stats().delayed, other.stats().claimed, other.stats().dead) == (100, 1, 0, 1)
    assert [(message.body, message.headers) for message in other.receive(4)] == [(n, {"n": n}) for n in (3, 2, 1, 0)]
    assert [(message.id, len(message.body)) for message in other.receive()] == [(big, 100_000)]
    with other.dead as dead:
        assert [(message.body, message.death and message.death.error) for message in dead.peek(10)] == [(4, "bad")]
    assert [message.body for message in copy.topic("events").subscribe("s").receive()] == ["kept"]
    assert dict(copy.table("t")) == {"key": {"value": 1}}
    with copy.transaction() as tx:
        assert not tx.once("seen")


def test_the_copy_and_the_original_are_stores_of_their_own(broker: mqlite.Broker, target: str, opened: Callable[[str], mqlite.Broker]) -> None:
    queue = broker.queue("q")
    queue.put("both")
    [held] = queue.receive()
    broker.backup(target)
    other = opened(target).queue("q")
    [same] = other.receive()
    assert same.id == held.id
    held.ack()
    assert other.stats().claimed == 1
    same.nack()
    assert (queue.stats().ready, other.stats().ready) == (0, 1)


def test_a_backup_put_in_the_place_of_the_original_goes_on_from_there(path: str, target: str) -> None:
    with mqlite.open(path) as broker:
        first = broker.queue("q").put("kept")
        broker.backup(target)
        broker.queue("q").put("lost")
        broker.queue("q").receive()
    shutil.rmtree(path)
    os.rename(target, path)
    with mqlite.open(path) as broker:
        assert broker.check() == []
        assert [message.id for message in broker.queue("q").receive(5)] == [first]
        assert broker.queue("q").put("new") > first
        assert broker.check() == []


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("asked", [None, *LEVELS])
def test_a_backup_is_on_the_disk_at_each_level_and_has_the_level_that_was_asked_for(
    path: str, target: str, level: str, asked: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mqlite.open(path, durability=level) as broker:
        broker.queue("q").put_many(range(100))
        broker.backup(target, durability=asked)
    monkeypatch.setattr(mqlite.system.directory, "boot_id", lambda: "another boot")
    with mqlite.open(target, durability=asked or level) as copy:
        assert copy.check() == []
        queue = copy.queue("q")
        assert [message.body for message in queue.receive(100)] == list(range(100))
        queue.put("goes on")
        assert copy.check() == []


def test_a_backup_of_a_backup_has_the_same_messages(broker: mqlite.Broker, tmp_path: Path, opened: Callable[[str], mqlite.Broker]) -> None:
    broker.queue("q").put_many(range(10))
    broker.backup(tmp_path / "first.mq")
    opened(str(tmp_path / "first.mq")).backup(tmp_path / "second.mq")
    assert [message.body for message in opened(str(tmp_path / "second.mq")).queue("q").browse()] == list(range(10))


def test_pages_that_are_free_are_left_out(broker: mqlite.Broker, path: str, target: str) -> None:
    queue = broker.queue("q")
    queue.put_many(["x" * 10_000] * 1000)
    queue.ack_many(queue.receive(1000))
    broker.backup(target)
    assert os.path.getsize(os.path.join(path, "log.mdb")) > 10_000_000
    used = os.stat(os.path.join(target, "log.mdb")).st_blocks * 512
    assert used < 200_000


def test_a_store_on_a_full_disk_can_be_restored_and_worked_off(broker: mqlite.Broker, target: str, small_disk: str, fill_disk: Callable[[], None], opened: Callable[[str], mqlite.Broker]) -> None:
    broker.queue("q").put_many(["x" * 1000] * 1000)
    broker.backup(target)
    restored = shutil.copytree(target, os.path.join(small_disk, "app.mq"))
    with mqlite.open(restored):
        fill_disk()
    queue = opened(restored).queue("q")
    with pytest.raises(mqlite.StoreFull):
        queue.put("y" * 8_000_000)
    for _ in range(10):
        queue.ack_many(queue.receive(100))
    assert queue.stats().ready == 0
    queue.close()


# ---------------------------------------------------------------------- progress
def test_progress_is_told_from_nothing_to_all(broker: mqlite.Broker, target: str) -> None:
    broker.queue("q").put_many(["x" * 10_000] * 500)
    told: list[tuple[int, int]] = []
    broker.backup(target, progress=lambda done, total: told.append((done, total)))
    total = told[0][1]
    assert total > 5_000_000
    assert {each[1] for each in told} == {total}
    assert [each[0] for each in told] == sorted({each[0] for each in told})
    assert (told[0][0], told[-1][0]) == (0, total)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [1, 3])
def test_an_error_of_progress_ends_the_backup_and_leaves_nothing(broker: mqlite.Broker, path: str, target: str, error: type[BaseException], call: int) -> None:
    broker.queue("q").put_many(["x" * 10_000] * 500)
    calls = 0

    def progress(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise error

    with pytest.raises(error):
        broker.backup(target, progress=progress)
    assert calls == call
    assert only_the_store(path)
    broker.backup(target)


# ---------------------------------------------------------------------- where it may go
def test_an_empty_directory_becomes_the_backup_and_keeps_its_mode(broker: mqlite.Broker, target: str) -> None:
    os.mkdir(target)
    os.chmod(target, 0o750)
    broker.backup(target)
    assert stat.S_IMODE(os.stat(target).st_mode) == 0o750
    assert sorted(os.listdir(target)) == ["log.control", "log.mdb", "store.json"]


def test_what_a_backup_makes_is_for_this_user_alone(broker: mqlite.Broker, target: str) -> None:
    broker.backup(Path(target))
    modes = {stat.S_IMODE(os.stat(os.path.join(target, name)).st_mode) for name in ("log.mdb", "store.json")}
    assert (stat.S_IMODE(os.stat(target).st_mode), modes) == (0o700, {0o600})


def test_a_target_that_cannot_be_used_is_refused_and_left_as_it_was(broker: mqlite.Broker, path: str, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter").write_text("mine")
    for target, problem in (
        (full, "not empty"),
        (full / "letter", "no directory"),
        (tmp_path / "missing" / "copy", "parent"),
        (path, "not empty"),
        (Path(path) / "inside", "in the store itself"),
        ("/proc/copy", "cannot be written"),
        ("", "non-empty"),
    ):
        with pytest.raises(mqlite.StoreError, match=problem):
            broker.backup(target)
    with pytest.raises(TypeError):
        broker.backup(None)  # type: ignore[arg-type]
    assert (full / "letter").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["app.mq", "full"]
    assert "inside" not in os.listdir(path)


def test_a_level_that_does_not_exist_is_refused(broker: mqlite.Broker, path: str, target: str) -> None:
    with pytest.raises(ValueError, match="hope"):
        broker.backup(target, durability="hope")
    assert only_the_store(path)


def test_a_target_without_room_is_refused_and_nothing_is_left(broker: mqlite.Broker, small_disk: str, fill_disk: Callable[[], None]) -> None:
    fill_disk()
    broker.queue("q").put_many(["x" * 10_000] * 100)
    with pytest.raises(mqlite.StoreFull, match="room"):
        broker.backup(os.path.join(small_disk, "copy.mq"))
    assert os.listdir(small_disk) == ["filler"]


def test_a_directory_where_a_file_system_is_mounted_is_refused(broker: mqlite.Broker, small_disk: str) -> None:
    with pytest.raises(mqlite.StoreError, match="file system is mounted"):
        broker.backup(small_disk)


def test_what_a_killed_backup_left_is_overwritten(broker: mqlite.Broker, path: str, target: str, opened: Callable[[str], mqlite.Broker]) -> None:
    broker.queue("q").put("here")
    os.mkdir(target + ".part")
    Path(target + ".part", "log.mdb.part").write_bytes(os.urandom(1 << 20))
    with pytest.raises(mqlite.StoreError, match="not a store"):
        mqlite.open(target + ".part")
    broker.backup(target)
    assert sorted(os.listdir(os.path.dirname(path))) == ["app.mq", "copy.mq"]
    assert opened(target).queue("q").get(timeout=0) == "here"


def test_something_else_in_the_place_of_the_unfinished_copy_is_left_alone(broker: mqlite.Broker, target: str) -> None:
    os.mkdir(target + ".part")
    Path(target + ".part", "letter").write_text("mine")
    with pytest.raises(mqlite.StoreError, match="'letter'"):
        broker.backup(target)
    assert Path(target + ".part", "letter").read_text() == "mine"


def test_two_backups_at_once_to_one_target_do_not_meet(broker: mqlite.Broker, target: str, opened: Callable[[str], mqlite.Broker]) -> None:
    refused = []

    def meanwhile(done: int, total: int) -> None:
        with pytest.raises(mqlite.StoreError, match="another backup"):
            broker.backup(target)
        refused.append(done)

    broker.queue("q").put("here")
    broker.backup(target, progress=meanwhile)
    assert refused
    assert opened(target).queue("q").get(timeout=0) == "here"


# ---------------------------------------------------------------------- who may not
def test_a_broker_in_memory_has_no_backup(target: str) -> None:
    with mqlite.open() as broker, pytest.raises(mqlite.NotSupported, match="in memory"):
        broker.backup(target)


def test_a_closed_broker_has_no_backup(path: str, target: str) -> None:
    broker = mqlite.open(path)
    broker.close()
    with pytest.raises(mqlite.Closed):
        broker.backup(target)


def test_without_a_python_to_start_there_is_no_backup(broker: mqlite.Broker, path: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for executable in ("", os.path.join(path, "missing"), shutil.which("false") or "/bin/false"):
        monkeypatch.setattr("sys.executable", executable)
        with pytest.raises(mqlite.StoreError):
            broker.backup(target)
        assert only_the_store(path)


def test_a_store_that_is_damaged_has_no_backup(path: str, target: str) -> None:
    with mqlite.open(path) as broker:
        broker.queue("q").put_many(["x" * 1000] * 1000)
        with open(os.path.join(path, "log.mdb"), "r+b") as log:
            for page in range(2, 200):
                os.pwrite(log.fileno(), os.urandom(64), page * PAGE)
        with pytest.raises(mqlite.StoreCorrupted, match="damaged"):
            broker.backup(target)
        assert only_the_store(path)


# ---------------------------------------------------------------------- who waits for it, and who does not
def test_a_backup_begins_when_nobody_opens_the_store(broker: mqlite.Broker, path: str, target: str, in_thread: Any, eventually: Eventually) -> None:
    """Who opens may upgrade the store, and a compaction changes its file."""
    with open(os.path.join(path, "open.lock"), "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told: list[int] = []
        backup = in_thread(broker.backup, target, progress=lambda done, total: told.append(done))
        eventually(lambda: os.path.exists(target + ".part"))
        assert not told
    backup.result(30)
    assert told
