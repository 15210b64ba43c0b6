"""What a queue's policies cost: each against a queue that does not use them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from alone import Result
from contenders import BODY
from sampling import Settings, compared, in_turns, rate, temporary_folder

import mqlite

MANY = 100_000
GROUP = 1000
AGES = 86400.0
SOON = 1e-6
GROUPS = 10_000


def _through(queue: mqlite.Queue[bytes], option: str = "", values: Iterable[Any] = ()) -> Callable[[], None]:
    """Put, receive and ack one message, with an option that takes these values in turn."""
    turns = itertools.cycle(values)

    def step() -> None:
        if option:
            queue.put(BODY, **{option: next(turns)})
        else:
            queue.put(BODY)
        queue.receive(1, 0)[0].ack()

    return step


def _backlogs(option: str, values: Sequence[Any], settings: Settings, **options: Any) -> Result:
    """Put, receive and ack in a queue of 100,000 messages that all have the option, against one of 100,000 plain messages."""
    rows, everything = [], {}
    with temporary_folder(settings.folder) as folder:
        for where, path in (("in memory", None), ("full", os.path.join(folder, "backlogs"))):
            settings.say(f"{where}: putting 2 x {MANY:,}")
            plain, special = mqlite.Queue[bytes]("plain", path), mqlite.Queue[bytes]("special", path, **options)
            for _ in range(MANY // GROUP):
                plain.put_many([BODY] * GROUP)
            with special.producer() as producer:
                for number in range(MANY):
                    producer.put(BODY, **{option: values[number % len(values)]})
            found = in_turns(
                settings,
                {
                    "mqlite": lambda special=special: rate(settings.seconds, _through(special, option, values)),
                    "plain": lambda plain=plain: rate(settings.seconds, _through(plain)),
                },
            )
            plain.close()
            special.close()
            what = ", ".join([option, *(f"{name}={value}" for name, value in options.items())])
            rows.append(compared("policies", f"{where}: put, receive+ack, {MANY:,} messages with {what}", found, "plain", 0.5))
            everything |= {f"{where}, {what}, {name}": samples for name, samples in found.items()}
    return rows, everything


def groups(settings: Settings) -> Result:
    """100,000 messages in 10,000 groups."""
    return _backlogs("group", [f"customer {number}" for number in range(GROUPS)], settings)


def fair(settings: Settings) -> Result:
    """The same where the groups take turns."""
    return _backlogs("group", [f"customer {number}" for number in range(GROUPS)], settings, fair=True)


def expiry(settings: Settings) -> Result:
    """100,000 messages that expire in a day."""
    return _backlogs("ttl", [AGES], settings)


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
