"""Calls from the children of one start method, answered here and there.

    python calls_everywhere.py spawn FOLDER

Prints "ok" when all went well. A program of its own, since spawn and forkserver import the main module again.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import Any

import mqlite

GUARD = 60.0


def double(body: Any) -> Any:
    return [body, body]


def call(queue: mqlite.Queue[Any], number: int, told: Any) -> None:
    """Ends without closing anything."""
    told.send([queue.call([number, n], GUARD) for n in range(20)])


def respond(queue: mqlite.Queue[Any], told: Any, over: Any) -> None:
    with queue.respond(double):
        told.send("ready")
        over.wait(GUARD)
    queue.close()


def main(method: str, folder: str) -> None:
    context: Any = multiprocessing.get_context(method)
    queue: mqlite.Queue[Any] = mqlite.Queue("work", os.path.join(folder, "app.mq"))
    queue.respond(double)
    assert queue.call("here", GUARD) == ["here", "here"]
    hears, tells = context.Pipe(duplex=False)
    over = context.Event()
    responders = [context.Process(target=respond, args=(queue, tells, over)) for _ in range(2)]
    for process in responders:
        process.start()
    assert [hears.recv() for _ in responders] == ["ready", "ready"]
    lines = [context.Pipe(duplex=False) for _ in range(3)]
    callers = [context.Process(target=call, args=(queue, number, line)) for number, (_, line) in enumerate(lines)]
    for process in callers:
        process.start()
    for n in range(20):
        assert queue.call(n, GUARD) == [n, n]
    for number, (line, _) in enumerate(lines):
        assert line.recv() == [[[number, n], [number, n]] for n in range(20)]
    over.set()
    for process in [*callers, *responders]:
        process.join(GUARD)
        assert process.exitcode == 0, process
    assert queue.call("at last", GUARD) == ["at last", "at last"]
    stats = queue.stats()
    assert (stats.ready, stats.claimed, stats.dead) == (0, 0, 0)
    assert queue.check() == []
    queue.close()
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
