"""What a topic costs: publishing against putting, a subscription against a queue, and what is kept for replay."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from alone import Result
from contenders import BODY
from sampling import Row, Samples, Settings, compared, in_turns, temporary_folder

import mqlite

KEY = "asked.for.this"
RECEIVERS = (1, 10, 100)
GROUP = 1000
LIMIT = 1000
SHORT = 10_000


@contextlib.contextmanager
def _stores(settings: Settings) -> Iterator[Iterator[tuple[str, mqlite.Broker]]]:
    """A store in memory, then one on disk; each is closed when the next is asked for."""

    def each() -> Iterator[tuple[str, mqlite.Broker]]:
        for where, path in (("in memory", None), ("full", os.path.join(folder, "store"))):
            with mqlite.open(path) as broker:
                yield where, broker

    with temporary_folder(settings.folder) as folder:
        yield each()


def _drain(queue: mqlite.Queue[Any]) -> None:
    """Take and acknowledge what is there."""
    with contextlib.suppress(mqlite.Empty):
        while True:
            queue.ack_many(queue.receive(GROUP, 0))


def _calls(seconds: float, step: Callable[[], Any], receivers: list[Any]) -> float:
    """Calls per second. What they have put is taken away outside of that time."""
    calls, start = 0, time.perf_counter()
    end = start + seconds
    while True:
        step()
        calls += 1
        now = time.perf_counter()
        if now >= end:
            break
    for queue in receivers:
        _drain(queue)
    return calls / (now - start)


def publish(settings: Settings) -> Result:
    """Publish to 1, 10 and 100 subscriptions, against a put, as many puts in as many queues, and a put_many in one queue."""
    rows, everything = [], {}
    with _stores(settings) as stores:
        for where, broker in stores:
            for count in RECEIVERS:
                topic = broker.topic(f"to {count}")
                subscriptions = [topic.subscribe(str(number), "asked.#") for number in range(count)]
                queues = [broker.queue(f"queue {count} {number}") for number in range(count)]
                one, batch = queues[0], [BODY] * count

                def puts(queues: list[Any] = queues) -> None:
                    for queue in queues:
                        queue.put(BODY)

                steps: dict[str, tuple[Callable[[], Any], list[Any]]] = {
                    "mqlite": (lambda topic=topic: topic.publish(BODY, KEY), subscriptions),
                    "one put": (lambda one=one: one.put(BODY), [one]),
                    f"{count} puts in {count} queues": (puts, queues),
                    f"put_many of {count}": (lambda one=one, batch=batch: one.put_many(batch), [one]),
                }
                if count == 1:
                    del steps[f"{count} puts in {count} queues"], steps[f"put_many of {count}"]
                found = in_turns(
                    settings,
                    {
                        name: (lambda step=step, receivers=receivers: _calls(settings.seconds / 2, step, receivers))
                        for name, (step, receivers) in steps.items()
                    },
                )
                label = f"{where}: publish to {count} subscription{'s' if count > 1 else ''}"
                rows += [compared("topic_publish", label, found, floor) for floor in list(steps)[1:]]
                everything |= {f"{label}, {name}": samples for name, samples in found.items()}
    return rows, everything


def consume(settings: Settings) -> Result:
    """Receive and ack one by one: what was published, against what was put."""

    def turn(queue: mqlite.Queue[Any], fill: Callable[[], Any]) -> float:
        for _ in range(max(1, int(20 * settings.seconds))):
            fill()
        taken, start = 0, time.perf_counter()
        end = start + settings.seconds
        with contextlib.suppress(mqlite.Empty):
            while time.perf_counter() < end:
                queue.receive(1, 0)[0].ack()
                taken += 1
        speed = taken / (time.perf_counter() - start)
        _drain(queue)
        return speed

    rows, everything = [], {}
    with _stores(settings) as stores:
        for where, broker in stores:
            topic, queue = broker.topic("topic"), broker.queue("queue")
            subscription = topic.subscribe("one")
            turns = {
                "mqlite": lambda s=subscription, t=topic: turn(s, lambda: t.publish_many([BODY] * GROUP, KEY)),
                "queue": lambda q=queue: turn(q, lambda: q.put_many([BODY] * GROUP)),
            }
            found = in_turns(settings, turns)
            rows.append(compared("topic_consume", f"{where}: receive+ack of a subscription", found, "queue", 0.7))
            everything |= {f"{where}, {name}": samples for name, samples in found.items()}
    return rows, everything


def others(settings: Settings) -> Result:
    """Publish to one subscription among 10,000 with other patterns, against publishing to one alone."""
    many = 1000 if settings.quick else 10_000
    rows, everything = [], {}
    with _stores(settings) as stores:
        for where, broker in stores:
            alone, crowded = broker.topic("alone"), broker.topic("crowded")
            for number in range(many):
                if number % 100 == 0:
                    settings.say(f"{where}: subscribing {number:,}")
                crowded.subscribe(str(number), f"other.{number}.*")
            turns = {}
            for name, topic in (("mqlite", crowded), ("alone", alone)):
                receivers = [topic.subscribe("asked", "asked.*.this")]
                step = lambda topic=topic: topic.publish(BODY, KEY)  # noqa: E731
                turns[name] = lambda step=step, receivers=receivers: _calls(settings.seconds, step, receivers)
            found = in_turns(settings, turns)
            label = f"{where}: publish beside {many:,} subscriptions that do not match"
            rows.append(compared("topic_others", label, found, "alone", 0.8))
            everything |= {f"{where}, {name}": samples for name, samples in found.items()}
    return rows, everything


class _Replays:
    """A topic that keeps so many messages, and new subscriptions that start with the first."""

    def __init__(self, broker: mqlite.Broker, count: int, settings: Settings, where: str) -> None:
        self._topic = broker.topic(f"keeps {count}", retention="limits")
        self._seconds = settings.seconds
        self._made = 0
        for number in range(count // GROUP):
            if number % 20 == 0:
                settings.say(f"{where}: publishing {number * GROUP:,}")
            self._topic.publish_many([BODY] * GROUP, KEY)

    @contextlib.contextmanager
    def _replay(self) -> Iterator[mqlite.Subscription]:
        self._made += 1
        with self._topic.subscribe(f"replay {self._made}", start="earliest") as subscription:
            yield subscription
            subscription.unsubscribe()

    def open_ms(self) -> float:
        """Until the first message is there."""
        start = time.perf_counter()
        with self._replay() as subscription:
            subscription.receive(1, 0)
            return (time.perf_counter() - start) * 1000

    def batches(self, *, to_the_end: bool = False) -> float:
        """Messages per second with receive(100) and ack_many."""
        with self._replay() as subscription:
            return _batches(subscription, None if to_the_end else self._seconds)

    def prefetched(self) -> float:
        """Messages per second of a consumer with prefetch=64, acknowledged 64 at a time."""
        with self._replay() as subscription, subscription.consumer(prefetch=64) as consumer:
            return _prefetched(subscription, consumer, self._seconds)


def _batches(queue: mqlite.Queue[Any], seconds: float | None) -> float:
    taken, start = 0, time.perf_counter()
    with contextlib.suppress(mqlite.Empty):
        while seconds is None or time.perf_counter() < start + seconds:
            messages = queue.receive(100, 0)
            queue.ack_many(messages)
            taken += len(messages)
    return taken / (time.perf_counter() - start)


def _prefetched(queue: mqlite.Queue[Any], consumer: mqlite.Consumer, seconds: float) -> float:
    taken, start = 0, time.perf_counter()
    with contextlib.suppress(mqlite.Empty):
        while time.perf_counter() < start + seconds:
            messages = [consumer.receive(0) for _ in range(64)]
            queue.ack_many(messages)
            taken += len(messages)
    return taken / (time.perf_counter() - start)


def replay(settings: Settings) -> Result:
    """From the first of 1,000,000 kept messages: how soon it begins, and how fast it is, against a queue."""
    many = 100_000 if settings.quick else 1_000_000
    rows: list[Row] = []
    everything: dict[str, Any] = {}
    with _stores(settings) as stores:
        for where, broker in stores:
            long, short = (_Replays(broker, count, settings, where) for count in (many, SHORT))
            queue = broker.queue("queue")

            def fill(queue: mqlite.Queue[Any] = queue) -> None:
                for _ in range(int(200 * settings.seconds) - len(queue) // GROUP):
                    queue.put_many([BODY] * GROUP)

            def queue_batches(queue: mqlite.Queue[Any] = queue, fill: Callable[[], None] = fill) -> float:
                fill()
                return _batches(queue, settings.seconds)

            def queue_prefetched(queue: mqlite.Queue[Any] = queue, fill: Callable[[], None] = fill) -> float:
                fill()
                with queue.consumer(prefetch=64) as consumer:
                    return _prefetched(queue, consumer, settings.seconds)

            name = f"{SHORT:,}"
            opens: Samples = in_turns(settings, {"mqlite": long.open_ms, name: short.open_ms})
            batches = in_turns(settings, {"mqlite": long.batches, "queue": queue_batches})
            prefetched = in_turns(settings, {"mqlite": long.prefetched, "queue": queue_prefetched})
            settings.say(f"{where}: reading all {many:,}")
            whole = long.batches(to_the_end=True)
            rows += [
                Row(
                    measure="topic_replay",
                    label=f"{where}: replay of {many:,}, subscribe and first message",
                    ours=median(opens["mqlite"]),
                    unit="ms",
                    floor=median(opens[name]),
                    floor_name=name,
                ),
                compared("topic_replay", f"{where}: replay of {many:,}, receive(100) + ack_many", batches, "queue"),
                compared("topic_replay", f"{where}: replay of {many:,}, consumer(prefetch=64)", prefetched, "queue"),
                Row(measure="topic_replay", label=f"{where}: replay of {many:,} to the end", ours=whole, unit="/s"),
            ]
            for what, found in (("open ms", opens), ("batches", batches), ("prefetched", prefetched)):
                everything |= {f"{where}, {what}, {name}": samples for name, samples in found.items()}
    return rows, everything


def limits(settings: Settings) -> Result:
    """Publish where each one drops the oldest that is kept for replay, against a topic that keeps nothing for it."""
    rows, everything = [], {}
    with _stores(settings) as stores:
        for where, broker in stores:
            kept = {"retention": "limits", "max_messages": LIMIT}
            topics = {
                "mqlite": broker.topic("at its limit", **kept),
                "interest": broker.topic("interest"),
                "no subscriber": broker.topic("unread", **kept),
            }
            turns = {}
            for name, topic in topics.items():
                receivers = [] if name == "no subscriber" else [topic.subscribe("one")]
                topic.publish_many([BODY] * LIMIT, KEY)
                step = lambda topic=topic: topic.publish(BODY, KEY)  # noqa: E731
                turns[name] = lambda step=step, receivers=receivers: _calls(settings.seconds, step, receivers)
            found = in_turns(settings, turns)
            label = f"{where}: publish at max_messages={LIMIT:,}"
            rows += [
                compared("topic_limits", f"{label}, one subscriber", found, "interest"),
                compared("topic_limits", f"{label}, no subscriber", found, "interest", ours="no subscriber"),
            ]
            everything |= {f"{where}, {name}": samples for name, samples in found.items()}
    return rows, everything
