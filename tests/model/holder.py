"""A process of its own that claims, settles and is killed: `python holder.py`, one JSON list per line.

    ["open", path]                        opens the queue, answers when it has joined
    ["receive", now_ns, count]            claims, answers with [[id, delivery_count, acquired_count], ...]
    ["consume", now_ns, prefetch, mode]   opens a prefetching consumer and takes one; answers as receive
    ["ack" | "nack" | "release", now_ns, id]
    ["close"]                             leaves in good order

MQLITE_TEST_FEWEST in its environment: how many plain operations in a row have messages pass by (log/front.py).

The time is told by the parent, so that its deadlines mean the same to both.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import mqlite
import mqlite.log.front
from mqlite.channel import Channel
from mqlite.store import open_store


class ToldClock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now_ns = 0

    def wall_ns(self) -> int:
        return self.now_ns

    def monotonic_ns(self) -> int:
        return self.now_ns


def open_queue(path: str | None, clock: ToldClock, **options: Any) -> mqlite.Queue[Any]:
    """The queue "q" of a store that goes by `clock`."""
    return mqlite.Queue.of(Channel.open(open_store(path, clock=clock), "q", options, "json"))


def main() -> None:
    mqlite.log.front.FEWEST = int(os.environ.get("MQLITE_TEST_FEWEST", mqlite.log.front.FEWEST))
    clock = ToldClock()
    queue: mqlite.Queue[Any] | None = None
    consumers: list[mqlite.Consumer] = []
    held: dict[int, mqlite.Message] = {}
    for line in sys.stdin:
        verb, *rest = json.loads(line)
        answer: Any = None
        if verb == "open":
            queue = open_queue(rest[0], clock)
        elif verb == "close":
            assert queue is not None
            queue.close()
        else:
            assert queue is not None
            clock.now_ns = rest[0]
            got: list[mqlite.Message] = []
            try:
                if verb == "receive":
                    got = queue.receive(rest[1], timeout=0)
                elif verb == "consume":
                    consumers.append(queue.consumer(prefetch=rest[1], mode=rest[2]))
                    got = [consumers[-1].receive(timeout=0)]
                else:
                    getattr(held.pop(rest[1]), verb)()
            except (mqlite.Empty, mqlite.LeaseLost, mqlite.QueueLocked) as error:
                answer = type(error).__name__
            held.update({message.id: message for message in got})
            if got:
                answer = [[message.id, message.delivery_count, message.acquired_count] for message in got]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
