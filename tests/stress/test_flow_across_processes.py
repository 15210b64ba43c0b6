"""Limits, rates, duplicates and handling by id hold for all processes together, forked and spawned."""

from __future__ import annotations

import bisect
import multiprocessing
import time
from collections import Counter
from typing import Any

import pytest

import mqlite

GUARD = 60.0
POLICIES = ("block", "reject", "drop_oldest", "dead_letter")


# ---------------------------------------------------------------------- what the processes do
def put_a_lot(path: str, number: int, each: int, results: Any) -> None:
    """Puts one by one, in batches and through a producer; tells what was stored, and the highest level it saw."""
    stored: list[Any] = []
    most = 0
    with mqlite.Queue[Any]("q", path) as q, q.producer() as producer:
        for n in range(each):
            bodies = [[number, n, part] for part in range(3 if n % 4 == 3 else 1)]
            try:
                if n % 4 == 3:
                    q.put_many(bodies, timeout=GUARD)
                elif n % 4 == 2:
                    producer.put(bodies[0]).result(GUARD)
                else:
                    q.put(bodies[0], timeout=GUARD)
                stored += bodies
            except mqlite.Full:
                pass
            stats = q.stats()
            most = max(most, stats.ready + stats.delayed + stats.claimed)
        try:
            producer.flush()
        except mqlite.Full:
            pass  # told by the receipts
    results.put((stored, most))


def put_bytes(path: str, number: int, each: int, results: Any) -> None:
    """Puts bodies of many sizes; tells the most bytes that it saw."""
    most = 0
    with mqlite.Queue[Any]("q", path) as q:
        for n in range(each):
            try:
                q.put(b"x" * (n * 37 % 120), timeout=GUARD)
            except mqlite.Full:
                pass
            most = max(most, q.stats().bytes)
    results.put(most)


def take_and_time(path: str, number: int, results: Any) -> None:
    """Takes until the end; tells when each message was asked for, and when it was there."""
    times = []
    with mqlite.Queue[Any]("q", path) as q:
        results.put("ready")
        while True:
            asked = time.monotonic()
            body = q.get(timeout=GUARD)
            times.append((asked, time.monotonic()))
            if body == "end":
                break
    results.put(times)


def put_the_same(path: str, number: int, each: int, results: Any) -> None:
    """Puts the same dedup_ids and unique keys as the others; tells the ids."""
    with mqlite.Queue[Any]("q", path) as q:
        ids = [(q.put([number, n], dedup_id=f"d{n}"), q.put([number, n], unique=f"u{n}")) for n in range(each)]
    results.put(ids)


def cancel_all(path: str, number: int, ids: list[int], results: Any) -> None:
    """Cancels what it can; tells which."""
    done = []
    with mqlite.Queue[Any]("q", path) as q:
        for message_id in ids if number % 2 else reversed(ids):
            try:
                if q.cancel(message_id):
                    done.append(message_id)
            except mqlite.AlreadyClaimed:
                pass
    results.put(("cancelled", done))


def receive_all(path: str, number: int, ids: list[int], results: Any) -> None:
    """Receives and acknowledges until nothing is left; tells which."""
    done = []
    with mqlite.Queue[Any]("q", path) as q:
        while True:
            try:
                messages = q.receive(2, timeout=0)
            except mqlite.Empty:
                stats = q.stats()
                if not stats.ready and not stats.claimed:
                    break
                continue
            done += [message.id for message in messages]
            q.ack_many(messages)
    results.put(("delivered", done))


class Crew:
    """Processes of one start method that run functions of this module, and their results."""

    def __init__(self, method: str) -> None:
        self._context: Any = multiprocessing.get_context(method)
        self.results: Any = self._context.Queue()
        self._processes: list[Any] = []

    def start(self, function: Any, *arguments: Any) -> None:
        process = self._context.Process(target=function, args=(*arguments, self.results))
        process.start()
        self._processes.append(process)

    def hear(self, count: int) -> list[Any]:
        return [self.results.get(timeout=GUARD) for _ in range(count)]

    def end(self) -> None:
        for process in self._processes:
            process.join(GUARD)
            assert process.exitcode == 0

    def kill(self) -> None:
        for process in self._processes:
            if process.is_alive():
                process.kill()
                process.join(GUARD)
        self.results.close()
        self.results.join_thread()


@pytest.fixture(params=["fork", "spawn"])
def crew(request: pytest.FixtureRequest) -> Any:
    """A crew of each start method."""
    made = Crew(request.param)
    yield made
    made.kill()


def test_processes_never_exceed_maxsize_whatever_the_policy(path: str, crew: Any) -> None:
    maxsize, processes, each = 5, 3, 24
    for overflow in POLICIES:
        store = f"{path}.{overflow}"
        q: mqlite.Queue[Any] = mqlite.Queue("q", store, maxsize=maxsize, overflow=overflow)
        for number in range(processes):
            crew.start(put_a_lot, store, number, each)
        heard: list[Any] = []
        taken: list[Any] = []
        most = 0
        while len(heard) < processes:
            try:
                messages = q.receive(2, timeout=0.02)
            except mqlite.Empty:
                messages = []
            stats = q.stats()
            most = max(most, stats.ready + stats.delayed + stats.claimed)
            taken += [message.body for message in messages]
            q.ack_many(messages)
            if not crew.results.empty():
                heard += crew.hear(1)
        crew.end()
        assert max(most, *(level for _, level in heard)) <= maxsize
        left = [message.body for message in q.browse()]
        dead = [message.body for message in q.dead.browse()]
        stored = Counter(tuple(body) for bodies, _ in heard for body in bodies)
        found = Counter(tuple(body) for body in [*taken, *left, *dead])
        assert set(found.values()) == {1}
        if overflow == "drop_oldest":
            assert found.keys() <= stored.keys()
        else:
            assert found == stored
        assert q.check() == []
        q.close()


def test_processes_never_exceed_maxbytes(path: str, crew: Any) -> None:
    q: mqlite.Queue[Any] = mqlite.Queue("q", path, overflow="drop_oldest")
    q.put(b"x" * 120)
    limit = 4 * q.stats().bytes
    q.configure(maxbytes=limit)
    for number in range(3):
        crew.start(put_bytes, path, number, 60)
    assert max(crew.hear(3)) <= limit
    crew.end()
    assert (q.stats().claimed, q.check()) == (0, [])
    q.close()


@pytest.mark.parametrize(("rate", "burst", "per_second"), [(40, 1, 40.0), ((10, 0.25), 10, 40.0)])
def test_processes_are_handed_no_more_than_their_common_rate(path: str, crew: Any, rate: Any, burst: int, per_second: float) -> None:
    messages, processes = 60, 3
    q: mqlite.Queue[Any] = mqlite.Queue("q", path, rate=rate)
    for number in range(processes):
        crew.start(take_and_time, path, number)
    assert crew.hear(processes) == ["ready"] * processes
    q.put_many([*range(messages), *["end"] * processes])
    times = [span for spans in crew.hear(processes) for span in spans]
    crew.end()
    assert len(times) == messages + processes
    # What was asked for at or after `start` and there by `end` was claimed in between.
    asked = sorted({start for start, _ in times})
    for start in asked:
        ends = sorted(there for begun, there in times if begun >= start)
        for end in ends:
            assert bisect.bisect_right(ends, end) <= burst + (end - start) * per_second + 1e-6
    assert q.check() == []
    q.close()


def test_of_processes_that_put_the_same_id_or_key_one_stores_it(path: str, crew: Any) -> None:
    processes, each = 3, 40
    q: mqlite.Queue[Any] = mqlite.Queue("q", path)
    for number in range(processes):
        crew.start(put_the_same, path, number, each)
    heard = crew.hear(processes)
    crew.end()
    assert heard[0] == heard[1] == heard[2]
    assert sorted(message.id for message in q.browse()) == sorted(number for pair in heard[0] for number in pair)
    assert q.check() == []
    q.close()


def test_across_processes_a_message_is_cancelled_or_delivered_and_never_both(path: str, crew: Any) -> None:
    q: mqlite.Queue[Any] = mqlite.Queue("q", path)
    q.pause()
    ids = q.put_many(list(range(200)))
    for number in range(2):
        crew.start(cancel_all, path, number, ids)
    q.resume()
    crew.start(receive_all, path, 2, ids)
    heard = crew.hear(3)
    crew.end()
    assert sorted(number for _, done in heard for number in done) == ids
    assert (q.stats().ready, q.stats().claimed, q.check()) == (0, 0, [])
    q.close()
