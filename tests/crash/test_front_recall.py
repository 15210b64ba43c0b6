"""Messages that had not reached the tree (log/front.py) when the machine stopped, or the store was copied or is damaged."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mqlite
import mqlite.log.front
import mqlite.system.directory
from mqlite.log import front_file as layout

GUARD = 60.0
COUNT = 30


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The front is opened by the second of two plain operations."""
    monkeypatch.setattr(mqlite.log.front, "FEWEST", 1)


@pytest.fixture
def reboot(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What is done next is done in another boot."""
    boots: list[str] = []

    def next_boot() -> None:
        boots.append(f"boot {len(boots)}")
        monkeypatch.setattr(mqlite.system.directory, "boot_id", lambda: boots[-1])

    return next_boot


@pytest.fixture(params=["process", "full"])
def level(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(path: str, level: str) -> str:
    """Of an empty store of that level."""
    mqlite.open(path, durability=level, max_store_bytes=16 << 20).close()
    return path


AT_FULL = pytest.mark.parametrize("level", ["full"], indirect=True)
AT_PROCESS = pytest.mark.parametrize("level", ["process"], indirect=True)


def opened(path: str) -> mqlite.Broker:
    return mqlite.open(path)


def words(path: str) -> list[int]:
    with open(os.path.join(path, "log.front"), "rb") as file:
        return list(memoryview(file.read(512)).cast("Q"))


def leave_new_ones(talk: Any, path: str) -> None:
    """Of messages that were all put into the front 5 were got, one of three that are claimed is settled."""
    queue = opened(path).queue("q")
    for number in range(COUNT):
        queue.put(number, priority=number % 2)
    for _ in range(5):
        queue.get(timeout=0)
    messages = [queue.receive(1, timeout=0)[0] for _ in range(3)]
    messages[1].ack()
    talk.say([COUNT, words(path)[layout.HEAD] > layout.START])
    talk.hear(GUARD)


NEW_LEFT = [number for number in [*range(1, COUNT, 2), *range(0, COUNT, 2)][5:] if number != 13]


def leave_brought_ones(talk: Any, path: str) -> None:
    """The same with messages that were in the tree, and two more at the end."""
    broker = opened(path)
    queue = broker.queue("q")
    queue.put_many(list(range(COUNT)))
    for number in (COUNT, COUNT + 1):
        queue.put(number)
    for _ in range(5):
        queue.get(timeout=0)
    messages = [queue.receive(1, timeout=0)[0] for _ in range(3)]
    messages[1].ack()
    talk.say([COUNT + 2, words(path)[layout.HEAD] > layout.START])
    talk.hear(GUARD)


def leave_those_in_rows(talk: Any, path: str) -> None:
    """The same with messages that were claimed by rows."""
    broker = opened(path)
    queue = broker.queue("q")
    queue.put_many(list(range(COUNT)))
    for number in (COUNT, COUNT + 1):
        queue.put(number)
    messages = queue.receive(8, timeout=0)
    queue.ack_many(messages[2:5])
    for number in (6, 1, 0):
        messages[number].ack()
    talk.say([COUNT + 2, words(path)[layout.HEAD] > layout.START])
    talk.hear(GUARD)


BROUGHT_LEFT = [number for number in range(5, COUNT + 2) if number != 6]
LEAVES = pytest.mark.parametrize(
    ("leave", "left"),
    [(leave_new_ones, NEW_LEFT), (leave_brought_ones, BROUGHT_LEFT), (leave_those_in_rows, BROUGHT_LEFT)],
    ids=["new", "brought", "in rows"],
)


def killed(children: Any, path: str, leave: Any) -> int:
    """Do that in a process that is killed; the last id that was given."""
    child = children.fork(leave, path)
    last, passed_by = child.hear()
    assert passed_by
    child.kill()
    return int(last)


def check_left(path: str, left: list[int], last: int) -> None:
    with opened(path) as broker:
        queue = broker.queue("q")
        assert broker.check() == []
        assert (queue.stats().ready, queue.stats().claimed) == (len(left), 0)
        browsed = [(message.id, message.body) for message in queue.browse()]
        assert browsed == [(body + 1, body) for body in left]
        assert queue.put("next", priority=0) == last + 1
        messages = [queue.receive(1, timeout=0)[0] for _ in range(len(left) + 1)]
        assert [message.body for message in messages] == [*left, "next"]
        assert {message.delivery_count for message in messages} == {0}
        for message in messages:
            message.ack()
        assert queue.empty()
        assert broker.check() == []


# ---------------------------------------------------------------------- another boot
@LEAVES
def test_in_another_boot_what_was_not_acknowledged_is_ready(path: str, children: Any, reboot: Callable[[], None], leave: Any, left: list[int]) -> None:
    last = killed(children, path, leave)
    reboot()
    check_left(path, left, last)


@LEAVES
def test_a_copy_of_the_store_has_it_too(path: str, children: Any, leave: Any, left: list[int]) -> None:
    last = killed(children, path, leave)
    shutil.copytree(path, path + ".copy", ignore=shutil.ignore_patterns("run"))
    check_left(path + ".copy", left, last)


@LEAVES
@pytest.mark.parametrize("call", range(1, 4))
def test_a_kill_while_it_is_recalled_loses_and_doubles_nothing(path: str, children: Any, reboot: Callable[[], None], monkeypatch: pytest.MonkeyPatch, leave: Any, left: list[int], call: int) -> None:
    """Killed before it is stored, behind that, and when the file was begun anew."""
    last = killed(children, path, leave)
    reboot()

    def open_and_die(talk: Any) -> None:
        log, front = mqlite.log.lmdb.LmdbLog, mqlite.log.front.Front
        store, begin = log._store_front, front.begin

        def die_storing(self: Any, *arguments: Any) -> None:
            if call == 2:
                store(self, *arguments)
            os._exit(9)

        def die_beginning(self: Any, session: int, folded: int) -> None:
            begin(self, session, folded)
            os._exit(9)

        if call == 3:
            monkeypatch.setattr(front, "begin", die_beginning)
        else:
            monkeypatch.setattr(log, "_store_front", die_storing)
        opened(path)

    child = children.fork(open_and_die)
    child.wait()
    check_left(path, left, last)


def test_several_boots_one_after_the_other_lose_nothing(path: str, children: Any, reboot: Callable[[], None]) -> None:
    bodies = [10 * number + each for number in range(4) for each in range(4)]

    def put_some(talk: Any, number: int) -> None:
        queue = opened(path).queue("q")
        for each in range(4):
            queue.put(10 * number + each)
        assert [queue.get(timeout=0) for _ in range(2)] == bodies[2 * number : 2 * number + 2]
        talk.say(words(path)[layout.HEAD] > layout.START)
        talk.hear(GUARD)

    for number in range(4):
        child = children.fork(put_some, number)
        assert child.hear()
        child.kill()
        reboot()
    with opened(path) as broker:
        assert [(message.id, message.body) for message in broker.queue("q").browse()] == list(enumerate(bodies, 1))[8:]
        assert broker.check() == []


# ---------------------------------------------------------------------- what is not recalled
def spoil(path: str, at: int, content: bytes) -> None:
    with open(os.path.join(path, "log.front"), "r+b") as file:
        file.seek(at)
        file.write(content)


def word(number: int, value: int) -> tuple[int, bytes]:
    return 8 * number, struct.pack("=Q", value)


SPOILT: dict[str, Callable[[str], None]] = {
    "no file": lambda path: os.unlink(os.path.join(path, "log.front")),
    "empty file": lambda path: os.truncate(os.path.join(path, "log.front"), 0),
    "short file": lambda path: os.truncate(os.path.join(path, "log.front"), layout.START + 100),
    "garbage": lambda path: spoil(path, 0, os.urandom(layout.END)),
    "zeros": lambda path: spoil(path, 0, bytes(layout.END)),
    "no header": lambda path: spoil(path, 0, bytes(4096)),
    "no records": lambda path: spoil(path, layout.START, bytes(layout.AREA_BYTES)),
    "another head": lambda path: spoil(path, *word(layout.HEAD, words(path)[layout.HEAD] - 16)),
    "a head behind the end": lambda path: spoil(path, *word(layout.HEAD, 1 << 40)),
    "another epoch": lambda path: spoil(path, *word(layout.EPOCH, words(path)[layout.EPOCH] + 1)),
    "another transaction": lambda path: spoil(path, *word(layout.BASE, words(path)[layout.BASE] - 1)),
    "a torn record": lambda path: spoil(path, layout.START + layout.VALUE_AT, b"\xff\xff\xff\xff"),
    "one of its settlements lost": lambda path: spoil(path, layout.START + layout.STATE, bytes([layout.CLAIMED])),
}
#: What had not been flushed then, and so had not returned. What is before it is recalled.
WHOLE_AT_FULL = [("full", "another head"), ("full", "one of its settlements lost")]


@pytest.mark.parametrize(("level", "how"), [(level, how) for level in ("process", "full") for how in SPOILT if (level, how) not in WHOLE_AT_FULL], indirect=["level"])
def test_what_is_not_as_of_one_moment_is_not_recalled(path: str, children: Any, reboot: Callable[[], None], how: str) -> None:
    """The store is as of the commit before, which is a state that it had."""
    killed(children, path, leave_brought_ones)
    SPOILT[how](path)
    reboot()
    with opened(path) as broker:
        found = [message.body for message in broker.queue("q").browse()]
        assert found in [[*range(COUNT)], [*range(COUNT + 1)], *([*range(first, COUNT + 2)] for first in range(5))]
        assert broker.check() == []
        for number in range(3):
            broker.queue("q").put(number)
        assert [broker.queue("q").get(timeout=0) for _ in found] == found
        assert broker.check() == []


def test_a_settlement_that_was_under_way_is_recalled(path: str, children: Any, reboot: Callable[[], None]) -> None:
    """Killed between the record and the sum."""
    last = killed(children, path, leave_new_ones)
    with open(os.path.join(path, "log.front"), "rb") as file:
        area = file.read()
    settling = words(path)[layout.SETTLING]
    crc = int.from_bytes(area[settling + layout.VALUE_AT :][:4], "big")
    spoil(path, *word(layout.SETTLED_SUM, words(path)[layout.SETTLED_SUM] - crc))
    reboot()
    check_left(path, NEW_LEFT, last)


def test_a_log_that_was_restored_beside_a_newer_front_has_what_it_had(path: str, children: Any, tmp_path: Path) -> None:
    with opened(path) as broker:
        broker.queue("q").put_many(["a", "b"])
        broker.backup(tmp_path / "backup")
    killed(children, path, leave_new_ones)
    os.unlink(os.path.join(path, "log.mdb"))
    shutil.copy(tmp_path / "backup" / "log.mdb", path)
    with opened(path) as broker:
        assert [message.body for message in broker.queue("q").browse()] == ["a", "b"]
        assert broker.check() == []
        queue = broker.queue("q")
        for number in range(3):
            queue.put(number)
        assert [queue.get(timeout=0) for _ in range(5)] == ["a", "b", 0, 1, 2]
        assert broker.check() == []


def test_a_boot_without_room_for_the_front_goes_without_it_in_all_processes(path: str, children: Any, reboot: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    os.unlink(os.path.join(path, "log.front"))
    reboot()

    def refuse(*arguments: object) -> None:
        raise mqlite.StoreFull("no room")

    def use(talk: Any) -> None:
        queue = opened(path).queue("q")
        for number in range(5):
            queue.put(number)
        talk.say(os.path.exists(os.path.join(path, "log.front")))
        talk.hear(GUARD)

    with monkeypatch.context() as full:
        full.setattr(mqlite.log.front_file, "preallocate", refuse)
        first = opened(path)
    queue = first.queue("q")
    child = children.fork(use)
    assert child.hear() is False
    for number in range(5, 8):
        assert queue.put(number) == number + 1
    child.kill()
    assert [queue.get(timeout=0) for _ in range(8)] == list(range(8))
    assert first.check() == []
    first.close()


# ---------------------------------------------------------------------- what was flushed
def keep_flushed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on `log.front.flushed` is the file as it was flushed last."""
    front, flushed = os.path.join(path, "log.front"), os.path.join(path, "log.front.flushed")

    def keeping(flush: Callable[[int], None]) -> Callable[[int], None]:
        def flush_and_keep(fd: int) -> None:
            flush(fd)
            if os.path.sameopenfile(fd, file):
                shutil.copyfile(front, flushed)

        return flush_and_keep

    file = os.open(front, os.O_RDONLY)
    shutil.copyfile(front, flushed)
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, keeping(getattr(os, name)))


def cut(path: str) -> None:
    """Nothing else of the front has reached the disk."""
    os.replace(os.path.join(path, "log.front.flushed"), os.path.join(path, "log.front"))


@AT_FULL
@LEAVES
def test_what_had_returned_had_been_flushed(path: str, children: Any, reboot: Callable[[], None], monkeypatch: pytest.MonkeyPatch, leave: Any, left: list[int]) -> None:
    keep_flushed(path, monkeypatch)
    last = killed(children, path, leave)
    cut(path)
    reboot()
    check_left(path, left, last)


def records(path: str) -> list[int]:
    """Where they begin."""
    with open(os.path.join(path, "log.front"), "rb") as file:
        area = file.read()
    found, at = [], layout.START
    while at < words(path)[layout.HEAD]:
        found.append(at)
        at += layout.record_bytes(layout.BRIEF.unpack_from(area, at)[1])
    return found


def put_some(talk: Any, path: str) -> None:
    queue = opened(path).queue("q")
    for number in range(COUNT):
        queue.put(number)
    talk.say([COUNT, words(path)[layout.HEAD] > layout.START])
    talk.hear(GUARD)


TORN: dict[str, Callable[[int], tuple[int, bytes]]] = {
    "its value": lambda at: (at + layout.VALUE_AT + 20, b"\xff\xff"),
    "its key": lambda at: (at + layout.KEY_AT + 9, b"\xff"),
    "its size": lambda at: (at + 8, b"\xff\xff\xff\xff"),
    "its epoch": lambda at: (at, b"\xff"),
    "its state": lambda at: (at + layout.STATE, b"\0"),
    "all of it": lambda at: (at, bytes(80)),
}


@AT_FULL
@pytest.mark.parametrize("torn", TORN)
@pytest.mark.parametrize("kept", [4, 17, -1])
def test_what_was_put_before_a_torn_record_is_recalled_and_nothing_behind_it(path: str, children: Any, reboot: Callable[[], None], torn: str, kept: int) -> None:
    """What is torn had not been flushed, so nobody was told that it is there, nor what is behind it."""
    killed(children, path, put_some)
    before = records(path)
    kept %= len(before)
    spoil(path, *TORN[torn](before[kept]))
    reboot()
    behind = COUNT - len(before) + kept
    with opened(path) as broker:
        queue = broker.queue("q")
        assert [(message.id, message.body) for message in queue.browse()] == [(number + 1, number) for number in range(behind)]
        assert broker.check() == []
        assert queue.put("next") == behind + 1
        assert [queue.get(timeout=0) for _ in range(behind + 1)] == [*range(behind), "next"]
        assert broker.check() == []


@AT_FULL
@pytest.mark.parametrize("torn", TORN)
def test_a_torn_settlement_of_what_rows_hold_is_none_and_nothing_behind_it_is_recalled(path: str, children: Any, reboot: Callable[[], None], torn: str) -> None:
    killed(children, path, leave_those_in_rows)
    before = records(path)
    assert len(before) == 4
    spoil(path, *TORN[torn](before[2] - (20 if torn == "its value" else 0)))
    reboot()
    with opened(path) as broker:
        assert [message.body for message in broker.queue("q").browse()] == [0, 1, *BROUGHT_LEFT]
        assert broker.check() == []


@AT_FULL
def test_a_settlement_that_was_not_flushed_may_be_undone(path: str, children: Any, reboot: Callable[[], None]) -> None:
    """That of the second message: the first one had not come to the front."""
    killed(children, path, leave_brought_ones)
    SPOILT["one of its settlements lost"](path)
    reboot()
    with opened(path) as broker:
        assert [message.body for message in broker.queue("q").browse()] == [1, *BROUGHT_LEFT]
        assert broker.check() == []


def test_a_front_beside_a_restored_log_is_not_there_after_a_power_cut_either(path: str, children: Any, reboot: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the log comes to a transaction of the same number once more."""
    with opened(path) as broker:
        broker.queue("q").put_many(["a", "b"])
    shutil.copy(os.path.join(path, "log.mdb"), tmp_path)

    def add(talk: Any, transaction: int) -> None:
        broker = opened(path)
        added = 0
        while True:
            with broker._store.engine.log.glance() as glance:
                assert glance.transaction() <= transaction
                if glance.transaction() == transaction:
                    break
            broker.queue("q").put_many(["more"] * COUNT, priority=1)  # in the places of those that were settled in the front
            added += COUNT
        talk.say(added)
        talk.hear(GUARD)

    def add_and_leave(talk: Any, path: str) -> None:
        opened(path).queue("q").put_many(["c"])
        opened(path).queue("q").put_many(["d"])
        leave_new_ones(talk, path)

    killed(children, path, add_and_leave)
    os.unlink(os.path.join(path, "log.mdb"))
    shutil.copy(tmp_path / "log.mdb", path)
    keep_flushed(path, monkeypatch)
    reboot()
    child = children.fork(add, words(path)[layout.BASE])
    added = child.hear()
    child.kill()
    assert added
    cut(path)
    reboot()
    with opened(path) as broker:
        assert [message.body for message in broker.queue("q").browse()] == [*["more"] * added, "a", "b"]
        assert broker.check() == []


# ---------------------------------------------------------------------- recovery, copies, flushes
@LEAVES
def test_recover_saves_what_is_in_the_front(path: str, children: Any, tmp_path: Path, leave: Any, left: list[int]) -> None:
    killed(children, path, leave)
    found = mqlite.recover(path, into=tmp_path / "new.mq")
    assert (found.messages, found.problems) == (len(left), ())
    with mqlite.open(tmp_path / "new.mq") as broker:
        assert [(message.id, message.body) for message in broker.queue("q").browse()] == [(body + 1, body) for body in left]
        assert broker.check() == []
        assert broker.queue("q").put("next") > max(left) + 1


@pytest.mark.parametrize("how", [how for how in SPOILT if how != "one of its settlements lost"])
def test_recover_takes_a_front_in_whatever_state(path: str, children: Any, tmp_path: Path, how: str) -> None:
    killed(children, path, leave_brought_ones)
    SPOILT[how](path)
    found = mqlite.recover(path, into=tmp_path / "new.mq")
    assert found.problems == ()
    with mqlite.open(tmp_path / "new.mq") as broker:
        bodies = [message.body for message in broker.queue("q").browse()]
        assert {*BROUGHT_LEFT} - {COUNT, COUNT + 1} <= {*bodies}
        assert len({*bodies}) == len(bodies)
        assert broker.check() == []


def test_recover_leaves_out_what_the_tree_has_taken_over(path: str, tmp_path: Path) -> None:
    with opened(path) as broker:
        queue = broker.queue("q")
        for number in range(10):
            queue.put(number)
        queue.stats()
        queue.purge()
    assert mqlite.recover(path, into=tmp_path / "new.mq").messages == 0


def test_a_damaged_epoch_of_the_front_is_found_by_verify(path: str) -> None:
    with opened(path) as broker:
        for number in range(10):
            broker.queue("q").put(number)
    from mqlite.log import format as fmt
    from mqlite.log.lmdb import LmdbLog
    from mqlite.system.control import Control
    from mqlite.system.environment import Environment
    from mqlite.verify import store_problems

    assert store_problems(path) == []
    environment = Environment(os.path.join(path, "log.mdb"), map_size=16 << 20)
    with Control(os.path.join(path, "log.control")) as control:
        log = LmdbLog(environment, control)
        log.write(lambda txn: txn.put_raw(fmt.FOLDED_KEY, b"\xff" * 12))
        log.close()
    [problem] = store_problems(path)
    assert "the epoch of the front" in problem


def test_a_backup_has_all_that_had_returned_and_no_front(path: str, tmp_path: Path) -> None:
    with opened(path) as broker:
        queue = broker.queue("q")
        for number in range(20):
            queue.put(number)
        for _ in range(3):
            queue.get(timeout=0)
        assert not broker._store.engine.log.is_folded()
        broker.backup(tmp_path / "copy.mq")
        assert "log.front" not in os.listdir(tmp_path / "copy.mq")
        with mqlite.open(tmp_path / "copy.mq") as copy:
            assert [message.body for message in copy.queue("q").browse()] == list(range(3, 20))
            assert copy.check() == []


def test_messages_in_the_front_survive_a_compaction(path: str, children: Any, reboot: Callable[[], None]) -> None:
    def compact(talk: Any) -> None:
        broker = mqlite.open(path)
        queue = broker.queue("q")
        queue.put_many([b"x" * 3000] * 1500)
        queue.purge()
        for number in range(20):
            queue.put(number)
        [first] = queue.receive(1, timeout=0)
        assert not broker._store.engine.log.is_folded()
        before, after = broker.compact()
        assert after < before
        first.ack()
        for number in range(20, 40):
            queue.put(number)
        assert [queue.get(timeout=0) for _ in range(9)] == list(range(1, 10))
        talk.say(broker._store.engine.log.is_folded())
        talk.hear(GUARD)

    child = children.fork(compact)
    assert child.hear() is False
    child.kill()
    reboot()
    with mqlite.open(path) as broker:
        assert [message.body for message in broker.queue("q").browse()] == list(range(10, 40))
        assert broker.check() == []


def test_sync_and_close_leave_nothing_in_the_front(path: str) -> None:
    from mqlite.system.control import CLEAN, Control

    def mark() -> int:
        with Control(os.path.join(path, "log.control")) as control:
            assert control.mark is not None
            return control.mark.kind

    broker = opened(path)
    queue = broker.queue("q")
    for number in range(10):
        queue.put(number)
    broker.sync()
    assert words(path)[layout.HEAD] == layout.START
    assert mark() == CLEAN
    for number in range(10):
        queue.put(number)
    assert words(path)[layout.HEAD] > layout.START
    queue.close()
    broker.close()
    assert words(path)[layout.HEAD] == layout.START
    assert mark() == CLEAN


def test_recover_takes_what_lies_about_in_the_front_for_doubtful_where_the_tree_is_damaged(path: str, tmp_path: Path) -> None:
    """Messages that have moved since are not in their old place, too."""
    with opened(path) as broker:
        queue = broker.queue("q", max_deliveries=2)
        for number in range(100):
            queue.put(number)
        for message in queue.receive(50, timeout=0):
            message.reject()
    with open(os.path.join(path, "log.mdb"), "r+b") as log:
        log.write(bytes(2 * os.sysconf("SC_PAGE_SIZE")))
    mqlite.recover(path, tmp_path / "new.mq")
    with mqlite.open(tmp_path / "new.mq") as broker:
        stats = broker.queue("q").stats()
        assert (stats.ready, stats.dead) == (50, 50)
        assert broker.check() == []


@AT_FULL
def test_what_was_not_flushed_when_a_flush_failed_is_not_recalled_though_who_saw_it_was_killed(path: str, children: Any, reboot: Any) -> None:
    """Between the two words that say so and the head; the machine is stopped in order, so all of it is on the disk."""

    def in_child(talk: Any) -> None:
        queue = opened(path).queue("q")
        for number in range(3):
            queue.put(number)
        front: Any = queue._engine.log.front
        flushed = front.words[layout.HEAD]
        queue.put("was refused")
        front.words[layout.LOST_HEAD] = flushed
        front.words[layout.LOST] = front.words[layout.EPOCH]
        talk.say(front.words[layout.HEAD] > flushed > layout.START)
        talk.hear()

    child = children.fork(in_child)
    assert child.hear()
    child.kill()
    child.wait()
    reboot()
    with opened(path) as broker:
        assert [message.body for message in broker.queue("q").browse()] == [0, 1, 2]
        assert broker.check() == []
