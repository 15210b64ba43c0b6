"""What a queue's policies cost: each against a queue that does not use them."""

from __future__ import annotations

import os
from collections.abc import Callable

from alone import Result
from contenders import BODY
from sampling import Settings, compared, in_turns, rate, temporary_folder

import mqlite

MANY = 100_000
GROUP = 1000
AGES = 86400.0
SOON = 1e-6


def _through(queue: mqlite.Queue[bytes]) -> Callable[[], None]:
    def step() -> None:
        queue.put(BODY)
        queue.receive(1, 0)[0].ack()

    return step


def _due(queue: mqlite.Queue[bytes], delay: float | None) -> Callable[[], None]:
    def step() -> None:
        queue.put_many([BODY] * GROUP, delay=delay)
        taken = 0
        while taken < GROUP:
            messages = queue.receive(GROUP)
            queue.ack_many(messages)
            taken += len(messages)

    return step


def delays(settings: Settings) -> Result:
    """Put, receive and ack beside 100,000 messages that wait; and messages that wait a moment, against those that do not."""
    rows, everything = [], {}
    with temporary_folder(settings.folder) as folder:
        for where, path in (("in memory", None), ("full", os.path.join(folder, "delays"))):
            settings.say(f"{where}: delaying {MANY:,}")
            plain, waiting = mqlite.Queue[bytes]("plain", path), mqlite.Queue[bytes]("waiting", path)
            for _ in range(MANY // GROUP):
                waiting.put_many([BODY] * GROUP, delay=AGES)
            one = in_turns(
                settings,
                {
                    "mqlite": lambda waiting=waiting: rate(settings.seconds, _through(waiting)),
                    "none waiting": lambda plain=plain: rate(settings.seconds, _through(plain)),
                },
            )
            due = in_turns(
                settings,
                {
                    "mqlite": lambda plain=plain: rate(settings.seconds, _due(plain, SOON), GROUP),
                    "no delay": lambda plain=plain: rate(settings.seconds, _due(plain, None), GROUP),
                },
            )
            plain.close()
            waiting.close()
            rows += [
                compared("delays", f"{where}: put, receive+ack beside {MANY:,} delayed", one, "none waiting", 0.5),
                compared("delays", f"{where}: put_many, receive, ack_many of {GROUP:,} with a delay", due, "no delay", 0.5),
            ]
            everything |= {f"{where}, {kind}, {name}": values for kind, found in (("beside", one), ("due", due)) for name, values in found.items()}
    return rows, everything
