"""How much of the disk the front needs: a fold finds room whatever is in it, for it is counted before the front is opened."""

from __future__ import annotations

from typing import Any

import pytest

import mqlite
import mqlite.log.front
import mqlite.log.space
from mqlite.log.front import BROUGHT_BYTES
from mqlite.log.front_file import END, FOLD_PAGES, HEAD, MOST_RUNS, OPEN, RUNS
from mqlite.log.space import RESERVE_PAGES
from mqlite.system.control import ROOM


@pytest.fixture(params=["process", "full"])
def broker(path: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(mqlite.log.front, "FEWEST", 1)
    with mqlite.open(path, durability=request.param, max_store_bytes=1 << 30) as opened:
        yield opened
        assert opened.check() == []


def used_by_the_next_fold(broker: mqlite.Broker, monkeypatch: pytest.MonkeyPatch) -> int:
    """With no more room than there surely is, and a disk that gives none. Pages by which its count went down."""
    words = broker._store._control.words
    monkeypatch.setattr(mqlite.log.space.Space, "find", lambda self, pages, ahead=0: pages <= words[ROOM])
    words[ROOM] = FOLD_PAGES + RESERVE_PAGES
    log = broker._store.engine.log
    assert not log.is_folded()
    log.fold()
    return FOLD_PAGES + RESERVE_PAGES - int(words[ROOM])


def test_settled_ones_among_others_that_are_not_take_no_pages_of_their_own(broker: mqlite.Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second one of as many small messages of the tree as the front holds."""
    other = broker.queue("other")
    other.put_many([b"x" * 1000] * 12_000)  # a tree of more pages than there is room for
    queue = broker.queue("q")
    queue.put_many([b""] * 4000)
    front = broker._store.engine.log.front
    assert front is not None
    queue.put(b"")
    held = []
    while front.words[HEAD] < END - BROUGHT_BYTES:
        held.append(queue.receive(1, timeout=0)[0])
        queue.receive(1, timeout=0)[0].ack()
    assert len(held) > 900
    assert used_by_the_next_fold(broker, monkeypatch) < FOLD_PAGES + RESERVE_PAGES // 2
    monkeypatch.undo()
    assert queue.stats().claimed == len(held)
    for message in held:
        message.ack()


def test_settled_ones_all_over_a_large_tree_take_no_more_pages_than_are_counted(broker: mqlite.Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which rows hold, beside as many as fit in that were brought."""
    queue, other = broker.queue("q"), broker.queue("other")
    queue.put_many([b"x" * 1000] * 4000)
    other.put_many([b""] * 2000)
    front = broker._store.engine.log.front
    assert front is not None
    held = queue.receive(4000, timeout=0)
    other.put(b"")
    while front.words[HEAD] < END - BROUGHT_BYTES - 1100 * MOST_RUNS:
        other.receive(1, timeout=0)[0].ack()
    epoch, settled = front.words[OPEN], 0
    while front.words[RUNS] < MOST_RUNS:
        held[60 * settled].ack()
        settled += 1
    assert settled > MOST_RUNS // 2
    assert front.words[OPEN] == epoch
    assert used_by_the_next_fold(broker, monkeypatch) < FOLD_PAGES + RESERVE_PAGES // 2
    monkeypatch.undo()
    assert queue.stats().claimed == 4000 - settled


def test_messages_of_many_ranks_are_brought_for_no_more_ranks_than_are_counted(broker: mqlite.Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = broker.queue("q")
    for rank in range(300):
        queue.put_many([rank, rank], priority=-rank)
    queue.put(-1, priority=-1000)
    front = broker._store.engine.log.front
    assert front is not None
    ranks: dict[int, set[int]] = {}
    for number in range(500):
        assert queue.get(timeout=0) == number // 2
        ranks.setdefault(front.words[OPEN], set()).add(number // 2)
    assert max(map(len, ranks.values())) <= MOST_RUNS + 1  # a get that opens the front is made without it


def test_many_queues_and_ranks_fold_into_what_is_counted(broker: mqlite.Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    queues = [broker.queue(f"q{number}") for number in range(50)]
    for _ in range(20):
        for queue in queues:
            queue.put(b"x" * 100)
    assert used_by_the_next_fold(broker, monkeypatch) < FOLD_PAGES + RESERVE_PAGES // 2
