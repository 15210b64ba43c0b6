"""maxsize is exact for all processes together, and who waits for room gets it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import mqlite

GUARD = 60.0


def test_processes_that_put_at_once_never_exceed_maxsize(path: str, children: Any) -> None:
    maxsize = 7
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path, maxsize=maxsize)

    def putter(talk: Any, number: int) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        stored = 0
        talk.say("ready")
        talk.hear()
        for n in range(20):
            try:
                if n % 4 == 3:
                    mine.put_many([[number, n]] * 3, block=False)
                    stored += 3
                else:
                    mine.put([number, n], block=False)
                    stored += 1
            except mqlite.Full:
                pass
        talk.say(stored)
        mine.close()

    putters = [children.fork(putter, number) for number in range(4)]
    for child in putters:
        assert child.hear() == "ready"
    for child in putters:
        child.say("go")
    assert sum(child.hear() for child in putters) == maxsize
    assert queue.qsize() == maxsize
    assert queue.full()
    for child in putters:
        child.end()
    assert queue.check() == []
    queue.close()


def test_blocked_puts_of_many_processes_all_end_and_the_limit_holds_all_the_time(path: str, children: Any) -> None:
    maxsize, each, processes = 5, 60, 4
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path, maxsize=maxsize)

    def putter(talk: Any, number: int) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        for n in range(each):
            if n % 10 == 9:
                mine.put_many([[number, n, part] for part in range(3)], timeout=GUARD)
            else:
                mine.put([number, n, 0], timeout=GUARD)
        talk.say("all")
        mine.close()

    putters = [children.fork(putter, number) for number in range(processes)]
    expected = processes * (each + 2 * each // 10)
    got: Counter[tuple[Any, ...]] = Counter()
    while sum(got.values()) < expected:
        messages = queue.receive(3, timeout=GUARD)
        stats = queue.stats()
        assert stats.ready + stats.claimed <= maxsize
        got.update(tuple(message.body) for message in messages)
        queue.ack_many(messages)
    assert set(got.values()) == {1}
    for child in putters:
        assert child.hear() == "all"
        child.end()
    assert queue.check() == []
    queue.close()


def _thread(target: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def _waiting_for_room(queue: mqlite.Queue[Any], count: int) -> None:
    """Until so many threads are registered as waiting for room."""
    from mqlite.claims import Kind

    pause = threading.Event()
    for _ in range(int(GUARD / 0.005)):
        with queue._engine.claims.read() as claims:
            if sum(1 for _ in claims.waiting(queue._state.id, Kind.SPACE)) >= count:
                return
        pause.wait(0.005)
    raise AssertionError("nobody waits")


def test_a_group_that_does_not_fit_does_not_keep_one_that_fits_from_the_room(make_queue: Callable[..., mqlite.Queue[Any]]) -> None:
    queue = make_queue(maxsize=2)
    queue.put_many(["a", "b"])
    group = _thread(lambda: queue.put_many(["group", "group"]))
    _waiting_for_room(queue, 1)
    single = _thread(lambda: queue.put("single"))
    _waiting_for_room(queue, 2)
    assert queue.get(timeout=GUARD) == "a"
    single.join(5)
    stuck = single.is_alive()
    assert queue.get(timeout=GUARD) == "b"  # now all of them can go on
    if not stuck:
        assert queue.get(timeout=GUARD) == "single"
    group.join(GUARD)
    rest = sorted(queue.get(timeout=GUARD) for _ in range(2))
    single.join(GUARD)
    assert rest == ["group", "group"]
    assert not stuck, "there was room for one message, and a put of one message slept on"


@pytest.mark.parametrize("how", ["ack", "get", "reject", "configure"])
def test_a_blocked_put_in_another_process_is_woken_by(how: str, path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path, maxsize=1)
    queue.put("first")

    def putter(talk: Any) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        talk.say("waiting")
        mine.put("second", timeout=GUARD)
        talk.say("done")
        mine.close()

    [message] = queue.receive() if how in ("ack", "reject") else [None]
    child = children.fork(putter)
    assert child.hear() == "waiting"
    _waiting_for_room(queue, 1)
    if message is not None:
        getattr(message, how)()
    elif how == "get":
        queue.get()
    else:
        queue.configure(maxsize=2)
    assert child.hear() == "done"
    child.end()
    queue.close()
