"""What `recover` saves of a store that is whole, or damaged in one way; tests/crash/test_recovery_sweeps.py has the others."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import damage
import pytest
from crash.children import Children, Talk

import mqlite
from mqlite.log import format as fmt
from mqlite.system.directory import StoreDirectory
from mqlite.system.pages import LEAF

GOLDEN = Path(__file__).parent.parent / "format"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A closed store that holds something of everything."""
    path = str(tmp_path_factory.mktemp("recovery") / "app.mq")
    damage.fill(path)
    return path


@pytest.fixture(scope="module")
def content(made: str) -> dict[tuple[Any, ...], Any]:
    """What is in it."""
    return damage.contents(made)


@pytest.fixture
def old(made: str, tmp_path: Path) -> str:
    """A copy of it."""
    copy = tmp_path / "old.mq"
    copy.mkdir()
    for name in ("log.mdb", "log.control", "store.json"):
        shutil.copy(os.path.join(made, name), copy)
    os.truncate(copy / "log.mdb", (damage.last_page(f"{copy}/log.mdb") + 1) * damage.PAGE)
    return str(copy)


@pytest.fixture
def log(old: str) -> str:
    return os.path.join(old, "log.mdb")


@pytest.fixture
def spoilt(log: str) -> Iterator[damage.Spoilt]:
    """Its log."""
    made = damage.Spoilt(log)
    yield made
    made.close()


@pytest.fixture
def new(tmp_path: Path) -> str:
    return str(tmp_path / "new.mq")


def a_row(content: dict[tuple[Any, ...], Any]) -> tuple[Any, ...]:
    return next(key for key in content if key[0] == "row" and key[2].endswith(b"key-3"))


def leaf_with(spoilt: damage.Spoilt, log: str, record: tuple[Any, ...]) -> int:
    """The leaf on which a record lies."""
    return next(number for number, found in damage.records_by_page(log).items() if record in found and spoilt.read(number)[10] == LEAF)


def problems_of(store: str) -> tuple[str, ...]:
    """What `check` finds in a store."""
    with mqlite.open(store) as broker:
        return tuple(broker.check())


# ---------------------------------------------------------------------- whole stores
def test_a_whole_store_is_saved_as_it_is(old: str, new: str, content: dict[tuple[Any, ...], Any]) -> None:
    found = mqlite.recover(old, new)
    assert found.problems == ()
    assert found.pages_damaged == 0
    assert damage.contents(new) == content
    assert problems_of(new) == ()
    kinds = [key[0] for key in content]
    assert (found.kept, found.rows, found.definitions) == (kinds.count("kept"), kinds.count("row"), kinds.count("definition"))
    assert found.messages == kinds.count("in line") + kinds.count("waits")


def test_the_old_store_is_not_written_to(old: str, new: str) -> None:
    before = {name: Path(old, name).read_bytes() for name in os.listdir(old)}
    mqlite.recover(old, new)
    assert {name: Path(old, name).read_bytes() for name in os.listdir(old)} == before


def test_what_was_remembered_is_remembered(old: str, new: str) -> None:
    mqlite.recover(old, new)
    with mqlite.open(new) as broker:
        keyed = broker.queue("keyed")
        first = next(message.id for message in keyed.browse() if message.body == {"n": 3})
        assert keyed.put("a double", dedup_id="d3") == first
        assert [each.name for each in keyed.schedules()] == ["hourly"]
        assert [prepared.body for prepared in broker.queue("plain").prepared()] == ["half"]
        with broker.transaction() as tx:
            assert not tx.once("job-1")
        assert [message.body for message in broker.topic("events").retained()] == [{"n": 7}]
        assert [bound.queue for bound in broker.topic("events").bindings()] == ["plain"]


def test_the_new_store_goes_on(old: str, new: str, content: dict[tuple[Any, ...], Any]) -> None:
    mqlite.recover(old, new)
    with mqlite.open(new) as broker:
        plain, some = broker.queue("plain"), broker.topic("events").subscription("some")
        assert plain.put("new") > max(key[2] for key in content if key[0] in ("in line", "waits", "kept"))
        broker.topic("events").publish({"n": "new"}, "order.new", headers={"a": 1})
        assert damage.BIG not in [message.body for message in plain.receive(300, 0)]
        assert some.receive(100, 0)[-1].body == {"n": "new"}
        broker.table("rows")["new"] = 1
        assert broker.topic("events").subscribe("late", start="earliest").stats().ready > 0
        assert broker.check() == []


@pytest.mark.parametrize("level", ["full", "checkpoint", "process"])
def test_the_durability_stays(path: str, new: str, level: str) -> None:
    with mqlite.open(path, durability=level) as broker:
        broker.queue("q").put(1)
    assert mqlite.recover(path, new).problems == ()
    with mqlite.open(new, durability=level) as broker:
        assert broker.queue("q").get(timeout=0) == 1
        assert broker.check() == []


def test_another_durability_may_be_named(path: str, new: str) -> None:
    mqlite.open(path).close()
    mqlite.recover(path, new, durability="checkpoint")
    mqlite.open(new, durability="checkpoint").close()


def test_a_wrong_durability_is_refused(path: str, new: str) -> None:
    mqlite.open(path).close()
    with pytest.raises(ValueError, match="durability"):
        mqlite.recover(path, new, durability="none")


@pytest.mark.parametrize("name", sorted(each.name for each in GOLDEN.glob("*.tar.xz")))
def test_stores_of_earlier_formats_are_saved(name: str, tmp_path: Path, new: str) -> None:
    old = tmp_path / "golden.mq"
    old.mkdir()
    with tarfile.open(GOLDEN / name) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.3 and before has none
        archive.extractall(old)
    assert mqlite.recover(old, new).problems == ()
    assert damage.contents(new) == damage.contents(str(old))
    assert problems_of(new) == ()


def test_claimed_messages_are_ready(path: str, new: str, children: Children) -> None:
    def claim(talk: Talk) -> None:
        mqlite.Queue("q", path).receive(2)
        talk.say("claimed")
        talk.hear()

    with mqlite.Queue("q", path) as q:
        q.put_many([1, 2, 3])
    child = children.fork(claim)
    assert child.hear() == "claimed"
    child.kill()
    mqlite.recover(path, new)
    with mqlite.Queue("q", new) as q:
        assert [q.get(timeout=0) for _ in range(3)] == [1, 2, 3]


# ---------------------------------------------------------------------- damage
def test_a_large_message_with_one_damaged_page_is_named(old: str, new: str, log: str, spoilt: damage.Spoilt, content: dict[tuple[Any, ...], Any]) -> None:
    [big] = [key for key in content if key[0] == "in line" and content[key][1][1] == damage.BIG]
    pages = sorted(number for number, found in damage.records_by_page(log).items() if found == {big})
    spoilt.flip(pages[5], 999)
    found = mqlite.recover(old, new)
    assert f"message {big[2]} of queue 'plain.dead' ({len(damage.BIG) + 190} bytes)"[:50] in found.problems[0]
    assert "does not match its checksum" in found.problems[0]
    assert content.keys() - damage.contents(new).keys() == {big}
    assert problems_of(new) == ()


def test_records_beside_a_flipped_bit_are_saved(old: str, new: str, log: str, spoilt: damage.Spoilt, content: dict[tuple[Any, ...], Any]) -> None:
    number = leaf_with(spoilt, log, a_row(content))
    page = spoilt.read(number)
    spoilt.flip(number, 8 * (page.index(b"key-3") + 20))
    found = mqlite.recover(old, new)
    assert len(content.keys() - damage.contents(new).keys()) <= 1
    assert len(found.problems) == 1  # it is lost, or an older page has it


def test_a_leaf_whose_header_is_damaged_gives_all_its_records(old: str, new: str, log: str, spoilt: damage.Spoilt, content: dict[tuple[Any, ...], Any]) -> None:
    spoilt.flip(leaf_with(spoilt, log, a_row(content)), 8 * 12)  # lower
    found = mqlite.recover(old, new)
    assert found.pages_damaged == 1
    assert damage.contents(new) == content


@pytest.mark.parametrize("metas", [(0,), (1,), (0, 1)])
def test_without_meta_pages_everything_is_saved(old: str, new: str, spoilt: damage.Spoilt, content: dict[tuple[Any, ...], Any], metas: tuple[int, ...]) -> None:
    for number in metas:
        spoilt.write(number, damage.noise(number))
    found = mqlite.recover(old, new)
    assert {key: value for key, value in damage.contents(new).items() if key in content} == content
    assert len(found.problems) > len(metas)
    assert problems_of(new) == ()


def test_a_message_that_moved_is_not_saved_twice(path: str, new: str) -> None:
    """Its old places lie about on pages that are not in use."""
    with mqlite.Queue("q", path, max_deliveries=2) as q:
        for n in range(300):
            q.put(n)
        for message in q.receive(100, 0):
            message.nack(delay=10_000)
        for message in q.receive(100, 0):
            message.reject()
    spoilt = damage.Spoilt(f"{path}/log.mdb")
    for number in (0, 1):
        spoilt.write(number, bytes(damage.PAGE))
    spoilt.close()
    mqlite.recover(path, new)
    with mqlite.Queue("q", new) as q:
        stats = q.stats()
        assert (stats.ready, stats.delayed, stats.dead) == (100, 100, 100)
        assert q.check() == []


def test_a_queue_that_lost_its_settings_keeps_its_messages(path: str, new: str) -> None:
    with mqlite.open(path) as broker:
        broker.queue("q", codec="pickle", maxsize=7).put((1, 2))
        broker.table("t")["k"] = "v"
        broker.topic("events").subscribe("s")
        broker.topic("events").publish("published")
    log = f"{path}/log.mdb"
    spoilt = damage.Spoilt(log)
    for number in range(2, damage.last_page(log) + 1):  # older pages, too
        spoilt.write(number, spoilt.read(number).replace(b'"options"', b'"opti0ns"'))
    spoilt.close()
    found = mqlite.recover(path, new)
    assert sum("are lost" in problem for problem in found.problems) >= 5
    with mqlite.open(new) as broker:
        assert (broker.queues(), broker.topics(), broker.tables()) == (["q"], ["events"], ["t"])
        assert broker.queue("q", codec="pickle").get(timeout=0) == (1, 2)
        assert broker.table("t")["k"] == "v"
        assert broker.topic("events").subscription("s").get(timeout=0) == "published"
        broker.topic("events").publish("again")
        assert broker.topic("events").subscription("s").get(timeout=0) == "again"
        assert broker.check() == []


def test_a_queue_that_lost_its_name_is_called_recovered(path: str, new: str) -> None:
    with mqlite.Queue("a name of forty-two letters, unlike any other", path) as q:
        q.put_many([bytes(100)] * 500)
    log = f"{path}/log.mdb"
    spoilt = damage.Spoilt(log)
    for number in range(2, damage.last_page(log) + 1):
        if b"forty-two" in spoilt.read(number):
            spoilt.write(number, bytes(damage.PAGE))
    spoilt.close()
    found = mqlite.recover(path, new)
    with mqlite.open(new) as broker:
        assert broker.queues() == ["recovered-1"]
        assert broker.queue("recovered-1").stats().ready == found.messages > 400
        assert broker.check() == []


@pytest.mark.parametrize("spoil", [os.unlink, lambda path: Path(path).write_text("{"), lambda path: Path(path).write_bytes(b"\xff")])
def test_without_its_marker_a_store_is_saved(old: str, new: str, spoil: Callable[[str], Any], content: dict[tuple[Any, ...], Any]) -> None:
    spoil(f"{old}/store.json")
    assert mqlite.recover(old, new).problems == ("store.json is missing or damaged: what it said is lost",)
    assert damage.contents(new) == content


def test_the_log_alone_is_enough(old: str, new: str, content: dict[tuple[Any, ...], Any]) -> None:
    for name in os.listdir(old):
        if name != "log.mdb":
            os.unlink(f"{old}/{name}")
    mqlite.recover(old, new)
    assert damage.contents(new) == content


# ---------------------------------------------------------------------- what is refused
def test_a_store_that_somebody_has_open_is_refused(path: str, new: str) -> None:
    with mqlite.Queue("q", path), pytest.raises(mqlite.StoreError, match="open"):
        mqlite.recover(path, new)
    assert not os.path.exists(new)


def test_a_store_whose_user_was_killed_is_recovered(path: str, new: str, children: Children) -> None:
    def put(talk: Talk) -> None:
        mqlite.Queue("q", path).put(1)
        talk.say("put")
        talk.hear()

    child = children.fork(put)
    assert child.hear() == "put"
    with pytest.raises(mqlite.StoreError, match="open"):
        mqlite.recover(path, new)
    child.kill()
    assert mqlite.recover(path, new).messages == 1


def test_two_recoveries_into_one_place_leave_the_store_of_the_one_that_was_faster(
    old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = StoreDirectory.locked

    def behind_another(directory: StoreDirectory) -> Any:
        monkeypatch.setattr(StoreDirectory, "locked", locked)
        mqlite.recover(old, new)
        return locked(directory)

    monkeypatch.setattr(StoreDirectory, "locked", behind_another)
    with pytest.raises(mqlite.StoreError, match="not empty"):
        mqlite.recover(old, new)
    with mqlite.open(new) as broker:
        assert broker.check() == []
        assert broker.queues()


def test_a_target_that_holds_something_is_refused_and_left(old: str, new: str) -> None:
    os.mkdir(new)
    Path(new, "mine").write_text("kept")
    with pytest.raises(mqlite.StoreError, match="not empty"):
        mqlite.recover(old, new)
    assert os.listdir(new) == ["mine"]


def test_what_a_killed_recovery_has_left_says_so_to_who_opens_it_and_to_the_next_one(
    old: str, new: str, content: dict[tuple[Any, ...], Any], children: Children
) -> None:
    def worker(talk: Talk) -> None:
        mqlite.recover(old, new, progress=lambda done, total: (talk.say("begun"), talk.hear()))

    child = children.fork(worker)
    assert child.hear() == "begun"
    child.kill()
    with pytest.raises(mqlite.StoreError, match="holds 'unfinished-recovery-1"):
        mqlite.open(new)
    with pytest.raises(mqlite.StoreError, match="if a recovery was cut short there, delete it first"):
        mqlite.recover(old, new)
    shutil.rmtree(new)
    mqlite.recover(old, new)
    assert damage.contents(new) == content


def test_an_empty_target_is_taken(old: str, new: str) -> None:
    os.mkdir(new)
    mqlite.recover(old, new)
    assert problems_of(new) == ()


def test_where_there_is_no_log_nothing_is_made(tmp_path: Path, new: str) -> None:
    with pytest.raises(mqlite.StoreError, match="nothing to recover"):
        mqlite.recover(tmp_path, new)
    assert not os.path.exists(new)


def test_a_newer_format_is_refused(old: str, new: str) -> None:
    marker = json.loads(Path(old, "store.json").read_text())
    Path(old, "store.json").write_text(json.dumps({**marker, "format": fmt.FORMAT + 1}))
    with pytest.raises(mqlite.NotSupported):
        mqlite.recover(old, new)
    assert not os.path.exists(new)


def test_an_interrupt_leaves_nothing(old: str, new: str) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mqlite.recover(old, new, progress=interrupt)
    assert not os.path.exists(new)
    assert mqlite.recover(old, new).problems == ()


def test_a_full_disk_leaves_nothing(small_disk: str, old: str) -> None:
    new = f"{small_disk}/new.mq"
    with open(f"{small_disk}/filler", "wb") as filler:
        filler.write(bytes(36 << 20))
    with pytest.raises(mqlite.StoreError):
        mqlite.recover(old, new)
    assert os.listdir(small_disk) == ["filler"]


def test_a_file_of_something_else_is_emptily_recovered(tmp_path: Path, new: str) -> None:
    (tmp_path / "log.mdb").write_bytes(damage.noise(1) * 20)
    found = mqlite.recover(tmp_path, new)
    assert (found.messages, found.rows, found.definitions) == (0, 0, 0)
    assert problems_of(new) == ()
