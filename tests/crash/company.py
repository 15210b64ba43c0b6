"""A process whose messages pass by beside one that is killed: each of its operations returns, and is what it should be."""

from __future__ import annotations

import os
import threading
from typing import Any

from front_things import slow_flush

import mqlite


def accompany(talk: Any, path: str) -> None:
    """Two threads put, take and settle in queues of their own until it is told to end; it says what is wrong then."""
    os.fdatasync = slow_flush
    over, wrong = threading.Event(), list[str]()
    broker = mqlite.open(path)

    def go_on(name: str) -> None:
        queue: mqlite.Queue[Any] = broker.queue(name)
        number = 0
        while not over.is_set():
            queue.put(b"%d" % number)
            if number % 2:
                found = queue.get(timeout=0)
                queue.task_done()
            else:
                [message] = queue.receive(timeout=0)
                found = message.body
                message.ack()
            if found != b"%d" % number:
                wrong.append(f"{found!r} came, and not {number}")
            number += 1
        if queue.qsize() or queue.unfinished_tasks:
            wrong.append(f"{name} has {queue.qsize()} messages, {queue.unfinished_tasks} tasks left")
        queue.close()

    def told(name: str) -> None:
        try:
            go_on(name)
        except BaseException as error:
            wrong.append(f"{name}: {error!r}")

    threads = [threading.Thread(target=told, args=(f"company {os.getpid()} {number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    talk.say("goes on")
    talk.hear()
    over.set()
    for thread in threads:
        thread.join()
    broker.close()
    talk.say(wrong)
