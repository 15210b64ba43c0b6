"""Topics and subscriptions in several processes: pickled, forked, spawned; published here and awaited there."""

# ruff: noqa: F811
from __future__ import annotations

import fcntl
import glob
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from crash.children import Children
from fixture_types import InThread, UntilWaiting
from topic_things import GUARD, Shop, disk_shop, got, held, is_even, messages  # noqa: F401

import mqlite
from mqlite.claims import Kind

Topic = mqlite.Topic[Any]


# ---------------------------------------------------------------------- pickled
def test_a_pickled_topic_is_the_same_topic(disk_shop: Shop) -> None:
    topic = disk_shop.topic(maxsize=5)
    again = pickle.loads(pickle.dumps(topic))
    sub = topic.subscribe("s")
    again.publish(1)
    assert (again.name, again.subscriptions(), got(sub)) == ("events", ["s"], [1])
    again.close()


def test_a_pickled_subscription_is_the_same_subscription(disk_shop: Shop) -> None:
    topic = disk_shop.topic()
    sub = topic.subscribe("s", "a.*")
    again = pickle.loads(pickle.dumps(sub))
    topic.publish_many([1, 2], "a.b")
    assert isinstance(again, mqlite.Subscription)
    assert (again.name, again.topic, again.pattern, got(again, 1), got(sub)) == ("s", "events", "a.*", [1], [2])
    assert again.stats().lag == 0
    again.close()
    assert topic.subscriptions() == ["s"]


def test_a_pickled_subscription_takes_its_function_along(disk_shop: Shop) -> None:
    topic = disk_shop.topic()
    sub = topic.subscribe("s", filter=is_even)
    again = pickle.loads(pickle.dumps(sub))
    topic.publish_many(range(4))
    assert got(again) == [0, 2]
    again.close()


def test_closing_a_pickled_ephemeral_subscription_leaves_it_to_who_made_it(disk_shop: Shop) -> None:
    topic = disk_shop.topic()
    sub = topic.subscribe("s", durable=False)
    again = pickle.loads(pickle.dumps(sub))
    again.close()
    assert topic.subscriptions() == ["s"]
    sub.close()
    assert topic.subscriptions() == []


def test_a_dead_letter_queue_of_a_subscription_can_be_pickled(disk_shop: Shop) -> None:
    topic = disk_shop.topic()
    sub = topic.subscribe("s")
    topic.publish(1)
    held(sub)[0].reject()
    again = pickle.loads(pickle.dumps(sub.dead))
    assert again.get(timeout=0) == 1
    again.close()


def test_a_pickled_topic_with_a_codec(path: str) -> None:
    with mqlite.Topic[Any]("events", path, codec="pickle") as topic:
        again = pickle.loads(pickle.dumps(topic))
        sub = again.subscribe("s")
        topic.publish((1, 2))
        assert got(sub) == [(1, 2)]
        again.close()
        assert topic.check() == []
    with pytest.raises(mqlite.SettingsMismatch, match="codec"):
        mqlite.Topic("events", path)


def test_what_is_in_memory_cannot_be_pickled() -> None:
    with mqlite.Topic[Any]("events") as topic:
        sub = topic.subscribe("s")
        for handle in (topic, sub):
            with pytest.raises(TypeError, match="in memory"):
                pickle.dumps(handle)


def test_a_subscription_that_went_cannot_be_unpickled(disk_shop: Shop) -> None:
    topic = disk_shop.topic()
    data = pickle.dumps(topic.subscribe("s"))
    topic.unsubscribe("s")
    with pytest.raises(mqlite.NoSuchSubscription):
        pickle.loads(data)
    assert topic.subscriptions() == []


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_topics_and_subscriptions_work_in_children_started_by(method: str, tmp_path: Path) -> None:
    program = Path(__file__).parent.parent / "topic_things.py"
    ran = subprocess.run(
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", str(program), method, str(tmp_path)], capture_output=True, text=True, timeout=100, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "ok\n", "")


# ---------------------------------------------------------------------- here and there
def take(talk: Any, path: str, name: str) -> None:
    """Takes messages of a subscription until it is gone, and says each."""
    topic: Topic = mqlite.Topic("events", path)
    sub = topic.subscribe(name)
    talk.say("there")
    try:
        while True:
            [message] = sub.receive(timeout=GUARD)
            message.ack()
            talk.say([message.id, message.body, message.routing_key, message.headers])
    except mqlite.NoSuchSubscription:
        talk.say("gone")
    topic.close()


def test_what_is_published_here_wakes_who_waits_there(disk_shop: Shop, children: Children, until_waiting: UntilWaiting) -> None:
    topic = disk_shop.topic()
    takers = [children.fork(take, disk_shop.path, name) for name in ("a", "b")]
    for taker in takers:
        assert taker.hear() == "there"
    for n in range(20):
        if n % 5 == 0:
            for name in ("a", "b"):
                until_waiting(topic.subscription(name))
        number = topic.publish(n, "k", headers={"n": n})
        assert number.receivers == 2
        for taker in takers:
            assert taker.hear() == [int(number), n, "k", {"n": n}]
    for name in ("a", "b"):
        topic.unsubscribe(name)
    for taker in takers:
        assert taker.hear() == "gone"
        taker.end()


def publish(talk: Any, path: str, number: int, count: int) -> None:
    with mqlite.Topic[Any]("events", path) as topic:
        for n in range(count):
            topic.publish([number, n], "even" if n % 2 == 0 else "odd", timeout=GUARD)


def test_processes_that_publish_and_subscriptions_that_share_lose_and_double_nothing(disk_shop: Shop, children: Children) -> None:
    topic = disk_shop.topic()
    subs = [topic.subscribe("all"), topic.subscribe("odd", "odd", maxsize=4), topic.subscribe("late", "even", start="earliest")]
    publishers = [children.fork(publish, disk_shop.path, number, 40) for number in range(2)]
    found: list[list[mqlite.Message]] = [[], [], []]
    while [len(each) for each in found] != [80, 40, 40]:
        for place, sub in enumerate(subs):
            if len(found[place]) < (80, 40, 40)[place]:
                some = sub.receive(5, timeout=GUARD)
                sub.ack_many(some)
                found[place] += some
    for publisher in publishers:
        publisher.end()
    for place, wanted in enumerate([(0, 1), (1,), (0,)]):
        assert Counter(tuple(m.body) for m in found[place]) == Counter((p, n) for p in range(2) for n in range(40) if n % 2 in wanted)
        assert [m.id for m in found[place]] == sorted(m.id for m in found[place])
    assert (topic.stats().published, topic.stats().stored) == (80, 0)


def publish_when_told(talk: Any, path: str) -> None:
    topic: Topic = mqlite.Topic("events", path)
    while (word := talk.hear(3600)) is not None:
        try:
            talk.say(topic.publish(*word["arguments"], **word["options"]).receivers)
        except mqlite.MqliteError as error:
            talk.say(type(error).__name__)
    topic.close()


def test_a_publish_that_waits_there_is_woken_by_an_ack_here(disk_shop: Shop, children: Children, until_waiting: UntilWaiting) -> None:
    topic = disk_shop.topic()
    one, two = topic.subscribe("one", maxsize=1), topic.subscribe("two", maxsize=1)
    topic.publish("first")
    publisher = children.fork(publish_when_told, disk_shop.path)
    publisher.say({"arguments": ["second"], "options": {"timeout": GUARD}})
    until_waiting(one, Kind.SPACE)
    assert got(one, 1) == ["first"]
    until_waiting(two, Kind.SPACE)
    assert got(two, 1) == ["first"]
    assert publisher.hear() == 2
    assert (got(one), got(two)) == (["second"], ["second"])
    publisher.say(None)
    publisher.end()


@pytest.mark.parametrize("how", ["unsubscribe", "configure", "seek", "kill"])
def test_a_publish_that_waits_there_is_woken_by(disk_shop: Shop, children: Children, until_waiting: UntilWaiting, how: str) -> None:
    topic = disk_shop.topic()
    full, wide = topic.subscribe("full", maxsize=1), topic.subscribe("wide")
    topic.publish("first")
    publisher = children.fork(publish_when_told, disk_shop.path)
    publisher.say({"arguments": ["second"], "options": {"timeout": GUARD}})
    until_waiting(full, Kind.SPACE)
    if how == "kill":
        publisher.kill()
        assert got(full) == ["first"]
        assert (got(full), got(wide)) == ([], ["first"])
        return
    {"unsubscribe": full.unsubscribe, "configure": lambda: full.configure(maxsize=2), "seek": lambda: full.seek("latest")}[how]()
    assert publisher.hear() == (1 if how == "unsubscribe" else 2)
    assert got(wide) == ["first", "second"]


def test_a_process_learns_who_came_and_went_in_another(disk_shop: Shop, children: Children) -> None:
    topic, queue = disk_shop.topic(), disk_shop.queue()
    publisher = children.fork(publish_when_told, disk_shop.path)

    def receivers(*arguments: Any, **options: Any) -> Any:
        publisher.say({"arguments": arguments, "options": options})
        return publisher.hear()

    assert receivers(1) == 0
    sub = topic.subscribe("s", maxsize=2, overflow="reject")
    assert receivers(2) == 1
    topic.bind(queue, "a")
    assert (receivers(3, "a"), receivers(4, "b")) == (2, "Full")
    sub.configure(maxsize=0, overflow="block")
    assert receivers(5, "b") == 1
    topic.unbind(queue)
    sub.unsubscribe()
    assert receivers(6, "a") == 0
    again = topic.subscribe("s", "c")
    assert (receivers(7, "a"), receivers(8, "c")) == (0, 1)
    assert (got(again), got(queue)) == ([8], [3])
    publisher.say(None)
    publisher.end()


def test_configured_limits_of_the_topic_hold_in_every_process(path: str, children: Children) -> None:
    with mqlite.Topic[Any]("events", path, retention="limits") as topic:
        publisher = children.fork(publish_when_told, path)
        for n in range(3):
            publisher.say({"arguments": [n], "options": {}})
            assert publisher.hear() == 0
        topic.configure(max_messages=2, max_message_bytes=10)
        publisher.say({"arguments": [3], "options": {}})
        assert publisher.hear() == 0
        publisher.say({"arguments": ["x" * 20], "options": {}})
        assert publisher.hear() == "MessageTooLarge"
        assert topic.stats().retained == 2
        assert got(topic.subscribe("s", start="earliest")) == [2, 3]
        assert topic.check() == []


@pytest.mark.parametrize("how", ["get", "receive", "consumer"])
def test_who_waits_there_is_told_that_the_subscription_goes(disk_shop: Shop, children: Children, until_waiting: UntilWaiting, how: str) -> None:
    topic = disk_shop.topic()
    sub = topic.subscribe("s")

    def wait(talk: Any) -> None:
        mine = mqlite.Topic[Any]("events", disk_shop.path).subscription("s")
        try:
            {"get": mine.get, "receive": mine.receive, "consumer": mine.consumer(prefetch=3).receive}[how](timeout=GUARD)
        except mqlite.MqliteError as error:
            talk.say(type(error).__name__)

    waiters = [children.fork(wait) for _ in range(2)]
    until_waiting(sub, n=2)
    topic.unsubscribe("s")
    assert [waiter.hear() for waiter in waiters] == ["NoSuchSubscription"] * 2


def hold(talk: Any, path: str, name: str) -> None:
    """Holds what there is, and tries to settle it when told."""
    sub = mqlite.Topic[Any]("events", path).subscription(name)
    claimed = held(sub)
    talk.say([message.body for message in claimed])
    while (word := talk.hear(3600)) is not None:
        try:
            getattr(claimed.pop(0), word)()
            talk.say("ok")
        except mqlite.MqliteError as error:
            talk.say(type(error).__name__)


@pytest.mark.parametrize("end", ["unsubscribe", "seek"])
def test_who_holds_messages_there_has_lost_them(disk_shop: Shop, children: Children, end: str) -> None:
    topic = disk_shop.topic()
    sub = topic.subscribe("s")
    topic.publish_many(range(4))
    holder = children.fork(hold, disk_shop.path, "s")
    assert holder.hear() == [0, 1, 2, 3]
    if end == "seek":
        sub.seek("latest")
    else:
        sub.unsubscribe()
    for word in ("ack", "nack", "reject", "release"):
        holder.say(word)
        assert holder.hear() == "LeaseLost"
    assert topic.stats().stored == 0
    holder.kill()
    assert topic.stats().stored == 0


def test_a_killed_holder_gives_back_what_it_held_of_a_subscription(disk_shop: Shop, children: Children) -> None:
    topic = disk_shop.topic()
    sub, other = topic.subscribe("s"), topic.subscribe("other")
    topic.publish_many([1, 2], "k")
    holder = children.fork(hold, disk_shop.path, "s")
    assert holder.hear() == [1, 2]
    assert got(other) == [1, 2]
    holder.kill()
    assert [(m.body, m.routing_key, m.delivery_count) for m in messages(sub)] == [(1, "k", 1), (2, "k", 1)]


def test_a_killed_holder_with_its_last_failure_leaves_dead_letters(disk_shop: Shop, children: Children) -> None:
    topic = disk_shop.topic()
    sub = topic.subscribe("s", max_deliveries=1)
    topic.publish("x", "k", headers={"h": 1})
    holder = children.fork(hold, disk_shop.path, "s")
    assert holder.hear() == ["x"]
    holder.kill()
    assert held(sub) == []
    [letter] = sub.dead.peek()
    assert (letter.body, letter.routing_key, letter.headers, topic.stats().stored) == ("x", "k", {"h": 1}, 0)


def test_a_process_that_is_killed_in_a_replay_leaves_the_rest_to_others(disk_shop: Shop, children: Children) -> None:
    topic = disk_shop.topic(retention="limits")
    topic.publish_many(range(1500))
    sub = topic.subscribe("s", start="earliest")

    def take_some(talk: Any) -> None:
        mine = mqlite.Topic[Any]("events", disk_shop.path).subscription("s")
        talk.say(got(mine, 600))
        talk.hear(3600)

    child = children.fork(take_some)
    assert child.hear() == list(range(600))
    child.kill()
    assert got(sub) == list(range(600, 1500))


def test_a_fork_inherits_topics_and_subscriptions(disk_shop: Shop, children: Children) -> None:
    topic = disk_shop.topic()
    sub = topic.subscribe("s")
    topic.publish("parent")
    [mine] = sub.receive(timeout=0)

    def child_works(talk: Any) -> None:
        topic.publish("child")
        new = topic.subscribe("child's", "k")
        talk.say(sub.get(timeout=GUARD))
        topic.publish("k", "k")
        talk.say(got(new))
        try:
            mine.ack()
        except mqlite.NotClaimed:
            talk.say("NotClaimed")
        topic.unsubscribe("child's")

    child = children.fork(child_works)
    assert [child.hear() for _ in range(3)] == ["child", ["k"], "NotClaimed"]
    child.end()
    mine.ack()
    assert (topic.subscriptions(), got(sub)) == (["s"], ["k"])


def test_in_memory_a_fork_has_a_copy(children: Children) -> None:
    with mqlite.Topic[Any]("events") as topic:
        sub = topic.subscribe("s")
        topic.publish(1)

        def child_works(talk: Any) -> None:
            topic.publish(2)
            talk.say(got(sub))
            topic.subscribe("t")
            talk.say(topic.subscriptions())

        child = children.fork(child_works)
        assert [child.hear(), child.hear()] == [[1, 2], ["s", "t"]]
        child.end()
        assert (got(sub), topic.subscriptions()) == ([1], ["s"])


def stop_outside_of_commits(pid: int, path: str | None) -> None:
    """Who is stopped in the middle of a commit stops all who write: that is not what is looked at here."""
    assert path is not None
    files = [os.path.join(path, "log.mdb"), *glob.glob(os.path.join(path, "run", "*", "claims.mdb"))]
    while True:
        os.kill(pid, signal.SIGSTOP)
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            pass
        if not any(map(is_being_written, files)):
            return
        os.kill(pid, signal.SIGCONT)


def is_being_written(file: str) -> bool:
    with open(file, "rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_a_stopped_publisher_does_not_keep_others_from_publishing(disk_shop: Shop, children: Children, until_waiting: UntilWaiting) -> None:
    topic = disk_shop.topic()
    full, wide = topic.subscribe("full", "full", maxsize=1), topic.subscribe("wide", "wide")
    topic.publish(1, "full")
    publisher = children.fork(publish_when_told, disk_shop.path)
    publisher.say({"arguments": [2, "full"], "options": {"timeout": None}})
    until_waiting(full, Kind.SPACE)
    stop_outside_of_commits(publisher.pid, disk_shop.path)
    try:
        topic.publish(3, "wide", timeout=0)
        assert (got(full), got(wide)) == ([1], [3])
        topic.publish(4, "full", timeout=0)
        assert got(full) == [4]
    finally:
        os.kill(publisher.pid, signal.SIGCONT)
    assert publisher.hear() == 1
    assert got(full) == [2]


def test_processes_that_subscribe_at_once_make_one_subscription(disk_shop: Shop, children: Children, in_thread: InThread) -> None:
    def subscribe(talk: Any) -> None:
        topic: Topic = mqlite.Topic("events", disk_shop.path)
        talk.say("ready")
        talk.hear()
        sub = topic.subscribe("s", "a.*", maxsize=100)
        topic.publish(os.getpid(), "a.b")
        talk.say(sub.name)
        topic.close()

    topic = disk_shop.topic()
    processes = [children.fork(subscribe) for _ in range(4)]
    for process in processes:
        assert process.hear() == "ready"
    for process in processes:
        process.say("go")
    for process in processes:
        assert process.hear() == "s"
        process.end()
    assert topic.subscriptions() == ["s"]
    assert sorted(got(topic.subscription("s"))) == sorted(process.pid for process in processes)
