"""A prepared message is sent once or forgotten, as the local table says, whoever is killed and whenever.

The scenarios of the sweeps are those of prepared_points.py, the storm is that of storm_prepared.py.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from contents import bodies, taken
from crash.children import Children
from crash.kill_points import sweep_seed
from crash.prepared_points import PLAYS, sweep_prepared_lines
from crash.storm_prepared import WRONG, PreparedStorm, balance
from fixture_types import Eventually
from prepared_things import GUARD, ask, undecided

import mqlite

HERE = Path(__file__).parent
#: Beyond the longest of the calls.
END = 20000
BY_NAME = {play.name: play for play in PLAYS}


# ---------------------------------------------------------------------- one step after the other
STEPS = ("prepared", "kept", "decided")


def order(talk: Any, path: str, kind: str, send: bool, together: bool) -> None:
    """Prepares, does its own transaction, and decides; says so after each step, and waits."""
    broker = mqlite.open(path)
    target: Any = broker.queue("out") if kind == "queue" else broker.topic("news")
    prepared = target.prepare("order", check_after=0)
    talk.say("prepared")
    talk.hear()
    decide = prepared.commit if send else prepared.rollback
    with broker.transaction() as tx:
        tx.table("orders")["order"] = send
        if together:
            decide(tx=tx)
    talk.say("kept")
    talk.hear()
    if not together:
        decide()
    talk.say("decided")
    talk.hear()


@pytest.mark.parametrize("send", [True, False], ids=["send", "forget"])
@pytest.mark.parametrize("last", STEPS)
@pytest.mark.parametrize("together", [False, True], ids=["after", "together"])
@pytest.mark.parametrize(("kind", "restart"), [("queue", True), ("topic", False)], ids=["queue, restart", "topic, survivor"])
def test_who_is_killed_after_a_step_leaves_what_the_table_says(path: str, children: Children, eventually: Eventually, kind: str, send: bool, last: str, together: bool, restart: bool) -> None:
    with mqlite.open(path) as broker:
        broker.topic("news").bind(broker.queue("out"))
        if not restart:
            _kill_after(children.fork(order, path, kind, send, together), last)
            _judge(broker, kind, last, send, together, eventually)
    if restart:
        _kill_after(children.fork(order, path, kind, send, together), last)
        with mqlite.open(path) as broker:
            _judge(broker, kind, last, send, together, eventually)


def _kill_after(child: Any, last: str) -> None:
    for step in STEPS:
        assert child.hear() == step
        if step == last:
            child.kill()
            return
        child.say("go on")


def _judge(broker: mqlite.Broker, kind: str, last: str, send: bool, together: bool, eventually: Eventually) -> None:
    out = broker.queue("out")
    target: Any = out if kind == "queue" else broker.topic("news")
    is_decided = last == "decided" or (together and last == "kept")
    assert len(target.prepared()) == (not is_decided)
    assert len(bodies(out)) == (is_decided and send)
    kept = broker.table("orders").get("order", False)
    assert kept == (send and last != "prepared")
    if not is_decided:
        ask(target, lambda message: broker.table("orders").get(message.body, False), 1, eventually)
    assert (taken(out), undecided(target), broker.check()) == (["order"] * bool(kept), [], [])


# ---------------------------------------------------------------------- who is asked is killed
def be_asked(talk: Any, path: str, kind: str) -> None:
    """Says what it is asked about, and answers what it hears."""
    broker = mqlite.open(path)
    target: Any = broker.queue("out") if kind == "queue" else broker.topic("news")

    def check(message: mqlite.Message) -> Any:
        talk.say([message.body, message.delivery_count])
        return talk.hear()

    target.check_back(check, max_checks=3)
    signal.pause()


@pytest.mark.parametrize("kind", ["queue", "topic"])
def test_one_process_is_asked_at_a_time_and_the_next_when_it_is_killed(path: str, children: Children, eventually: Eventually, kind: str) -> None:
    with mqlite.open(path) as broker:
        out = broker.queue("out")
        broker.topic("news").bind(out)
        target: Any = out if kind == "queue" else broker.topic("news")
        prepared = target.prepare("x", check_after=0)
        first, second = (children.fork(be_asked, path, kind) for _ in range(2))
        asked, idle = (first, second) if _says_something(first, second) is first else (second, first)
        assert asked.hear() == ["x", 0]
        with pytest.raises(TimeoutError):
            idle.hear(0.05)
        asked.kill()
        assert idle.hear() == ["x", 1]
        idle.say(True)
        eventually(lambda: not target.prepared())
        with pytest.raises(mqlite.AlreadyDecided):
            prepared.commit()
        assert (taken(out), broker.check()) == (["x"], [])


def _says_something(*children: Any) -> Any:
    """The one that speaks first."""
    by_socket = {child._talk._end: child for child in children}
    return by_socket[select.select(list(by_socket), [], [], GUARD)[0][0]]


@pytest.mark.parametrize("kind", ["queue", "topic"])
def test_what_kills_whoever_is_asked_is_dead_after_so_many_times(path: str, children: Children, kind: str) -> None:
    with mqlite.open(path) as broker:
        out = broker.queue("out")
        target: Any = out if kind == "queue" else broker.topic("news")
        target.prepare("killer", check_after=0, priority=1)
        target.prepare("harmless", check_after=0)
        for times in range(3):
            child = children.fork(be_asked, path, kind)
            assert child.hear() == ["killer", times]
            child.kill()
        child = children.fork(be_asked, path, kind)
        assert child.hear() == ["harmless", 0]
        assert undecided(target) == ["harmless"]
        [letter] = target.dead.browse()
        assert (letter.body, letter.death.reason, letter.death.delivery_count) == ("killer", "undecided", 3)
        if kind == "queue":
            assert (out.redrive(), taken(out)) == (1, ["killer"])
        assert broker.check() == []


@pytest.mark.parametrize("decision", ["commit", "rollback"])
@pytest.mark.parametrize("answer", [True, False, None])
def test_who_decides_while_another_process_is_asked_wins(path: str, children: Children, eventually: Eventually, decision: str, answer: Any) -> None:
    with mqlite.open(path) as broker:
        q = broker.queue("out")
        prepared = q.prepare("x", check_after=0)
        child = children.fork(be_asked, path, "queue")
        assert child.hear() == ["x", 0]
        getattr(prepared, decision)()
        child.say(answer)
        q.prepare("next", check_after=0)
        assert child.hear() == ["next", 0]
        child.kill()
        assert (taken(q), undecided(q), broker.check()) == (["x"] * (decision == "commit"), ["next"], [])


def configure_asking(talk: Any, path: str) -> None:
    """Another process says how often and when is to be asked."""
    with mqlite.open(path) as broker:
        broker.queue("out").check_back(lambda message: None, interval=7, max_checks=3).close()
    talk.say("done")


def test_the_last_process_that_asks_says_how_often_and_when(path: str, children: Children) -> None:
    with mqlite.open(path) as broker:
        q = broker.queue("out")
        q.check_back(lambda message: None, interval=5, max_checks=2).close()
        child = children.fork(configure_asking, path)
        assert child.hear() == "done"
        child.end()
        q.check_back(lambda message: None, interval=5, max_checks=2).close()
        room = q._preparing.channel.state  # type: ignore[union-attr]
        with q._engine.log.read() as snapshot:
            stored = q._engine.catalog.options(room, snapshot)
        assert (stored.max_deliveries, stored.backoff.waits) == (2, (5.0,))  # type: ignore[union-attr]


# ---------------------------------------------------------------------- started in every way
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_prepared_messages_work_in_children_started_by(method: str, tmp_path: Path) -> None:
    program = HERE.parent / "prepared_things.py"
    ran = subprocess.run([sys.executable, "-W", "ignore:This process:DeprecationWarning", str(program), method, str(tmp_path)], capture_output=True, text=True, timeout=100, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "ok\n", "")


def decide_inherited(talk: Any, q: Any, prepared: Any, asking: Any) -> None:
    """What a forked child can do with its parent's handles."""
    talk.say([each.body for each in q.prepared()])
    prepared.commit()
    q.prepare("by the child", check_after=0)
    asking.close()
    q.close()
    talk.say("done")


def test_a_forked_child_decides_what_its_parent_prepared_and_is_not_asked(path: str, children: Children, eventually: Eventually) -> None:
    asked: list[int] = []
    with mqlite.open(path) as broker:
        q = broker.queue("out")
        prepared = q.prepare("x")

        def check(message: mqlite.Message) -> bool:
            asked.append(os.getpid())
            return True

        with q.check_back(check) as asking:
            child = children.fork(decide_inherited, q, prepared, asking)
            assert child.hear() == ["x"]
            assert child.hear() == "done"
            child.end()
            eventually(lambda: len(bodies(q)) == 2)
        with pytest.raises(mqlite.AlreadyDecided):
            prepared.commit()
        assert (asked, taken(q), undecided(q), broker.check()) == ([os.getpid()], ["x", "by the child"], [], [])


# ---------------------------------------------------------------------- killed anywhere
def test_no_two_plays_have_the_same_name() -> None:
    assert len(BY_NAME) == len(PLAYS)


def _some_points() -> list[int]:
    """A few lines, ever further apart, and one after the end."""
    chance = random.Random(sweep_seed())
    points = [chance.randint(1, 100)]
    while points[-1] < 1000:
        points.append(points[-1] + chance.randint(100, 400 + 2 * points[-1]))
    return [*points, END]


def _all_points() -> range:
    """Every line, or every n-th of them."""
    stride = int(os.environ.get("MQLITE_PREPARED_STRIDE", "40"))
    return range(1 + sweep_seed() % stride, END + stride, stride)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_process_killed_between_two_lines_leaves_each_message_in_one_place(name: str, tmp_path: Path, children: Children) -> None:
    assert sweep_prepared_lines(str(tmp_path), children, BY_NAME[name], _some_points()) > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", BY_NAME)
def test_a_process_killed_at_every_line_leaves_each_message_in_one_place(name: str, tmp_path: Path, children: Children) -> None:
    assert sweep_prepared_lines(str(tmp_path), children, BY_NAME[name], _all_points()) > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("torn", [False, True], ids=["between writes", "inside long writes"])
def test_a_process_killed_at_every_write_leaves_each_message_in_one_place(torn: bool, shim: str, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "crash.prepared_points", str(tmp_path), str(int(torn))]
    swept = subprocess.run(program, env={**os.environ, "LD_PRELOAD": shim}, cwd=HERE.parent, capture_output=True, text=True, timeout=250)
    assert swept.returncode == 0, swept.stderr
    kills = {}
    for line in swept.stdout.splitlines():
        scenario = json.loads(line)
        assert scenario["survived"], scenario
        kills[scenario["scenario"]] = scenario["kills"]
    print(kills)
    assert kills.keys() == BY_NAME.keys()
    assert min(kills.values()) > 0, "the shim does not see the calls that write"


# ---------------------------------------------------------------------- a storm
def _balanced(folder: Path, children: Any, seconds: float) -> dict[str, Any]:
    seed = int(os.environ.get("MQLITE_STORM_SEED", time.time_ns() % 10**9))
    print(f"MQLITE_STORM_SEED={seed}")
    books = PreparedStorm(str(folder), children, seed).blow(seconds)
    print({word: found for word, found in books.items() if word not in WRONG})
    for word in WRONG:
        assert books[word] == [], (word, len(books[word]), books[word][:10])
    assert books["sent"] > 0
    assert books["forgotten"] > 0
    return books


def test_in_a_short_storm_of_kills_each_message_is_sent_once_or_forgotten(tmp_path: Path, children: Children) -> None:
    _balanced(tmp_path, children, 3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_in_a_storm_of_kills_each_message_is_sent_once_or_forgotten(tmp_path: Path, children: Children) -> None:
    seconds = float(os.environ.get("MQLITE_STORM_SECONDS", "20"))
    books = _balanced(tmp_path, children, seconds)
    assert books["kills"] > seconds
    assert books["sent"] > 10 * seconds


QUIET: dict[str, Any] = {"local": {"a": True, "b": False}, "sent": {"a": 1}, "begun": ["a", "b", "c"], "done": ["a", "b"], "dead": []}
NOISES = {
    "lost": {"sent": {}},
    "unwanted": {"sent": {"a": 1, "b": 1}},
    "twice": {"sent": {"a": 2}},
    "invented": {"begun": ["a"]},
    "undecided": {"done": ["a", "b", "c"]},
    "dead": {"dead": ["b"]},
}


def test_the_books_of_a_quiet_day_balance() -> None:
    assert not any(balance(**QUIET).values())
    assert balance(**QUIET).keys() == set(WRONG)


@pytest.mark.parametrize("word", NOISES)
def test_the_books_tell_what_is(word: str) -> None:
    assert [found for found, keys in balance(**{**QUIET, **NOISES[word]}).items() if keys] == [word]
