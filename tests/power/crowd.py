"""Inside the stage: what is done to the front while it is recorded; and a program of threads of several processes, none of
which waits for another, so that they share flushes. Each has a queue of its own.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import threading
import time
import types
import zlib
from typing import Any

from crash.children import Children

import mqlite
import mqlite.log.front_flush
from mqlite.log.front_file import HEAD, SEQ
from mqlite.log.front_records import Records

from .records import CLOSED, FLUSHES, LANE_BEGUN, LANE_RETURNED, LOOKED, SYNCED

FRONT = ("front.py", "front_flush.py", "front_records.py")


def mark(kind: int, number: int) -> None:
    """Among the records, in its place."""
    ctypes.CDLL(None).power_mark(kind, ctypes.c_long(number))


class Lines:
    """Lines of the front that a thread carries out. At some of them maps are looked at; one may be the last."""

    def __init__(self) -> None:
        self.done = self._fatal = 0
        self._rnd = random.Random(0)
        sys.settrace(self._called)

    def kill_at(self, line: int) -> None:
        """Counted from now on; never at 0."""
        self.done, self._fatal = 0, line

    def _called(self, frame: Any, event: str, argument: object) -> Any:
        return self._traced if frame.f_code.co_filename.endswith(FRONT) else None

    def _traced(self, frame: Any, event: str, argument: object) -> Any:
        if event == "line":
            self.done += 1
            found = frame.f_locals
            is_append = frame.f_code is Records.append.__code__ and "seq" in found
            if self.done == self._fatal and is_append and found["words"][SEQ] == found["seq"] and found["words"][HEAD] == found["at"]:
                self._fatal += 1  # here it leaves an id that nothing ever has, which is no state of the model
            if self.done == self._fatal:
                mark(LOOKED, 0)  # what is stored in a map survives the process
                os.kill(os.getpid(), signal.SIGKILL)
            if self._rnd.random() < 0.1:
                mark(LOOKED, 0)
        return self._traced


def watch_flushes(front: str) -> None:
    """What the file of the front holds is marked before each flush of it; front="unflushed": it is not made at all; "slow":
    nothing is marked, and it takes a moment in which others come.
    """

    def fdatasync(fd: int) -> None:
        if front == "slow":
            os.fdatasync(fd)
            time.sleep(2e-3)
        elif front != "unflushed":
            mark(FLUSHES, zlib.crc32(os.pread(fd, os.fstat(fd).st_size, 0)))
            os.fdatasync(fd)

    mqlite.log.front_flush.os = types.SimpleNamespace(**{**vars(os), "fdatasync": fdatasync})  # type: ignore[attr-defined]


def lane_states(seed: str, lane: int, count: int) -> tuple[list[str], list[list[str]]]:
    """What one of them does, "put" or "get"; and what its queue has after each."""
    rnd = random.Random(f"{seed} {lane}")
    operations: list[str] = []
    states: list[list[str]] = [[]]
    for number in range(count):
        takes = states[-1] and rnd.random() < 0.45
        operations.append("get" if takes else "put")
        states.append(states[-1][1:] if takes else [*states[-1], f"{lane} {number} " + "x" * rnd.choice((1, 100, 1500))])
    return operations, states


def _work(queue: Any, seed: str, lane: int, count: int) -> None:
    Lines()
    operations, states = lane_states(seed, lane, count)
    for number, operation in enumerate(operations, 1):
        mark(LANE_BEGUN, lane << 32 | number)
        if operation == "put":
            queue.put(states[number][-1].encode())
        else:
            assert queue.get(timeout=0) == states[number - 1][0].encode()
        mark(LANE_RETURNED, lane << 32 | number)


def _process(talk: Any, store: str, seed: str, lanes: list[int], all_lanes: int, count: int) -> None:
    broker = mqlite.open(store, durability="full", max_store_bytes=16 << 20)
    queues = [broker.queue(f"lane {lane}") for lane in range(all_lanes)]
    talk.say("open")
    talk.hear()
    raised: list[BaseException] = []

    def work(lane: int) -> None:
        try:
            _work(queues[lane], seed, lane, count)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=work, args=(lane,)) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]
    talk.say("done")
    talk.hear()
    broker.close()
    talk.say("closed")


def crowd(store: str, seed: str, count: int, processes: int = 2, threads: int = 2, front: str = "") -> dict[str, Any]:
    """Each thread puts and gets `count` times."""
    if front:
        watch_flushes(front)
    children = Children()
    workers = []
    for number in range(processes):
        lanes = list(range(number * threads, (number + 1) * threads))
        workers.append(children.fork(_process, store, seed, lanes, processes * threads, count))
        workers[-1].hear()
    mark(SYNCED, 0)
    for _ in range(2):
        for worker in workers:
            worker.say("go on")
        for worker in workers:
            worker.hear()
    for worker in workers:
        worker.end()
    mark(CLOSED, 0)
    return {}
