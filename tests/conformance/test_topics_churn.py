"""What comes and goes leaves nothing behind: after thousands of messages and subscriptions the store is as small as before."""

# ruff: noqa: F811
from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
from crash.children import Children
from fixture_types import InThread
from hand_clock import HandClock
from topic_things import GUARD, Shop, disk_shop, got, held, shop, timed_shop  # noqa: F401

import mqlite

Topic = mqlite.Topic[Any]


def settled(shop: Shop) -> tuple[int, int]:
    """The entries of the store, with nothing left to be removed."""
    assert shop.check() == []
    return shop.entries()


def use_everything_once(shop: Shop) -> None:
    """The numbers of the store, of a queue and of its dead letters have an entry each once they were used."""
    topic, queue = shop.topic(), shop.queue()
    topic.subscribe(durable=False).close()
    queue.put(1)
    for message in held(queue):
        message.reject()


def test_publishing_and_taking_two_thousand_times_leaves_nothing(shop: Shop) -> None:
    topic = shop.topic()
    subs = [topic.subscribe(name, pattern) for name, pattern in [("all", "#"), ("a", "a.*"), ("b", "b.#")]]

    def round_(count: int) -> None:
        for n in range(count):
            topic.publish_many(range(10), ("a.x", "b", "c")[n % 3], priority=n % 2, headers={"n": n}, group=f"g{n % 4}")
        assert sum(len(got(sub)) for sub in subs) == 10 * count + 10 * len([n for n in range(count) if n % 3 < 2])

    round_(6)
    before = settled(shop)
    round_(200)
    assert settled(shop) == before
    assert topic.stats().stored == 0


def test_subscribing_and_unsubscribing_two_thousand_times_leaves_nothing(shop: Shop) -> None:
    topic = shop.topic()

    def round_(count: int) -> None:
        for n in range(count):
            durable = n % 3 != 0
            sub = topic.subscribe(f"s{n}" if durable else None, "a.#" if n % 2 else "#", {"type": "t"} if n % 5 == 0 else None, durable=durable)
            if n % 20 == 0:
                topic.publish_many(range(3), "a.b", type="t", group="g")
                held(sub, 1)
            if durable:
                sub.unsubscribe()
            sub.close()

    round_(20)
    before = settled(shop)
    round_(2000 if not shop.on_disk else 400)
    assert settled(shop) == before
    assert (topic.subscriptions(), topic.stats().stored) == ([], 0)


def test_seeking_and_replaying_many_times_leaves_nothing(shop: Shop) -> None:
    topic = shop.topic("history", retention="limits", max_messages=50)
    sub = topic.subscribe("s", "a")

    def round_(count: int) -> None:
        for n in range(count):
            topic.publish_many(range(5), "a" if n % 2 else "b", replace_key=None, ttl=1000)
            sub.seek("earliest")
            held(sub, 3)
            if n % 3 == 0:
                sub.seek("latest")
                late = topic.subscribe(durable=False, start="earliest")
                held(late, 2)
                late.close()
        sub.seek("latest")

    round_(40)
    before = settled(shop)
    round_(80)
    assert topic.stats().stored == 50
    after = settled(shop)
    assert (after[0], after[1]) == before


@pytest.mark.parametrize("seed", range(4))
def test_everything_at_random_leaves_nothing(timed_shop: Shop, clock: HandClock, seed: int) -> None:
    dice = random.Random(seed)
    print("seed", seed)
    retention = ["interest", "limits"][seed % 2]
    topic = timed_shop.topic(retention=retention, max_messages=20 if retention == "limits" else None, compact=seed == 3)
    queue = timed_shop.queue(maxsize=30, overflow="drop_oldest", max_deliveries=2)
    topic.bind(queue, "a.*")
    kinds: list[dict[str, Any]] = [
        {},
        {"order": "lifo"},
        {"fair": True},
        {"aging": 2},
        {"maxsize": 5, "overflow": "drop_oldest"},
        {"maxsize": 5, "overflow": "dead_letter"},
        {"backoff": [1, 2], "max_deliveries": 2},
        {"ttl": 5, "expired": "drop"},
        {"durable": False},
        {"expires_after": 10},
        {"start": "earliest"},
    ]
    subs: dict[str, mqlite.Subscription] = {}

    def step(number: int) -> None:
        what = dice.random()
        if what < 0.35:
            options: dict[str, Any] = {"priority": dice.randint(-1, 1)}
            for name, value in {"group": dice.choice("gh"), "ttl": 8, "delay": dice.choice([1, 5]), "replace_key": dice.choice("kl"), "headers": {"n": number}, "retain": True, "type": "t"}.items():
                if dice.random() < 0.2:
                    options[name] = value
            with contextlib.suppress(mqlite.Full):  # where all is claimed, there is nothing to drop
                topic.publish([number, "x" * dice.choice([1, 500])], dice.choice(["a", "a.b", "a.c", "b"]), timeout=0, **options)
        elif what < 0.45 and len(subs) < 8:
            name = f"s{dice.randrange(12)}"
            if name in topic.subscriptions():
                topic.unsubscribe(name)
            subs[name] = topic.subscribe(name, dice.choice(["#", "a.#", "*.b"]), **dice.choice(kinds))
        elif what < 0.52 and subs:
            name = dice.choice(sorted(subs))
            if dice.random() < 0.5:
                topic.unsubscribe(name)
            subs.pop(name).close()
        elif what < 0.6 and subs:
            with contextlib.suppress(mqlite.NoSuchSubscription):
                subs[dice.choice(sorted(subs))].seek(dice.choice(["earliest", "latest"]))
        elif what < 0.65:
            clock.pass_by(dice.choice([0.5, 3]))
        elif what < 0.7:
            held(queue, 2)
        elif subs:
            try:
                messages = held(subs[dice.choice(sorted(subs))], dice.randint(1, 4))
            except mqlite.NoSuchSubscription:
                return
            for message in messages:
                how = dice.choice(["ack", "ack", "nack", "reject", "release", "hold", "nack later"])
                if how == "nack later":
                    message.nack(delay=2)
                elif how != "hold":
                    getattr(message, how)()

    def come_to_rest() -> None:
        for name in list(topic.subscriptions()):
            topic.unsubscribe(name)
        for sub in subs.values():
            sub.close()
        subs.clear()
        clock.pass_by(10_000)  # what was held times out
        got(queue)
        queue.purge()
        queue.dead.purge()
        for message in topic.retained():
            topic.clear_retained(message.routing_key or "")
        topic.stats()

    for number in range(60):
        step(number)
    use_everything_once(timed_shop)
    come_to_rest()
    before = settled(timed_shop)[0]
    for number in range(400):
        step(number)
        if number % 80 == 0:
            assert timed_shop.check() == []
    come_to_rest()
    kept = topic.stats().retained if retention == "limits" or seed == 3 else 0
    assert (topic.subscriptions(), topic.stats().stored, queue.stats().claimed, queue.stats().dead) == ([], kept, 0, 0)
    assert settled(timed_shop)[0] <= before + 3 * kept


def test_retained_messages_and_dedup_ids_come_and_go(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic(dedup_window=10)
    topic.subscribe("s")

    def round_(count: int) -> None:
        for n in range(count):
            topic.publish(n, f"k{n % 7}", retain=True, dedup_id=f"d{n}")
            clock.pass_by(1)
        got(topic.subscription("s"))
        clock.pass_by(20)
        for n in range(7):
            topic.clear_retained(f"k{n}")
        topic.publish("last", dedup_id="last")
        got(topic.subscription("s"))

    round_(20)
    before = settled(timed_shop)
    round_(150)
    assert settled(timed_shop)[0] <= before[0]


def test_threads_that_do_everything_at_once_leave_nothing(shop: Shop, in_thread: InThread) -> None:
    topic = shop.topic()
    steady = topic.subscribe("steady")

    def work(thread: int) -> int:
        published = 0
        for n in range(20):
            try:
                with topic.subscribe(f"s{n % 2}", durable=True, maxsize=50, overflow="drop_oldest") as sub:
                    for _ in range(2):
                        topic.publish([thread, n])
                        published += 1
                    held(sub, 2)
                    if n % 5 == thread:
                        sub.seek("earliest")
                    if n % 3 == 0:
                        sub.unsubscribe()
            except mqlite.NoSuchSubscription:
                continue
            except mqlite.Full:
                continue
        return published

    published = sum(worker.result(60) for worker in [in_thread(work, thread) for thread in range(3)])
    for name in ("s0", "s1"):
        topic.unsubscribe(name)
    assert len(got(steady)) == published
    assert (topic.stats().stored, topic.subscriptions()) == (0, ["steady"])


def come_and_go(talk: Any, path: str, number: int) -> None:
    topic: Topic = mqlite.Topic("events", path)
    talk.say("ready")
    for n in range(1000):
        sub = topic.subscribe(f"{number}-{n % 2}", durable=n % 2 == 0, start="earliest")
        topic.publish([number, n], timeout=GUARD)
        held(sub, 2)
        if n % 2 == 0:
            sub.unsubscribe()
        sub.close()


def test_processes_that_come_and_go_and_are_killed_leave_nothing(disk_shop: Shop, children: Children) -> None:
    topic = disk_shop.topic()
    steady = topic.subscribe("steady")
    topic.publish(1)
    got(steady)
    topic.subscribe(durable=False).close()  # the numbers of the store have an entry from now on
    before = settled(disk_shop)
    for _ in range(3):
        workers = [children.fork(come_and_go, disk_shop.path, number) for number in range(2)]
        for worker in workers:
            assert worker.hear() == "ready"
        for _ in range(30):
            [message] = steady.receive(timeout=GUARD)
            message.ack()
        for worker in workers:
            worker.kill()
    got(steady)
    for name in topic.subscriptions():
        if name != "steady":
            topic.unsubscribe(name)
    topic.unsubscribe("nobody")
    got(steady)
    assert (topic.stats().stored, topic.subscriptions()) == (0, ["steady"])
    log, claims = settled(disk_shop)
    assert log == before[0]
    assert claims <= before[1]  # a death has cursors forgotten


def test_all_is_the_same_after_a_reopen(shop: Shop) -> None:
    topic = shop.topic()
    for n in range(10):
        topic.subscribe(f"s{n}", f"k{n}.#").close()
        topic.publish_many(range(20), f"k{n}.x")
    for n in range(0, 10, 2):
        topic.unsubscribe(f"s{n}")
    before = (topic.subscriptions(), topic.stats())
    topic = shop.again()
    assert (topic.subscriptions(), topic.stats()) == before
    for n in range(1, 10, 2):
        assert got(topic.subscription(f"s{n}")) == list(range(20))
    assert topic.stats().stored == 0
