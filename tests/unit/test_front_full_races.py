"""Messages that pass by at level "full": who comes between two steps of a flush, or of what follows one."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fixture_types import InThread
from front_things import front_of

import mqlite
import mqlite.log.front
from mqlite.log.front_file import FAILED, HEAD, LOST, OPEN
from mqlite.log.front_flush import Flushes

GUARD = 60.0


class KilledHereError(Exception):
    """Stands for a kill."""


@pytest.fixture
def broker(path: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[mqlite.Broker]:
    """One plain operation opens the front."""
    monkeypatch.setattr(mqlite.log.front, "FEWEST", 1)
    with mqlite.open(path, durability="full") as opened:
        yield opened


@pytest.fixture
def queue(broker: mqlite.Broker) -> mqlite.Queue[Any]:
    """One whose next plain message passes by."""
    queue: mqlite.Queue[Any] = broker.queue("q")
    for _ in range(3):
        queue.put("a")
        queue.get()
    assert front_of(queue).words[OPEN]
    return queue


def await_one_on_the_bench(queue: mqlite.Queue[Any]) -> None:
    bench = queue._engine.claims.bench
    while bench.is_empty():
        threading.Event().wait(0.001)


def test_who_sat_down_since_another_was_seen_to_wait_is_rung_after_an_interrupt(
    broker: mqlite.Broker, queue: mqlite.Queue[Any], in_thread: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = queue._engine
    first = in_thread(queue.receive, 1, timeout=GUARD)
    await_one_on_the_bench(queue)
    broker.queue("other").put_many(["x"])  # shuts the front
    engine.aftermath._forewarned_ns = 0
    queue.put("one")  # by the tree: who waits is looked for before the commit
    assert [each.body for each in first.result(GUARD)] == ["one"]
    second = in_thread(queue.receive, 1, timeout=GUARD)
    await_one_on_the_bench(queue)
    waiting = engine.claims.bench.everybody()
    rung: list[int] = []
    ring = engine.presence.bell.ring
    monkeypatch.setattr(engine.presence.bell, "ring", lambda owner, who: rung.append(who) or ring(owner, who))

    def interrupted(*_: Any) -> None:
        monkeypatch.undo()
        monkeypatch.setattr(engine.presence.bell, "ring", lambda owner, who: rung.append(who) or ring(owner, who))
        raise KeyboardInterrupt

    monkeypatch.setattr(Flushes, "wait_for_record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        queue.put("two")
    assert rung == [waiting[0].sleeper]
    assert [each.body for each in second.result(GUARD)] == ["two"]


@pytest.mark.parametrize("killed_at", [LOST, HEAD])
def test_a_kill_while_unflushed_messages_are_taken_out_leaves_a_put_that_raises_and_no_message(
    queue: mqlite.Queue[Any], in_thread: InThread, killed_at: int
) -> None:
    front = front_of(queue)
    flushes, words, head = front.flushes, front.words, front.words[HEAD]
    assert flushes is not None

    class Dies:
        """Words: a kill comes just when one of them is to be stored."""

        def __init__(self, place: int) -> None:
            self.place = place

        def __getitem__(self, place: int) -> int:
            return words[place]

        def __setitem__(self, place: int, word: int) -> None:
            if place == self.place:
                raise KilledHereError
            words[place] = word

    flushes._leading.acquire()
    put = in_thread(queue.put, "precious")
    while words[HEAD] == head:
        threading.Event().wait(0.001)
    with front.lock, front.guard:
        front.take_gate()
        words[FAILED] = 1
        flushes._words = Dies(killed_at)  # type: ignore[assignment]
        with pytest.raises(KilledHereError):
            flushes.give_up()
        flushes._words = words
    there = queue.qsize()  # folds
    with pytest.raises(mqlite.StoreError):
        put.result(GUARD)
    assert there == queue.qsize() == 0


def test_where_no_file_can_be_opened_for_it_a_put_goes_without_the_front(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqlite.log.front, "FEWEST", 1)
    with mqlite.open(path, durability="full") as broker:
        queue: mqlite.Queue[Any] = broker.queue("q")
        queue.put("a")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken: list[int] = []
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            queue.put("b")
        finally:
            for fd in taken:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert [queue.get(), queue.get()] == ["a", "b"]
