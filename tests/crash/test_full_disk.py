"""A file system without a free block: puts are refused, and all that is stored can still be worked off; nothing is lost."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import pytest
from fixture_types import MakeQueue
from hand_clock import HandClock, timed_queue

import mqlite
import mqlite.log.front
import mqlite.system.directory
from mqlite.checks import LEVELS

BODY = "x" * 3400  # one page, also with all that is said of a dead letter
JUST_A_PAGE = "x" * 4000  # two pages with that
#: More than the disk has, so that it is the disk that is full.
STORE_BYTES = 1 << 30


@pytest.fixture(params=[pytest.param(level, marks=[] if level == "full" else pytest.mark.slow) for level in LEVELS])
def level(request: pytest.FixtureRequest) -> str:
    """A full disk is the same at every level."""
    return str(request.param)


@pytest.fixture
def opened(small_disk: str, level: str, clock: HandClock, made: list[mqlite.Queue[Any]]) -> MakeQueue:
    """opened(name, **options): a queue of the store on the small disk."""
    mqlite.open(os.path.join(small_disk, "app.mq"), durability=level, max_store_bytes=STORE_BYTES).close()

    def make(name: str = "q", **options: Any) -> mqlite.Queue[Any]:
        made.append(timed_queue(os.path.join(small_disk, "app.mq"), clock, name, max_store_bytes=STORE_BYTES, **options))
        return made[-1]

    return make


Fill = Callable[[], None]


def fill(q: mqlite.Queue[Any], options: Callable[[int], dict[str, Any]] = lambda number: {}, body: str = BODY) -> list[int]:
    """Put until the store is full; the numbers that were stored, each the first part of a body."""
    stored: list[int] = []
    refused = 0
    while refused < 3:
        number = len(stored) + refused
        try:
            q.put([number, body], **options(number))
            stored.append(number)
        except mqlite.StoreFull:
            refused += 1
    assert len(stored) > 500
    return stored


def drained(q: mqlite.Queue[Any], at_once: int = 1) -> list[int]:
    """Receive and acknowledge all that comes; the numbers."""
    found: list[int] = []
    while True:
        try:
            messages = q.receive(at_once, timeout=0)
        except mqlite.Empty:
            return found
        found += [message.body[0] for message in messages]
        q.ack_many(messages)


def is_refused(q: mqlite.Queue[Any]) -> bool:
    try:
        q.put([-1, BODY * 4])
    except mqlite.StoreFull:
        return True
    return False


every_level = pytest.mark.parametrize("level", LEVELS)


# ---------------------------------------------------------------------- draining
@every_level
@pytest.mark.parametrize("at_once", [1, 7, 200])
def test_everything_that_was_stored_is_received_and_acknowledged(opened: MakeQueue, fill_disk: Fill, at_once: int) -> None:
    q = opened()
    stored = fill(q)
    fill_disk()
    assert is_refused(q)
    assert drained(q, at_once) == stored
    assert (q.stats().ready, q.stats().claimed, q.unfinished_tasks) == (0, 0, 0)


def test_get_works_as_well(opened: MakeQueue, fill_disk: Fill) -> None:
    q = opened()
    stored = fill(q)
    fill_disk()
    found = []
    while not q.empty():
        found.append(q.get(timeout=0)[0])
    assert found == stored


def test_puts_work_again_as_soon_as_something_was_acknowledged(opened: MakeQueue, fill_disk: Fill) -> None:
    q = opened()
    stored = fill(q)
    fill_disk()
    assert is_refused(q)
    assert drained(q, 50) == stored
    again = fill(q)
    assert len(again) > len(stored) // 2
    assert drained(q, 50) == again


def test_once_the_disk_has_room_again_puts_work_with_nothing_acknowledged(opened: MakeQueue, small_disk: str, fill_disk: Fill, eventually: Callable[..., None]) -> None:
    q = opened()
    q.put(["first", BODY])
    with open(os.path.join(small_disk, "ballast"), "wb") as ballast:
        ballast.write(bytes(8 << 20))
    stored = fill(q)
    fill_disk()
    assert is_refused(q)
    os.unlink(os.path.join(small_disk, "filler"))
    os.unlink(os.path.join(small_disk, "ballast"))

    def put() -> bool:
        try:
            q.put(["later", BODY])
        except mqlite.StoreFull:
            return False
        return True

    eventually(put)
    assert drained(q, 50) == ["first", *stored, "later"]


def test_nothing_is_lost_over_closing_and_opening_on_a_full_disk(opened: MakeQueue, fill_disk: Fill) -> None:
    q = opened()
    stored = fill(q)
    q.put_many([])
    fill_disk()
    half = [message.body[0] for message in q.receive(100, timeout=0)]
    q.close()
    again = opened()
    assert half == stored[:100]
    assert drained(again, 50) == stored


# ---------------------------------------------------------------------- the other ways out
@pytest.mark.parametrize("settle", ["reject", "nack"])
def test_messages_become_dead_letters_and_these_drain_too(opened: MakeQueue, fill_disk: Fill, settle: str) -> None:
    q = opened(max_deliveries=1)
    stored = fill(q)
    fill_disk()
    for _ in stored:
        getattr(q.receive(timeout=0)[0], settle)()
    assert (q.stats().ready, q.stats().dead) == (0, len(stored))
    assert drained(q.dead, 20) == stored


@pytest.mark.parametrize("settle", ["reject", "nack"])
def test_a_message_that_finds_no_room_to_die_stays_claimed_and_can_be_acknowledged(opened: MakeQueue, fill_disk: Fill, settle: str) -> None:
    q = opened(max_deliveries=1)
    stored = fill(q, body=JUST_A_PAGE)
    fill_disk()
    died, acknowledged = 0, []
    for _ in stored:
        [message] = q.receive(timeout=0)
        try:
            getattr(message, settle)()
            died += 1
        except mqlite.StoreFull:
            message.ack()
            acknowledged.append(message.body[0])
    assert (q.stats().ready, q.stats().claimed, q.stats().dead) == (0, 0, died)
    assert sorted(acknowledged + drained(q.dead)) == stored


def test_retries_wait_and_come_back(opened: MakeQueue, fill_disk: Fill, clock: HandClock) -> None:
    q = opened(backoff=[60])
    stored = fill(q)
    fill_disk()
    failed = q.receive(100, timeout=0)
    for message in failed:
        message.nack()
    assert q.stats().delayed == 100
    found = drained(q)
    clock.pass_by(60)
    late = []
    while q.stats().delayed or q.stats().ready:
        late += drained(q)
        clock.pass_by(1)
    assert (found, sorted(late)) == (stored[100:], stored[:100])


def test_groups_drain_in_their_order(opened: MakeQueue, fill_disk: Fill) -> None:
    q = opened()
    stored = fill(q, lambda number: {"group": f"g{number % 5}"})
    fill_disk()
    assert is_refused(q)
    found: dict[int, list[int]] = {group: [] for group in range(5)}
    total = 0
    while total < len(stored):
        messages = q.receive(10, timeout=0)
        assert len({message.group for message in messages}) == len(messages)
        for message in messages:
            found[message.body[0] % 5].append(message.body[0])
            message.ack()
        total += len(messages)
    assert found == {group: [number for number in stored if number % 5 == group] for group in range(5)}


@pytest.mark.parametrize("order", [{"order": "lifo"}, {"aging": 5.0}, {"fair": True}], ids=str)
def test_every_order_drains(opened: MakeQueue, fill_disk: Fill, order: dict[str, Any]) -> None:
    q = opened(**order)
    stored = fill(q, lambda number: {"group": f"g{number % 7}"} if "fair" in order else {"priority": number % 3})
    fill_disk()
    assert is_refused(q)
    assert sorted(drained(q)) == stored


def test_delayed_messages_line_up_and_drain(opened: MakeQueue, fill_disk: Fill, clock: HandClock) -> None:
    q = opened()
    stored = fill(q, lambda number: {"delay": 60.0})
    fill_disk()
    assert (is_refused(q), drained(q), q.stats().delayed) == (True, [], len(stored))
    clock.pass_by(60)
    found = []
    while q.stats().delayed or q.stats().ready:
        before = len(found)
        found += drained(q)
        assert len(found) > before
        clock.pass_by(1)
    assert sorted(found) == stored


@pytest.mark.parametrize("delay", [None, 10_000.0])
def test_messages_expire_to_dead_letters(opened: MakeQueue, fill_disk: Fill, clock: HandClock, delay: float | None) -> None:
    q = opened()
    stored = fill(q, lambda number: {"ttl": 60.0, "delay": delay})
    fill_disk()
    assert is_refused(q)
    clock.pass_by(60)
    for _ in range(len(stored)):
        if q.stats().dead == len(stored):
            break
        clock.pass_by(1)
    assert (q.stats().ready, q.stats().delayed, q.stats().dead) == (0, 0, len(stored))
    letters = q.dead.receive(10, timeout=0)
    assert {letter.death.reason for letter in letters if letter.death} == {"expired"}
    assert sorted([letter.body[0] for letter in letters] + drained(q.dead, 20)) == stored


def test_messages_expire_and_are_dropped_which_makes_room(opened: MakeQueue, fill_disk: Fill, clock: HandClock) -> None:
    q = opened(expired="drop")
    stored = fill(q, lambda number: {"ttl": 60.0})
    fill_disk()
    clock.pass_by(60)
    assert (q.stats().ready, q.stats().dead, q.stats().bytes) == (0, 0, 0)
    assert len(fill(q)) > len(stored) // 2


def test_messages_can_be_cancelled_and_purged(opened: MakeQueue, fill_disk: Fill) -> None:
    q = opened()
    stored = fill(q)
    fill_disk()
    ids = [message.id for message in q.browse()]
    assert all(q.cancel(number) for number in ids[:200])
    assert q.purge() == len(stored) - 200
    assert drained(q) == []


def test_a_duplicate_still_gets_the_first_id(opened: MakeQueue, fill_disk: Fill) -> None:
    q = opened()
    first = q.put(["kept", BODY], dedup_id="d", unique="u")
    fill(q, lambda number: {"dedup_id": f"d{number}"})
    fill_disk()
    assert is_refused(q)
    assert (q.put(["again", BODY], dedup_id="d"), q.put(["again", BODY], unique="u")) == (first, first)
    with pytest.raises(mqlite.StoreFull):
        q.put([-1, BODY * 4], dedup_id="new")


def test_a_put_that_was_refused_is_not_taken_for_a_duplicate_later(opened: MakeQueue, fill_disk: Fill) -> None:
    q = opened()
    stored = fill(q, lambda number: {"dedup_id": f"d{number}"})
    fill_disk()
    with pytest.raises(mqlite.StoreFull):
        q.put(["late", BODY * 4], dedup_id="late")
    assert drained(q, 20) == stored
    assert q.put(["late", BODY], dedup_id="late") != 0
    assert drained(q) == ["late"]


def test_what_is_full_for_one_queue_drains_from_another(opened: MakeQueue, fill_disk: Fill) -> None:
    one, other = opened("one"), opened("other")
    few = [other.put([number, BODY]) for number in range(100)]
    stored = fill(one)
    fill_disk()
    assert is_refused(other)
    assert drained(other) == list(range(len(few)))
    assert drained(one, 50) == stored


def test_pause_resume_and_configure_answer_or_say_that_there_is_no_room(opened: MakeQueue, fill_disk: Fill) -> None:
    q = opened()
    stored = fill(q)
    fill_disk()
    for change in (q.pause, q.resume):
        with contextlib.suppress(mqlite.StoreFull):
            change()
    if q.is_paused:
        q.resume()
    assert drained(q, 50) == stored


# ---------------------------------------------------------------------- many at once, and several processes
SMALL = "x" * 60


@every_level
def test_thousands_of_acknowledgements_at_once_and_a_purge_find_room(opened: MakeQueue, level: str, fill_disk: Fill) -> None:
    many = 3_000 if level == "process" else 10_000  # there the worst case must fit into the reserve
    q = opened()
    while True:
        try:
            q.put_many([SMALL] * 500)
        except mqlite.StoreFull:
            break
    fill_disk()
    count = q.stats().ready
    assert count > 20_000
    q.ack_many(q.receive(1000, timeout=0))
    q.ack_many(q.receive(many, timeout=0))
    assert q.purge() == count - 1000 - many
    q.put_many([SMALL] * 100)
    assert q.stats().ready == 100


def put_until_full(talk: Any, path: str, child: int) -> None:
    """Put until nothing fits, then drain what comes; nothing but StoreFull is met."""
    with mqlite.open(path) as broker:
        queue = broker.queue("q")
        talk.say("ready")
        talk.hear()
        number = refused = 0
        while refused < 3:
            try:
                queue.put([child, number, BODY])
                number += 1
            except mqlite.StoreFull:
                refused += 1
        talk.say(number)
        talk.hear()
        found = []
        with contextlib.suppress(mqlite.Empty):
            while True:
                messages = queue.receive(5, timeout=0)
                queue.ack_many(messages)
                found += [message.body[:2] for message in messages]
        talk.say(found)
        talk.hear()


@every_level
def test_several_processes_fill_a_disk_and_drain_it(small_disk: str, level: str, fill_disk: Fill, children: Any) -> None:
    """In processes of their own: a page without a block would end one with SIGBUS."""
    path = os.path.join(small_disk, "app.mq")
    mqlite.open(path, durability=level, max_store_bytes=STORE_BYTES).close()
    workers = [children.fork(put_until_full, path, number) for number in range(3)]
    for worker in workers:
        assert worker.hear() == "ready"
    for worker in workers:
        worker.say("fill")
    stored = [[child, number] for child, worker in enumerate(workers) for number in range(worker.hear())]
    assert len(stored) > 500
    fill_disk()
    for worker in workers:
        worker.say("drain")
    found = [body for worker in workers for body in worker.hear()]
    assert sorted(found) == stored
    for worker in workers:
        worker.say("end")
        worker.end()
    with mqlite.open(path) as broker:
        assert broker.check() == []
        assert broker.queue("q").empty()


def test_the_reserve_of_the_log_does_not_take_the_room_of_the_claims_after_a_restart(
    small_disk: str, fill_disk: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the boot before go, and nothing else makes room for the new ones on a full disk."""
    path = os.path.join(small_disk, "app.mq")
    with mqlite.open(path, durability="process", max_store_bytes=STORE_BYTES) as broker:
        queue = broker.queue("q")
        stored = fill(queue, body="x" * 500)
        fill_disk()
        messages = queue.receive(len(stored), timeout=0)
        queue.ack_many(messages[:1400:7])  # one of each page: part of the reserve is used up
        del stored[:1400:7]
    for boot in ("second", "third"):
        monkeypatch.setattr(mqlite.system.directory, "boot_id", lambda boot=boot: boot)
        with mqlite.open(path) as broker:
            messages = broker.queue("q").receive(5, timeout=0)
            broker.queue("q").ack_many(messages)
            assert [message.body[0] for message in messages] == stored[:5]
            del stored[:5]
            assert broker.check() == []


@every_level
def test_a_process_that_opens_a_full_store_after_a_restart_drains_it(
    small_disk: str, level: str, fill_disk: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.path.join(small_disk, "app.mq")
    with mqlite.open(path, durability=level, max_store_bytes=STORE_BYTES) as broker:
        stored = fill(broker.queue("q"))
        fill_disk()
        os.truncate(os.path.join(small_disk, "filler"), 17 << 20)  # the claims of the next boot, and what is beside them
    monkeypatch.setattr(mqlite.system.directory, "boot_id", lambda: "another boot")
    with mqlite.open(path) as broker:
        fill_disk()
        assert drained(broker.queue("q"), 10) == stored
        assert broker.check() == []


def fill_beside_the_front(talk: Any, path: str) -> None:
    """The disk fills while messages pass by the tree; in a process of its own, which SIGBUS would end."""
    queue = mqlite.open(path).queue("q")
    stored = [number for number in range(40) if queue.put([number, SMALL])]
    log = queue._channel.engine.log
    talk.say(not log.is_folded())
    talk.hear()
    while len(stored) < 400:
        queue.put([len(stored), SMALL])
        stored.append(len(stored))
    with contextlib.suppress(mqlite.StoreFull):
        while True:
            queue.put([len(stored), BODY])
            stored.append(len(stored))
    for _ in range(20):
        assert queue.get(timeout=0)[0] == stored.pop(0)
    talk.say([stored, not log.is_folded()])
    talk.hear()


@pytest.mark.parametrize("level", ["process"])
@pytest.mark.parametrize("boot", [None, "another"])
def test_a_disk_that_fills_while_messages_pass_by_the_tree_drains(
    small_disk: str, level: str, fill_disk: Fill, children: Any, monkeypatch: pytest.MonkeyPatch, boot: str | None
) -> None:
    monkeypatch.setattr(mqlite.log.front, "FEWEST", 1)
    path = os.path.join(small_disk, "app.mq")
    mqlite.open(path, durability="process", max_store_bytes=STORE_BYTES).close()
    child = children.fork(fill_beside_the_front, path)
    assert child.hear()
    fill_disk()
    child.say("fill")
    stored, _ = child.hear()
    assert len(stored) > 380
    child.kill()
    if boot is not None:
        monkeypatch.setattr(mqlite.system.directory, "boot_id", lambda: boot)
    with mqlite.open(path) as broker:
        queue = broker.queue("q")
        assert [queue.get(timeout=0)[0] for _ in stored] == stored
        assert queue.empty()
        assert broker.check() == []
