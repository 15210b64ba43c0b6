"""What is done when a process dies: its last wills are published once, its ephemeral subscriptions go, unused ones begin to."""

# ruff: noqa: F811
from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from crash.children import Children
from fixture_types import Eventually, InThread, UntilWaiting
from hand_clock import HandClock
from topic_things import GUARD, Shop, disk_shop, got, held, messages, shop, timed_shop, topic  # noqa: F401

import mqlite

Topic = mqlite.Topic[Any]


def leave_will(talk: Any, path: str, count: int = 1, options: dict[str, Any] | None = None) -> None:
    """Leaves wills, says so, and waits to be killed or told how to end."""
    topic: Topic = mqlite.Topic("events", path)
    wills = [topic.will(["died", n], f"dead.{n}", **(options or {})) for n in range(count)]
    talk.say(os.getpid())
    word = talk.hear(3600)
    if word == "withdraw":
        for will in wills:
            will.close()
            will.close()
    elif word == "close":
        topic.close()
    elif word == "leave the block":
        with wills[0]:
            pass
    elif word == "raise in the block":
        try:
            with wills[0]:
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
    talk.say("done")
    talk.hear(3600)


def survive(talk: Any, path: str) -> None:
    """Waits for a message of its own subscription, and says it."""
    topic: Topic = mqlite.Topic("events", path)
    sub = topic.subscribe(talk.hear())
    talk.say("waiting")
    while True:
        talk.say(sub.get(timeout=GUARD))


def test_the_will_of_a_killed_process_is_published_to_who_waits(disk_shop: Shop, children: Children, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    topic = disk_shop.topic()
    sub = topic.subscribe("s", "dead.*")
    child = children.fork(leave_will, disk_shop.path)
    child.hear()
    waiting = in_thread(sub.receive, timeout=GUARD)
    until_waiting(sub)
    assert not waiting.done()
    child.kill()
    [m] = waiting.result(GUARD)
    assert (m.body, m.routing_key) == (["died", 0], "dead.0")
    m.ack()
    assert (held(sub), topic.stats().published) == ([], 1)


def test_it_is_published_also_by_who_does_not_wait_but_takes(disk_shop: Shop, children: Children) -> None:
    topic = disk_shop.topic()
    sub = topic.subscribe("s")
    child = children.fork(leave_will, disk_shop.path, 3)
    child.hear()
    assert got(sub) == []
    child.kill()
    assert got(sub) == [["died", 0], ["died", 1], ["died", 2]]


def test_it_brings_all_that_was_said_of_it(disk_shop: Shop, children: Children) -> None:
    topic = disk_shop.topic()
    sub = topic.subscribe("s")
    said = {"headers": {"h": 1}, "priority": 3, "type": "t", "group": "g", "reply_to": "r", "correlation_id": "c", "ttl": 1000, "retain": True, "replace_key": "k"}
    child = children.fork(leave_will, disk_shop.path, 1, said)
    child.hear()
    child.kill()
    [m] = held(sub)
    assert (m.body, m.routing_key, m.headers, m.priority, m.type, m.group, m.reply_to, m.correlation_id) == (["died", 0], "dead.0", {"h": 1}, 3, "t", "g", "r", "c")
    assert m.expires_at is not None
    m.ack()
    assert [each.body for each in topic.retained()] == [["died", 0]]


def test_of_several_survivors_one_publishes_it(disk_shop: Shop, children: Children) -> None:
    topic = disk_shop.topic()
    sub = topic.subscribe("s")
    survivors = [children.fork(survive, disk_shop.path) for _ in range(3)]
    for n, survivor in enumerate(survivors):
        survivor.say(f"survivor {n}")
        assert survivor.hear() == "waiting"
    for _ in range(4):
        child = children.fork(leave_will, disk_shop.path, 2)
        child.hear()
        child.kill()
        for survivor in survivors:
            assert [survivor.hear(), survivor.hear()] == [["died", 0], ["died", 1]]
    for survivor in survivors:
        survivor.kill()
    assert len(got(sub)) == 8
    assert topic.stats().published == 8


def test_if_nobody_lives_the_next_that_opens_the_store_publishes_it(disk_shop: Shop, children: Children) -> None:
    topic = disk_shop.topic()
    topic.subscribe("s")
    disk_shop.close()
    child = children.fork(leave_will, disk_shop.path, 2)
    child.hear()
    child.kill()
    topic = disk_shop.topic()
    assert topic.subscription("s").qsize() == 2
    assert got(topic.subscription("s")) == [["died", 0], ["died", 1]]
    topic = disk_shop.again()
    assert (got(topic.subscription("s")), topic.stats().published) == ([], 2)


def test_the_next_to_open_may_open_something_else(disk_shop: Shop, children: Children) -> None:
    disk_shop.topic().subscribe("s")
    disk_shop.close()
    child = children.fork(leave_will, disk_shop.path)
    child.hear()
    child.kill()
    disk_shop.queue("unrelated")
    disk_shop.close()
    assert got(disk_shop.topic().subscription("s")) == [["died", 0]]


@pytest.mark.parametrize("word", ["withdraw", "close", "leave the block", "raise in the block"])
def test_a_will_that_is_void_is_not_published(disk_shop: Shop, children: Children, word: str) -> None:
    child = children.fork(leave_will, disk_shop.path)
    child.hear()
    topic = disk_shop.topic()
    sub = topic.subscribe("s")
    child.say(word)
    assert child.hear() == "done"
    child.kill()
    assert (got(sub), topic.stats().published) == ([], 0)


PROGRAM = """
import os, signal, sys, threading, mqlite
topic = mqlite.Topic("events", sys.argv[1])
will = topic.will("died", "dead")
end = sys.argv[2]
if end == "exit": sys.exit(0)
if end == "exit 3": sys.exit(3)
if end == "raise": raise ZeroDivisionError
if end == "_exit": os._exit(0)
if end == "kill": os.kill(os.getpid(), signal.SIGKILL)
if end == "abort": signal.signal(signal.SIGABRT, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGABRT)
if end == "interrupt": os.kill(os.getpid(), signal.SIGINT); threading.Event().wait(9)
if end == "terminate": os.kill(os.getpid(), signal.SIGTERM); threading.Event().wait(9)
"""


@pytest.mark.parametrize(("end", "published"), [("", 0), ("exit", 0), ("exit 3", 0), ("raise", 0), ("interrupt", 0), ("_exit", 1), ("kill", 1), ("abort", 1), ("terminate", 1)])
def test_how_an_interpreter_ends_decides(disk_shop: Shop, end: str, published: int) -> None:
    topic = disk_shop.topic()
    sub = topic.subscribe("s")
    subprocess.run([sys.executable, "-c", PROGRAM, str(disk_shop.path), end], capture_output=True, timeout=60, check=False)
    assert got(sub) == ["died"] * published


def test_the_will_of_a_parent_is_not_published_when_its_child_dies(disk_shop: Shop, children: Children) -> None:
    topic = disk_shop.topic()
    sub = topic.subscribe("s")
    will = topic.will("parent died")

    def use_and_die(talk: Any) -> None:
        topic.publish("child lives")
        will.close()  # the parent's: nothing happens
        talk.say("done")
        talk.hear(3600)

    child = children.fork(use_and_die)
    assert child.hear() == "done"
    child.kill()
    assert got(sub) == ["child lives"]
    with disk_shop.topic()._engine.log.read() as snapshot:
        assert len(list(snapshot.delayed(0, 255))) == 1
    will.close()


def test_a_will_to_nobody_is_done_with(disk_shop: Shop, children: Children) -> None:
    topic = disk_shop.topic()
    child = children.fork(leave_will, disk_shop.path)
    child.hear()
    child.kill()
    topic = disk_shop.again()
    sub = topic.subscribe("s")
    assert (got(sub), topic.stats().published) == ([], 0)
    disk_shop.close()
    assert got(disk_shop.topic().subscription("s")) == []


def test_a_will_that_finds_no_room_is_published_when_there_is(disk_shop: Shop, children: Children) -> None:
    topic = disk_shop.topic()
    sub, wide = topic.subscribe("s", maxsize=1), topic.subscribe("wide")
    topic.publish("full")
    child = children.fork(leave_will, disk_shop.path)
    child.hear()
    child.kill()
    assert got(sub) == ["full"]
    assert got(wide)[0] == "full"
    topic = disk_shop.again()
    assert got(topic.subscription("s")) == [["died", 0]]
    assert topic.stats().published == 2


def test_a_will_that_finds_no_room_does_not_keep_others_from_being_published(disk_shop: Shop, children: Children) -> None:
    topic = disk_shop.topic()
    topic.subscribe("full", "dead.0", maxsize=1)
    sub = topic.subscribe("s", "dead.1")
    topic.publish("full", "dead.0")
    child = children.fork(leave_will, disk_shop.path, 2)
    child.hear()
    child.kill()
    assert got(sub) == [["died", 1]]


def test_a_will_counts_its_ttl_from_the_death(disk_shop: Shop, children: Children) -> None:
    topic = disk_shop.topic()
    sub = topic.subscribe("s")
    child = children.fork(leave_will, disk_shop.path, 1, {"ttl": 50})
    child.hear()
    child.kill()
    [m] = messages(sub)
    assert m.expires_at is not None
    assert 40 < (m.expires_at - m.enqueued_at).total_seconds() < 60


def test_a_will_goes_to_bound_queues_and_is_kept_for_replay(disk_shop: Shop, children: Children) -> None:
    topic, queue = disk_shop.topic(retention="limits"), disk_shop.queue()
    topic.bind(queue)
    child = children.fork(leave_will, disk_shop.path)
    child.hear()
    child.kill()
    assert got(queue) == [["died", 0]]
    assert got(topic.subscribe("s", start="earliest")) == [["died", 0]]


def test_in_memory_a_will_is_a_handle_that_does_nothing() -> None:
    with mqlite.Topic[Any]("events") as topic:
        sub = topic.subscribe("s")
        with topic.will("x", "k", headers={"h": 1}, retain=True) as will:
            assert isinstance(will, mqlite.Will)
        topic.will("y").close()
        topic.will("z")
        assert (got(sub), topic.check()) == ([], [])


def test_wills_and_their_end_leave_nothing_in_the_store(disk_shop: Shop) -> None:
    topic = disk_shop.topic()
    topic.will("first").close()
    before = disk_shop.entries()
    for n in range(20):
        with topic.will("x" * 1000, "k", headers={"n": n}):
            pass
    assert disk_shop.entries() == before
    assert topic.stats().stored == 0


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"delay": 1}, TypeError, "delay"),
        ({"eta": 1.0}, TypeError, "eta"),
        ({"dedup_id": "x"}, TypeError, "dedup_id"),
        ({"block": True}, TypeError, "block"),
        ({"timeout": 1}, TypeError, "timeout"),
        ({"mandatory": True}, TypeError, "mandatory"),
        ({"colour": 1}, TypeError, "colour"),
        ({"routing_key": 1}, TypeError, "routing_key"),
        ({"routing_key": "x" * 256}, ValueError, "255"),
        ({"priority": "1"}, TypeError, "priority"),
        ({"ttl": 0}, ValueError, "ttl"),
        ({"group": ""}, ValueError, "group"),
        ({"headers": 1}, TypeError, "headers"),
        ({"retain": 1}, TypeError, "retain"),
        ({"replace_key": ""}, ValueError, "replace_key"),
    ],
)
def test_a_bad_will_is_told_and_leaves_nothing(shop: Shop, options: dict[str, Any], error: type[Exception], says: str) -> None:
    topic = shop.topic()
    before = shop.entries()
    with pytest.raises(error, match=says):
        topic.will(1, **options)
    assert shop.entries() == before
    topic.close()
    with pytest.raises(mqlite.Closed):
        topic.will(1)
    shop.topic()


def test_a_will_that_cannot_be_encoded_or_is_too_large_is_refused(disk_shop: Shop) -> None:
    topic = disk_shop.topic(max_message_bytes=100)
    with pytest.raises(mqlite.CodecError):
        topic.will(object())
    with pytest.raises(mqlite.MessageTooLarge):
        topic.will("x" * 200)


# ---------------------------------------------------------------------- ephemeral subscriptions of the dead
def subscribe_for_a_while(talk: Any, path: str, name: str | None, options: dict[str, Any]) -> None:
    topic: Topic = mqlite.Topic("events", path)
    sub = topic.subscribe(name, **options)
    talk.say(sub.name)
    while (word := talk.hear(3600)) != "end":
        talk.say([message.body for message in held(sub)] if word == "hold" else got(sub))
    topic.close()
    talk.say("closed")


@pytest.mark.parametrize("end", ["kill", "close"])
def test_an_ephemeral_subscription_goes_when_its_process_does(disk_shop: Shop, children: Children, end: str) -> None:
    topic = disk_shop.topic()
    child = children.fork(subscribe_for_a_while, disk_shop.path, None, {"durable": False})
    name = child.hear()
    assert topic.subscriptions() == [name]
    topic.publish_many([1, 2, 3])
    child.say("hold")
    assert child.hear() == [1, 2, 3]
    topic.publish(4, delay=1000)
    if end == "kill":
        child.kill()
    else:
        child.say("end")
        assert child.hear() == "closed"
    assert topic.publish(5) == 0 or end == "kill"
    reopened = disk_shop.topic()
    assert (reopened.subscriptions(), reopened.stats().stored) == ([], 0)


def test_a_publish_does_not_wait_for_the_full_ephemeral_subscription_of_a_dead_process(disk_shop: Shop, children: Children) -> None:
    topic = disk_shop.topic()
    child = children.fork(subscribe_for_a_while, disk_shop.path, "gone", {"durable": False, "maxsize": 1})
    child.hear()
    topic.publish(1)
    child.kill()
    assert topic.publish(2, timeout=GUARD).receivers == 0


def test_an_ephemeral_subscription_goes_when_the_next_process_opens_the_store(disk_shop: Shop, children: Children) -> None:
    disk_shop.topic().subscribe("stays")
    disk_shop.close()
    child = children.fork(subscribe_for_a_while, disk_shop.path, "gone", {"durable": False})
    child.hear()
    child.kill()
    topic = disk_shop.topic()
    assert topic.subscriptions() == ["stays"]


def test_who_waits_on_the_ephemeral_subscription_of_another_process_is_told_when_that_dies(disk_shop: Shop, children: Children, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    topic = disk_shop.topic()
    child = children.fork(subscribe_for_a_while, disk_shop.path, "theirs", {"durable": False})
    child.hear()
    sub = topic.subscription("theirs")
    waiting = in_thread(sub.get, timeout=GUARD)
    until_waiting(sub)
    child.kill()
    with pytest.raises(mqlite.NoSuchSubscription):
        waiting.result(GUARD)


def test_a_forked_child_does_not_take_the_ephemeral_subscription_of_its_parent_with_it(disk_shop: Shop, children: Children) -> None:
    topic = disk_shop.topic()
    sub = topic.subscribe("s", durable=False)

    def use_and_end(talk: Any) -> None:
        talk.say(sub.get(timeout=GUARD))
        sub.close()
        topic.close()

    topic.publish_many([1, 2])
    child = children.fork(use_and_end)
    assert child.hear() == 1
    child.end()
    assert (topic.subscriptions(), got(sub)) == (["s"], [2])


# ---------------------------------------------------------------------- expires_after, and processes that die
@pytest.mark.parametrize("end", ["kill", "close"])
def test_the_time_of_an_unused_subscription_begins_when_the_last_process_is_gone(path: str, children: Children, clock: HandClock, end: str) -> None:
    shop = Shop(path, clock)
    topic = shop.topic()
    users = [children.fork(subscribe_for_a_while, path, "s", {"expires_after": 60}) for _ in range(2)]
    for user in users:
        assert user.hear() == "s"
    assert topic.subscriptions() == ["s"]

    def end_of(user: Any) -> None:
        if end == "kill":
            user.kill()
        else:
            user.say("end")
            assert user.hear() == "closed"

    end_of(users[0])
    probe = topic.subscribe("probe")
    held(probe)
    if end == "kill":  # else the clock of the child, which stands still, would be behind
        clock.pass_by(1000)
    assert topic.subscriptions() == ["s", "probe"]
    end_of(users[1])
    held(probe)  # a death is noticed by who takes
    clock.pass_by(59.9)
    assert topic.subscriptions() == ["s", "probe"]
    clock.pass_by(0.1)
    assert topic.subscriptions() == ["probe"]
    assert shop.check() == []
    shop.close()


def test_a_child_that_inherits_a_handle_does_not_count_as_a_user(path: str, children: Children, clock: HandClock) -> None:
    shop = Shop(path, clock)
    topic = shop.topic()
    sub = topic.subscribe("s", expires_after=60)
    child = children.fork(lambda talk: (talk.say(sub.qsize()), talk.hear(3600)))
    assert child.hear() == 0
    sub.close()
    clock.pass_by(60)
    assert topic.subscriptions() == []
    child.kill()
    assert shop.check() == []
    shop.close()


def test_all_of_it_together_when_many_die_at_once(disk_shop: Shop, children: Children, eventually: Eventually) -> None:
    topic = disk_shop.topic()
    sub = topic.subscribe("s", "dead.#")

    def live(talk: Any, number: int) -> None:
        mine: Topic = mqlite.Topic("events", disk_shop.path)
        mine.will(number, f"dead.{number}")
        ephemeral = mine.subscribe(durable=False)
        claimed = mine.subscription("s").receive(timeout=GUARD)
        talk.say([message.body for message in claimed])
        ephemeral.get(timeout=3600)

    topic.publish_many(["x", "y", "z"], "dead")
    mortals = [children.fork(live, number) for number in range(3)]
    assert sorted(mortal.hear()[0] for mortal in mortals) == ["x", "y", "z"]
    assert topic.stats().subscriptions == 4
    for mortal in mortals:
        mortal.kill()
    found: list[Any] = []
    eventually(lambda: (found.extend(got(sub)), len(found) >= 6)[1])
    assert sorted(map(str, found)) == ["0", "1", "2", "x", "y", "z"]
    topic.unsubscribe("nobody")  # what removed subscriptions held goes some at a time, at the latest now
    assert (topic.subscriptions(), topic.stats().stored) == (["s"], 0)
