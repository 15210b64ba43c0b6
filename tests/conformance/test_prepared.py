"""Prepared messages: stored and not to be seen until they are committed, once; asked about if nobody decides; of queues and topics."""

# ruff: noqa: F811
from __future__ import annotations

import types
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from contents import bodies, taken
from fixture_types import Eventually, InThread, UntilWaiting
from hand_clock import NOON, HandClock
from prepared_things import GUARD, Busy, Oracle, ask, look_at_clock, not_asked, undecided
from topic_things import got
from transaction_things import Everything, broker, commits, counts, disk_broker, looks, received, timed_broker  # noqa: F401

import mqlite
from mqlite.claims import Kind

DECISIONS = ("commit", "rollback")
decision = pytest.mark.parametrize("decision", DECISIONS)
ANSWERS: dict[str, Any] = {"yes": True, "no": False, "not yet": None, "an error": ZeroDivisionError("the table is away")}
answers = pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())


@pytest.fixture
def q(broker: mqlite.Broker) -> mqlite.Queue[Any]:
    """A queue with default settings."""
    return broker.queue("q")


@pytest.fixture
def topic(broker: mqlite.Broker) -> mqlite.Topic[Any]:
    """A topic with default settings."""
    return broker.topic("events")


def decide(prepared: mqlite.Prepared[Any], decision: str, **options: Any) -> Any:
    return getattr(prepared, decision)(**options)


# ---------------------------------------------------------------------- not to be seen
def test_a_prepared_message_is_not_there(broker: mqlite.Broker, q: mqlite.Queue[Any]) -> None:
    q.prepare("x", priority=5)
    q.prepare("y", check_after=0)
    with pytest.raises(mqlite.Empty):
        q.get(timeout=0)
    assert (counts(q), q.stats().bytes, q.stats().oldest_age) == ((0, 0, 0, 0), 0, None)
    assert (q.qsize(), q.empty(), q.peek(5), bodies(q), bodies(q.dead), q.purge()) == (0, True, [], [], [], 0)
    assert undecided(q) == ["x", "y"]


def test_a_prepared_message_wakes_nobody_who_waits_and_its_commit_does(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    got = in_thread(q.get, timeout=GUARD)
    until_waiting(q)
    prepared = q.prepare("x", check_after=0)
    q.put("first")
    assert got.result(GUARD) == "first"
    got = in_thread(q.get, timeout=GUARD)
    until_waiting(q)
    prepared.commit()
    assert got.result(GUARD) == "x"


def test_a_prepared_message_is_no_task_before_it_is_committed(q: mqlite.Queue[Any]) -> None:
    prepared = q.prepare("x")
    assert q.unfinished_tasks == 0
    q.join()
    prepared.commit()
    assert q.unfinished_tasks == 1


def test_a_prepared_message_takes_no_room(broker: mqlite.Broker) -> None:
    q = broker.queue("q", maxsize=1)
    for number in range(3):
        q.prepare(number)
    assert not q.full()
    q.put("there", timeout=0)
    assert (q.full(), undecided(q)) == (True, [0, 1, 2])


def test_a_full_queue_takes_prepared_messages(broker: mqlite.Broker) -> None:
    q = broker.queue("q", maxsize=1)
    q.put("there")
    q.prepare("x")
    assert undecided(q) == ["x"]


def test_where_prepared_messages_wait_is_shown_nowhere(broker: mqlite.Broker, q: mqlite.Queue[Any], topic: mqlite.Topic[Any]) -> None:
    q.prepare("x", check_after=0)
    topic.prepare("x", check_after=0)
    assert (broker.queues(), broker.topics(), broker.tables(), list(broker.stats())) == (["q"], ["events"], [], ["q"])
    assert broker.stats()["q"] == q.stats()
    assert (topic.stats().published, topic.stats().subscriptions, topic.stats().stored, topic.subscriptions(), topic.bindings()) == (0, 0, 0, [], [])


def test_purge_leaves_what_is_prepared(q: mqlite.Queue[Any]) -> None:
    q.prepare("x", check_after=0)
    q.prepare("y")
    q.put("z")
    assert (q.purge(), undecided(q)) == (1, ["x", "y"])


def test_what_is_prepared_is_of_its_own_queue_or_topic(broker: mqlite.Broker) -> None:
    one, other, topic = broker.queue("same"), broker.queue("another"), broker.topic("same")
    one.prepare(1)
    other.prepare(2)
    topic.prepare(3)
    assert (undecided(one), undecided(other), undecided(topic)) == ([1], [2], [3])


def test_queues_and_topics_with_the_longest_names_prepare(broker: mqlite.Broker) -> None:
    q, topic = broker.queue("q" * 255), broker.topic("ü" * 127)
    sub = topic.subscribe("s")
    q.prepare(1).commit()
    topic.prepare(2).commit()
    assert (taken(q), taken(sub)) == ([1], [2])


# ---------------------------------------------------------------------- what is prepared
def test_a_prepared_message_says_what_it_is(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    q = timed_broker.queue("q")
    first = q.prepare({"a": [1, None]}, priority=-1)
    clock.pass_by(5)
    second = q.prepare(b"\x00", check_after=0, priority=1)
    noon = datetime.fromtimestamp(NOON, UTC)
    assert [(p.body, p.prepared_at, p.checks) for p in (first, second)] == [({"a": [1, None]}, noon, 0), (b"\x00", noon + timedelta(seconds=5), 0)]
    assert [(p.id, p.body, p.prepared_at, p.checks) for p in q.prepared()] == [(p.id, p.body, p.prepared_at, p.checks) for p in (first, second)]
    assert len({first.id, second.id}) == 2


def test_what_is_prepared_is_listed_in_the_order_of_prepare(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    q = timed_broker.queue("q")
    for number, (after, priority) in enumerate([(60, 0), (0, 0), (3600, 7), (1, -7), (0, 7), (60, 0)]):
        q.prepare(number, check_after=after, priority=priority)
    assert undecided(q) == [0, 1, 2, 3, 4, 5]
    clock.pass_by(60)
    assert undecided(q) == [0, 1, 2, 3, 4, 5]


def test_what_is_prepared_is_there_after_a_restart(path: str) -> None:
    with mqlite.open(path) as broker:
        ids = [broker.queue("q").prepare(number, check_after=after, priority=number, headers={"h": number}).id for number, after in enumerate((0, 60, 3600))]
        broker.topic("events").prepare("t", "a.b")
        assert broker.check() == []
    with mqlite.open(path) as broker:
        q, topic = broker.queue("q"), broker.topic("events")
        sub = topic.subscribe("s", "a.*")
        assert [(p.id, p.body) for p in q.prepared()] == list(zip(ids, range(3), strict=True))
        for prepared in [*q.prepared(), *topic.prepared()]:
            prepared.commit()
        assert [(m.body, m.priority, m.headers) for m in q.browse()] == [(n, n, {"h": n}) for n in (2, 1, 0)]
        assert (got(sub), undecided(q), undecided(topic)) == (["t"], [], [])
        assert broker.check() == []


def test_a_prepare_is_one_commit_and_so_is_a_decision(disk_broker: mqlite.Broker) -> None:
    q = disk_broker.queue("q")
    q.prepare("the first one makes room")
    before = commits(disk_broker)
    one, two = q.prepare(1), q.prepare(2)
    assert commits(disk_broker) == before + 2
    one.commit()
    two.rollback()
    assert commits(disk_broker) == before + 4


@pytest.mark.parametrize("codec", ["json", "pickle"])
def test_bodies_go_by_the_codec_of_the_queue(broker: mqlite.Broker, codec: str) -> None:
    q = broker.queue("q", codec=codec)
    body: Any = {"a": [1, 2.5, None, "ü"]} if codec == "json" else {("a", 1): {2, 3}}
    q.prepare(body)
    [prepared] = q.prepared()
    assert prepared.body == body
    prepared.commit()
    assert q.get(timeout=0) == body


# ---------------------------------------------------------------------- commit
def test_a_commit_sends_the_message_and_says_its_id(q: mqlite.Queue[Any]) -> None:
    prepared = q.prepare("x")
    number = prepared.commit()
    assert undecided(q) == []
    [message] = q.receive(timeout=0)
    assert (message.id, message.body, message.delivery_count, message.redelivered, message.queue) == (number, "x", 0, False, "q")
    message.ack()


OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "priority": {"priority": 7},
    "the least": {"priority": -(2**31)},
    "headers": {"headers": {"a": {"b": [1, None]}, "ü": 2.5}},
    "no headers": {"headers": {}},
    "type": {"type": "order"},
    "answer": {"reply_to": "r", "correlation_id": "c"},
    "group": {"group": "g"},
    "ttl": {"ttl": 60},
    "no delay": {"delay": None, "ttl": None, "group": None, "headers": None},
    "delay 0": {"delay": 0},
    "past": {"eta": NOON - 1},
    "keys": {"unique": "u", "unique_states": ("ready", "dead"), "replace_key": "r", "dedup_id": "d"},
    "all": {"priority": 2, "headers": {"h": 1}, "type": "t", "group": "g", "ttl": 5, "reply_to": "r", "correlation_id": "c"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_prepared_message_looks_as_if_it_were_put_at_the_commit(timed_broker: mqlite.Broker, clock: HandClock, options: dict[str, Any]) -> None:
    q, plain = timed_broker.queue("q"), timed_broker.queue("plain")
    q.prepare("x", **options)
    clock.pass_by(59)
    q.prepared()[0].commit()
    plain.put("x", **options)
    assert looks(q) == looks(plain) != []
    assert [m.enqueued_at for m in q.browse()] == [m.enqueued_at for m in plain.browse()]


@pytest.mark.parametrize("options", [{"delay": 10}, {"delay": 10.0, "priority": 3}, {"eta": NOON + 110}, {"eta": datetime.fromtimestamp(NOON + 110, UTC)}])
def test_a_delay_counts_from_the_commit(timed_broker: mqlite.Broker, clock: HandClock, options: dict[str, Any]) -> None:
    q = timed_broker.queue("q")
    prepared = q.prepare("x", **options)
    clock.pass_by(100)
    prepared.commit()
    assert counts(q) == (0, 1, 0, 0)
    clock.pass_by(9.999)
    assert taken(q) == []
    clock.pass_by(0.001)
    assert taken(q) == ["x"]


def test_a_time_to_live_counts_from_the_commit(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    q, inherits = timed_broker.queue("q"), timed_broker.queue("inherits", ttl=10)
    one, two = q.prepare("x", ttl=10), inherits.prepare("y")
    clock.pass_by(100)
    one.commit()
    two.commit()
    clock.pass_by(9.999)
    assert (bodies(q), bodies(inherits)) == (["x"], ["y"])
    clock.pass_by(0.001)
    assert (taken(q), taken(inherits), counts(q), counts(inherits)) == ([], [], (0, 0, 0, 1), (0, 0, 0, 1))


def test_a_dedup_window_counts_from_the_commit(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    q = timed_broker.queue("q", dedup_window=10)
    prepared = q.prepare("x", dedup_id="d")
    assert q.put("before", dedup_id="other")
    clock.pass_by(100)
    number = prepared.commit()
    clock.pass_by(9.999)
    assert q.put("again", dedup_id="d") == number
    clock.pass_by(0.001)
    assert q.put("later", dedup_id="d") != number


def test_a_committed_repetition_stores_nothing_and_is_decided(q: mqlite.Queue[Any]) -> None:
    repeated, unique = q.prepare("x", dedup_id="d"), q.prepare("y", unique="u")
    first, second = q.put("first", dedup_id="d"), q.put("second", unique="u")
    assert (repeated.commit(), unique.commit()) == (first, second)
    assert (bodies(q), undecided(q)) == (["first", "second"], [])


def test_two_prepared_messages_with_the_same_key_are_not_in_each_other_s_way(q: mqlite.Queue[Any]) -> None:
    one, two = q.prepare(1, unique="u", dedup_id="d"), q.prepare(2, unique="u", dedup_id="d")
    one.rollback()
    two.commit()
    assert (taken(q), undecided(q)) == ([2], [])


def test_a_committed_message_takes_the_place_of_the_one_with_its_replace_key(q: mqlite.Queue[Any]) -> None:
    prepared = q.prepare("new", replace_key="r")
    q.put("old", replace_key="r")
    assert bodies(q) == ["old"]
    prepared.commit()
    assert bodies(q) == ["new"]


def test_a_group_holds_up_what_is_committed(q: mqlite.Queue[Any]) -> None:
    one, two = q.prepare(1, group="g"), q.prepare(2, group="g")
    two.commit()
    one.commit()
    [message] = q.receive(5, timeout=0)
    assert (message.body, message.group) == (2, "g")
    message.ack()
    assert taken(q) == [1]


def test_messages_line_up_as_they_are_committed(q: mqlite.Queue[Any]) -> None:
    prepared = [q.prepare(number, priority=int(number == 3)) for number in range(4)]
    q.put("between")
    for number in (2, 0, 3, 1):
        prepared[number].commit()
    assert taken(q) == [3, "between", 2, 0, 1]


@pytest.mark.parametrize("order", ["fair", "lifo", "aging"])
def test_queues_of_every_order_take_what_is_committed(broker: mqlite.Broker, order: str) -> None:
    options: dict[str, dict[str, Any]] = {"fair": {"fair": True}, "lifo": {"order": "lifo"}, "aging": {"aging": 5.0}}
    q = broker.queue("q", **options[order])
    prepared = [q.prepare(number) for number in range(3)]
    for each in prepared:
        each.commit()
    assert taken(q) == ([2, 1, 0] if order == "lifo" else [0, 1, 2])


def test_headers_are_taken_over_at_the_prepare(q: mqlite.Queue[Any]) -> None:
    headers = {"a": 1}
    prepared, frozen = q.prepare("x", headers=headers), q.prepare("y", headers=types.MappingProxyType({"b": 2}))
    headers["later"] = 2
    prepared.commit()
    frozen.commit()
    assert [message.headers for message in q.browse()] == [{"a": 1}, {"b": 2}]


# ---------------------------------------------------------------------- decided once
def test_a_rollback_forgets_the_message(q: mqlite.Queue[Any]) -> None:
    assert q.prepare("x").rollback() is None
    assert (undecided(q), counts(q), taken(q)) == ([], (0, 0, 0, 0), [])


@pytest.mark.parametrize("second", DECISIONS)
@pytest.mark.parametrize("first", DECISIONS)
@pytest.mark.parametrize("due", [False, True], ids=["early", "due"])
def test_a_message_is_decided_once(timed_broker: mqlite.Broker, clock: HandClock, first: str, second: str, due: bool) -> None:
    q = timed_broker.queue("q")
    prepared = q.prepare("x")
    [same] = q.prepared()
    if due:
        clock.pass_by(60)
    decide(prepared, first)
    for handle in (prepared, same):
        with pytest.raises(mqlite.AlreadyDecided, match="was decided already"):
            decide(handle, second)
        with pytest.raises(mqlite.AlreadyDecided), timed_broker.transaction() as tx:
            decide(handle, second, tx=tx)
    assert (len(bodies(q)), undecided(q)) == (first == "commit", [])


def test_what_was_decided_stays_decided_after_a_restart(path: str) -> None:
    for decision in DECISIONS:
        with mqlite.open(path) as broker:
            decide(broker.queue("q").prepare(decision), decision)
    with mqlite.open(path) as broker:
        assert (undecided(broker.queue("q")), bodies(broker.queue("q")), broker.check()) == ([], ["commit"], [])


def test_of_many_threads_that_decide_one_does(q: mqlite.Queue[Any], broker: mqlite.Broker, in_thread: InThread) -> None:
    for number in range(20):
        q.prepare(number, check_after=0)

    def decide_all(which: str) -> list[int]:
        done = []
        for prepared in q.prepared():
            try:
                decide(prepared, which)
            except mqlite.AlreadyDecided:
                continue
            done.append(prepared.body)
        return done

    with q.check_back(lambda message: True):
        deciders = [in_thread(decide_all, which) for which in DECISIONS * 2]
        done = [decider.result(GUARD) for decider in deciders]
    decided = Counter(number for each in done for number in each)
    for prepared in q.prepared():
        prepared.commit()
    assert max(decided.values(), default=1) == 1
    sent = Counter(bodies(q))
    assert max(sent.values(), default=1) == 1
    assert {*done[0], *done[2]} <= set(sent)
    assert not {*done[1], *done[3]} & set(sent)


# ---------------------------------------------------------------------- no room
@pytest.mark.parametrize("options", [{"maxsize": 1}, {"maxsize": 1, "overflow": "reject"}, {"maxbytes": 150}], ids=["maxsize", "reject", "maxbytes"])
def test_what_finds_no_room_stays_prepared(broker: mqlite.Broker, options: dict[str, Any]) -> None:
    q = broker.queue("q", **options)
    q.put("x" * 100)
    prepared = q.prepare("y" * 100)
    for _ in range(2):
        with pytest.raises(mqlite.Full, match="'q'"):
            prepared.commit()
    assert (counts(q), undecided(q)) == ((1, 0, 0, 0), ["y" * 100])
    q.get()
    prepared.commit()
    assert taken(q) == ["y" * 100]


def test_a_commit_waits_for_room_as_long_as_it_is_told(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = broker.queue("q", maxsize=1)
    q.put("there")
    with pytest.raises(mqlite.Full):
        q.prepare("late").commit(timeout=0.01)
    waiting = in_thread(q.prepare("x").commit, timeout=None)
    until_waiting(q, Kind.SPACE)
    assert undecided(q) == ["late", "x"]
    assert q.get() == "there"
    number = waiting.result(GUARD)
    assert [(m.id, m.body) for m in q.browse()] == [(number, "x")]


@decision
def test_a_commit_that_waits_for_room_hears_that_somebody_else_has_decided(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting, decision: str) -> None:
    q = broker.queue("q", maxsize=1)
    q.put("there")
    prepared = q.prepare("x")
    waiting = in_thread(prepared.commit, timeout=GUARD)
    until_waiting(q, Kind.SPACE)
    with broker.transaction() as tx:
        if decision == "commit":
            received(broker.queue("other")).ack(tx=tx)
        decide(q.prepared()[0], "rollback", tx=tx)
    assert q.get() == "there"
    with pytest.raises(mqlite.AlreadyDecided):
        waiting.result(GUARD)
    assert taken(q) == []


def test_closing_the_queue_ends_a_commit_that_waits(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q, other = broker.queue("q", maxsize=1), broker.queue("q")
    q.put("there")
    waiting = in_thread(q.prepare("x").commit, timeout=None)
    until_waiting(q, Kind.SPACE)
    q.close()
    with pytest.raises(mqlite.Closed):
        waiting.result(GUARD)
    assert undecided(other) == ["x"]


@pytest.mark.parametrize("overflow", ["drop_oldest", "dead_letter"])
def test_other_ways_to_overflow_are_those_of_the_queue(broker: mqlite.Broker, overflow: str) -> None:
    q = broker.queue("q", maxsize=1, overflow=overflow)
    q.put("old")
    q.prepare("new").commit()
    if overflow == "drop_oldest":
        assert (bodies(q), bodies(q.dead)) == (["new"], [])
    else:
        assert (bodies(q), [(m.body, m.death.reason) for m in q.dead.browse()]) == (["old"], [("new", "overflow")])
    assert undecided(q) == []


# ---------------------------------------------------------------------- refused
@pytest.mark.parametrize(
    ("error", "options"),
    [
        (TypeError, {"check_after": None}),
        (TypeError, {"check_after": True}),
        (TypeError, {"check_after": "1"}),
        (ValueError, {"check_after": -1}),
        (ValueError, {"check_after": float("nan")}),
        (ValueError, {"check_after": float("inf")}),
        (TypeError, {"priority": "high"}),
        (ValueError, {"priority": 2**31}),
        (TypeError, {"colour": "red"}),
        (TypeError, {"block": False}),
        (TypeError, {"headers": [1]}),
        (mqlite.CodecError, {"headers": {"a": {1}}}),
        (TypeError, {"type": 1}),
        (ValueError, {"ttl": 0}),
        (ValueError, {"delay": -1}),
        (ValueError, {"delay": 1, "eta": NOON}),
        (ValueError, {"eta": datetime(2027, 1, 1)}),
        (ValueError, {"group": ""}),
    ],
    ids=str,
)
def test_what_cannot_be_put_cannot_be_prepared(q: mqlite.Queue[Any], topic: mqlite.Topic[Any], error: type[Exception], options: dict[str, Any]) -> None:
    for target in (q, topic):
        with pytest.raises(error):
            target.prepare("x", **options)
        assert target.prepared() == []


def test_the_words_about_check_after_name_it(q: mqlite.Queue[Any]) -> None:
    with pytest.raises(TypeError, match="check_after"):
        q.prepare("x", check_after="soon")  # type: ignore[arg-type]


def test_options_of_one_kind_only_are_refused_by_the_other(q: mqlite.Queue[Any], topic: mqlite.Topic[Any]) -> None:
    for options in ({"unique_states": ("ready",)}, {"unique": "u", "unique_states": ("gone",)}):
        with pytest.raises(ValueError):
            q.prepare("x", **options)  # type: ignore[arg-type]
    for options in ({"retain": True}, {"mandatory": True}, {"routing_key": "a"}):
        with pytest.raises(TypeError):
            q.prepare("x", **options)  # type: ignore[arg-type]
    for options in ({"unique": "u"}, {"retain": 1}, {"mandatory": None}, {"routing_key": 3}):
        with pytest.raises(TypeError):
            topic.prepare("x", **options)  # type: ignore[arg-type]
    assert undecided(q) == undecided(topic) == []


def test_what_is_too_large_cannot_be_prepared(broker: mqlite.Broker) -> None:
    for q in (broker.queue("q", max_message_bytes=50), broker.queue("p", maxbytes=50), broker.topic("t", max_message_bytes=50)):
        with pytest.raises(mqlite.MessageTooLarge):
            q.prepare("x" * 51)
        assert q.prepared() == []


def test_what_the_codec_cannot_carry_cannot_be_prepared(disk_broker: mqlite.Broker) -> None:
    for target in (disk_broker.queue("q"), disk_broker.topic("t")):
        with pytest.raises(mqlite.CodecError):
            target.prepare({1, 2})
        assert target.prepared() == []


def test_a_group_is_refused_where_the_last_comes_first(broker: mqlite.Broker) -> None:
    with pytest.raises(ValueError, match="group"):
        broker.queue("q", order="lifo").prepare("x", group="g")


@pytest.mark.parametrize("use", [lambda q: q.prepare("x"), lambda q: q.prepared(), lambda q: q.check_back(lambda message: True)], ids=["prepare", "prepared", "check_back"])
def test_subscriptions_and_dead_letter_queues_cannot_prepare(q: mqlite.Queue[Any], topic: mqlite.Topic[Any], use: Any) -> None:
    for target in (q.dead, topic.subscribe("s"), topic.subscribe("s").dead, topic.dead):
        with pytest.raises(mqlite.NotSupported):
            use(target)
        with pytest.raises(mqlite.NotSupported):
            use(target)


@pytest.mark.parametrize("immediate", [False, True])
def test_after_a_shutdown_nothing_is_prepared_nor_committed_but_rolled_back(broker: mqlite.Broker, q: mqlite.Queue[Any], immediate: bool) -> None:
    one, two = q.prepare(1), q.prepare(2)
    q.shutdown(immediate)
    with pytest.raises(mqlite.ShutDown):
        q.prepare(3)
    with pytest.raises(mqlite.ShutDown):
        one.commit()
    two.rollback()
    assert undecided(q) == [1]


def test_a_closed_queue_and_a_closed_topic_prepare_nothing(q: mqlite.Queue[Any], topic: mqlite.Topic[Any], broker: mqlite.Broker) -> None:
    for target in (q, topic):
        prepared = target.prepare("x")
        target.close()
        target.close()
        for use in (lambda target=target: target.prepare("y"), target.prepared, lambda target=target: target.check_back(lambda m: True), prepared.commit, prepared.rollback):
            with pytest.raises(mqlite.Closed):
                use()
    assert (undecided(broker.queue("q")), undecided(broker.topic("events"))) == (["x"], ["x"])


@pytest.mark.parametrize(("error", "timeout"), [(ValueError, -1), (TypeError, "1"), (TypeError, True)])
def test_a_bad_timeout_decides_nothing(q: mqlite.Queue[Any], error: type[Exception], timeout: Any) -> None:
    prepared = q.prepare("x")
    with pytest.raises(error):
        prepared.commit(timeout=timeout)
    assert undecided(q) == ["x"]


@pytest.mark.parametrize("how", [{"interval": 0}, {"interval": -1}, {"interval": float("inf")}, {"max_checks": 0}])
def test_check_back_refuses_bad_values(q: mqlite.Queue[Any], how: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        q.check_back(lambda message: True, **how)


@pytest.mark.parametrize("how", [{"interval": None}, {"interval": "1"}, {"max_checks": None}, {"max_checks": 1.5}, {"max_checks": True}])
def test_check_back_refuses_bad_types(q: mqlite.Queue[Any], how: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        q.check_back(lambda message: True, **how)
    with pytest.raises(TypeError, match="function"):
        q.check_back(True)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- in a transaction
@decision
@pytest.mark.parametrize("due", [False, True], ids=["early", "due"])
def test_a_transaction_decides_with_all_that_it_does(broker: mqlite.Broker, q: mqlite.Queue[Any], decision: str, due: bool) -> None:
    everything = Everything(broker)
    prepared = q.prepare("x", check_after=0 if due else 60)
    with broker.transaction() as tx:
        everything.stage(tx)
        receipt = decide(prepared, decision, tx=tx)
        assert (undecided(q), counts(q)) == (["x"], (0, 0, 0, 0))
        if receipt is not None:
            assert (receipt.done, receipt.item) == (False, "x")
            with pytest.raises(mqlite.NotCommitted):
                receipt.result()
    everything.assert_all_happened()
    assert undecided(q) == []
    assert [m.id for m in q.browse()] == ([receipt.result()] if decision == "commit" else [])


@decision
@pytest.mark.parametrize("how", ["an error", "rollback", "Conflict", "Full"])
def test_a_transaction_that_is_not_committed_decides_nothing(broker: mqlite.Broker, q: mqlite.Queue[Any], decision: str, how: str) -> None:
    everything = Everything(broker)
    full = broker.queue("full", maxsize=1)
    full.put("there")
    prepared = q.prepare("x")
    receipt = None
    errors = {"an error": ZeroDivisionError, "Conflict": mqlite.Conflict, "Full": mqlite.Full, "rollback": ()}
    try:
        with broker.transaction() as tx:
            everything.stage(tx)
            receipt = decide(prepared, decision, tx=tx)
            if how == "an error":
                raise ZeroDivisionError
            if how == "Conflict":
                _ = tx.table("everything")["kept"]
                broker.table("everything")["kept"] = 1
                broker.table("everything")["kept"] = 0
            elif how == "Full":
                full.put("too much", tx=tx)
            else:
                tx.rollback()
    except errors[how]:  # type: ignore[misc]
        pass
    else:
        assert how == "rollback"
    everything.assert_nothing_happened()
    everything.settle()
    assert (undecided(q), counts(q)) == (["x"], (0, 0, 0, 0))
    if receipt is not None:
        assert (receipt.done, isinstance(receipt.error, errors[how] if how in ("Conflict", "Full") else mqlite.NotCommitted)) == (True, True)
    prepared.commit()
    assert taken(q) == ["x"]


@decision
@pytest.mark.parametrize("first", DECISIONS)
def test_a_transaction_comes_too_late_and_then_does_nothing(broker: mqlite.Broker, q: mqlite.Queue[Any], first: str, decision: str) -> None:
    everything = Everything(broker)
    prepared = q.prepare("x")
    tx = broker.transaction()
    everything.stage(tx)
    decide(prepared, decision, tx=tx)
    decide(prepared, first)
    with pytest.raises(mqlite.AlreadyDecided):
        tx.commit()
    everything.assert_nothing_happened()
    everything.settle()
    assert (len(bodies(q)), undecided(q)) == (first == "commit", [])


@pytest.mark.parametrize("second", DECISIONS)
@pytest.mark.parametrize("first", DECISIONS)
def test_a_transaction_that_decides_twice_does_nothing(broker: mqlite.Broker, q: mqlite.Queue[Any], first: str, second: str) -> None:
    everything = Everything(broker)
    prepared = q.prepare("x")
    tx = broker.transaction()
    everything.stage(tx)

    def decide_twice_and_commit() -> None:
        decide(prepared, first, tx=tx)
        decide(q.prepared()[0], second, tx=tx)
        tx.commit()

    with pytest.raises(mqlite.AlreadyDecided):
        decide_twice_and_commit()
    tx.rollback()
    everything.assert_nothing_happened()
    everything.settle()
    assert (counts(q), undecided(q)) == ((0, 0, 0, 0), ["x"])


def test_one_transaction_decides_about_many(broker: mqlite.Broker, q: mqlite.Queue[Any], topic: mqlite.Topic[Any]) -> None:
    sub = topic.subscribe("s")
    for number in range(5):
        q.prepare(number, check_after=0 if number % 2 else 60)
        topic.prepare(number)
    with broker.transaction() as tx:
        for prepared in [*q.prepared(), *topic.prepared()]:
            decide(prepared, DECISIONS[prepared.body % 2], tx=tx)
    assert (undecided(q), undecided(topic), taken(q), taken(sub)) == ([], [], [0, 2, 4], [0, 2, 4])


def test_what_a_transaction_commits_lines_up_with_what_it_puts(broker: mqlite.Broker, q: mqlite.Queue[Any]) -> None:
    prepared = q.prepare(2)
    with broker.transaction() as tx:
        q.put(1, tx=tx)
        prepared.commit(tx=tx)
        q.put(3, tx=tx)
    assert taken(q) == [1, 2, 3]


def test_room_that_the_transaction_makes_is_there_for_what_it_commits(broker: mqlite.Broker) -> None:
    q = broker.queue("q", maxsize=1)
    message = received(q, "old")
    prepared = q.prepare("new")
    with pytest.raises(mqlite.Full), broker.transaction() as tx:
        prepared.commit(tx=tx)
    with broker.transaction() as tx:
        prepared.commit(tx=tx)
        message.ack(tx=tx)
    assert taken(q) == ["new"]


def test_a_commit_that_is_refused_at_once_is_no_part_of_the_transaction(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    prepared = q.prepare("x" * 100)
    q.configure(max_message_bytes=10)
    with broker.transaction() as tx:
        with pytest.raises(mqlite.MessageTooLarge):
            prepared.commit(tx=tx)
        tx.table("t")["k"] = 1
    assert (undecided(q), bodies(q), dict(broker.table("t"))) == (["x" * 100], [], {"k": 1})


def test_the_transaction_is_one_of_the_same_store_and_open(broker: mqlite.Broker, q: mqlite.Queue[Any], topic: mqlite.Topic[Any]) -> None:
    for prepared in (q.prepare("x"), topic.prepare("x")):
        with mqlite.open() as other, other.transaction() as foreign:
            for decision in DECISIONS:
                with pytest.raises(ValueError, match="another store"):
                    decide(prepared, decision, tx=foreign)
        with broker.transaction() as over:
            pass
        for decision in DECISIONS:
            with pytest.raises(mqlite.Closed):
                decide(prepared, decision, tx=over)
            with pytest.raises(TypeError):
                decide(prepared, decision, tx=broker)
        prepared.rollback()


def test_a_commit_in_a_transaction_has_no_timeout_of_its_own(broker: mqlite.Broker, q: mqlite.Queue[Any]) -> None:
    prepared = q.prepare("x")
    with broker.transaction() as tx, pytest.raises(TypeError, match="timeout"):
        prepared.commit(timeout=5, tx=tx)
    assert (undecided(q), bodies(q)) == (["x"], [])


# ---------------------------------------------------------------------- who is asked
def test_somebody_is_asked_when_nobody_has_decided_for_so_long(timed_broker: mqlite.Broker, clock: HandClock, eventually: Eventually) -> None:
    q = timed_broker.queue("q")
    q.prepare("default")
    q.prepare("sooner", check_after=10)
    q.prepare("now", check_after=0)
    asked = []
    for passes in (0, 10, 50):
        clock.pass_by(passes - 0.001 if passes else 0)
        if passes:
            assert not_asked(q, eventually)
            clock.pass_by(0.001)
        oracle = Oracle(True)
        ask(q, oracle, 1, eventually)
        asked.append(oracle.bodies)
    assert (asked, undecided(q), taken(q)) == ([["now"], ["sooner"], ["default"]], [], ["now", "sooner", "default"])


def test_somebody_who_waits_to_be_asked_is_asked_in_time(q: mqlite.Queue[Any], eventually: Eventually) -> None:
    with q.check_back(lambda message: True):
        q.prepare("x", check_after=0.01)
        eventually(lambda: counts(q) == (1, 0, 0, 0))
        q.prepare("y", check_after=0)
        eventually(lambda: counts(q) == (2, 0, 0, 0))
    assert (undecided(q), taken(q)) == ([], ["x", "y"])


def test_nobody_is_asked_about_what_was_decided(timed_broker: mqlite.Broker, clock: HandClock, eventually: Eventually) -> None:
    q = timed_broker.queue("q")
    for decision in DECISIONS:
        decide(q.prepare(decision), decision)
        early = q.prepare(decision, check_after=0)
        decide(early, decision)
    clock.pass_by(60)
    assert not_asked(q, eventually)
    assert taken(q) == ["commit", "commit"]


@pytest.mark.parametrize(("answer", "sent"), [(True, ["x"]), (False, []), (1, ["x"]), (0, [])])
def test_the_answer_decides(timed_broker: mqlite.Broker, clock: HandClock, eventually: Eventually, answer: Any, sent: list[str]) -> None:
    q = timed_broker.queue("q")
    prepared = q.prepare("x", priority=3, headers={"h": 1}, delay=10)
    clock.pass_by(100)
    ask(q, Oracle(answer), 1, eventually)
    for decision in DECISIONS:
        with pytest.raises(mqlite.AlreadyDecided):
            decide(prepared, decision)
    assert (undecided(q), counts(q)) == ([], (0, len(sent), 0, 0))
    clock.pass_by(10)
    assert [(m.body, m.priority, m.headers, m.delivery_count) for m in q.browse()] == [(body, 3, {"h": 1}, 0) for body in sent]


WRONG_ANSWERS: dict[str, Any] = {"not yet": None, "an error": ZeroDivisionError("away"), "a word": "yes", "a number": 2, "an error of the store": mqlite.Closed("of something else")}


@pytest.mark.parametrize("answer", WRONG_ANSWERS.values(), ids=WRONG_ANSWERS.keys())
def test_who_does_not_know_is_asked_again_after_the_interval(timed_broker: mqlite.Broker, clock: HandClock, eventually: Eventually, answer: Any) -> None:
    q = timed_broker.queue("q")
    q.prepare("x", check_after=5)
    clock.pass_by(5)
    ask(q, Oracle(answer), 1, eventually, interval=30, max_checks=3)
    assert [(p.body, p.checks) for p in q.prepared()] == [("x", 1)]
    clock.pass_by(29.999)
    q.prepare("less urgent", check_after=0, priority=-1)
    oracle = Oracle(False)
    ask(q, oracle, 1, eventually, interval=30, max_checks=3)
    assert oracle.bodies == ["less urgent"]
    clock.pass_by(0.001)
    ask(q, Oracle(answer), 1, eventually, interval=30, max_checks=3)
    assert [(p.body, p.checks) for p in q.prepared()] == [("x", 2)]
    clock.pass_by(30)
    ask(q, Oracle(True), 1, eventually, interval=30, max_checks=3)
    assert (taken(q), undecided(q), counts(q)) == (["x"], [], (0, 0, 0, 0))


def test_one_who_was_asked_in_vain_is_asked_again_by_himself(q: mqlite.Queue[Any], eventually: Eventually) -> None:
    oracle = Oracle(None, ZeroDivisionError(), None, True)
    q.prepare("x", check_after=0)
    with q.check_back(oracle, interval=0.005):
        eventually(lambda: counts(q) == (1, 0, 0, 0))
    assert oracle.bodies == ["x"] * 4


def test_a_topic_and_a_queue_with_an_interval_of_their_own_go_on_preparing(broker: mqlite.Broker) -> None:
    for target, again in ((broker.queue("q"), broker.queue("q")), (broker.topic("t"), broker.topic("t"))):
        target.prepare("x")
        target.check_back(lambda message: None, interval=5, max_checks=2).close()
        again.prepare("y")
        assert undecided(again) == undecided(target) == ["x", "y"]


def test_the_interval_and_the_number_of_checks_are_there_after_a_restart(path: str) -> None:
    for seconds, times in ((5, 2), (7, 3)):
        with mqlite.open(path) as broker:
            broker.queue("q").check_back(Oracle(None), interval=seconds, max_checks=times).close()
        with mqlite.open(path) as broker:
            q = broker.queue("q")
            q.prepare("x")
            stored = q._preparing.channel.state.options  # type: ignore[union-attr]
            assert (stored.max_deliveries, stored.backoff.waits) == (times, (float(seconds),))  # type: ignore[union-attr]
            assert broker.check() == []


def test_the_last_check_back_says_how_often_and_when(timed_broker: mqlite.Broker, clock: HandClock, eventually: Eventually) -> None:
    q, oracle = timed_broker.queue("q"), Oracle(None)
    with q.check_back(oracle, interval=5, max_checks=1):
        q.check_back(oracle, interval=10, max_checks=2).close()
        q.prepare("x", check_after=0)
        eventually(lambda: [prepared.checks for prepared in q.prepared()] == [1])
        clock.pass_by(9.999)
        q.prepare("less urgent", check_after=0, priority=-1)
        eventually(lambda: [prepared.checks for prepared in q.prepared()] == [1, 1])
        assert oracle.bodies == ["x", "less urgent"]
        clock.pass_by(0.001)
        eventually(lambda: (look_at_clock(q), counts(q)[3] == 1)[1])
    assert (oracle.bodies, undecided(q)) == (["x", "less urgent", "x"], ["less urgent"])


def test_who_is_asked_sees_the_message_and_cannot_settle_it(timed_broker: mqlite.Broker, clock: HandClock, eventually: Eventually) -> None:
    q, topic = timed_broker.queue("q"), timed_broker.topic("events")
    said: dict[str, Any] = {"headers": {"h": 1}, "type": "t", "group": "g", "reply_to": "r", "correlation_id": "c", "priority": 4}
    for target, options in ((q, said), (topic, {**said, "routing_key": "a.b"})):
        prepared = target.prepare({"a": 1}, check_after=5, **options)
        clock.pass_by(7)
        oracle = Oracle(None, False)
        ask(target, oracle, 1, eventually)
        clock.pass_by(60)
        ask(target, oracle, 1, eventually)
        first, second = oracle.asked
        assert (first.id, first.body, first.queue, first.enqueued_at) == (prepared.id, {"a": 1}, target.name, prepared.prepared_at)
        assert {name: getattr(first, name) for name in options} == options
        assert (first.delivery_count, second.delivery_count, second.id) == (0, 1, prepared.id)
        for settle in (first.ack, first.nack, first.reject, first.release):
            with pytest.raises(mqlite.NotClaimed):
                settle()


def test_messages_are_asked_about_one_after_the_other_by_priority(q: mqlite.Queue[Any], eventually: Eventually) -> None:
    for number in range(3):
        q.prepare(number, check_after=0, priority=number)
    oracle = Oracle(True)
    ask(q, oracle, 3, eventually)
    assert oracle.bodies == [2, 1, 0]


def test_who_is_asked_may_decide_by_himself(broker: mqlite.Broker, q: mqlite.Queue[Any], eventually: Eventually) -> None:
    def decide_himself(message: mqlite.Message) -> Any:
        [prepared] = [each for each in q.prepared() if each.id == message.id]
        decide(prepared, DECISIONS[message.body % 2])
        return ANSWERS["yes"] if message.body < 2 else None

    for number in range(4):
        q.prepare(number, check_after=0)
    ask(q, decide_himself, 4, eventually)
    assert (taken(q), undecided(q)) == ([0, 2], [])


def test_who_is_asked_may_look_into_tables_and_prepare_more(broker: mqlite.Broker, q: mqlite.Queue[Any], eventually: Eventually) -> None:
    orders = broker.table("orders")
    orders.update({"paid": True, "cancelled": False})

    def look(message: mqlite.Message) -> bool | None:
        if message.body == "paid":
            q.prepare("cancelled", check_after=0)
        found: bool | None = orders.get(message.body)
        return found

    q.prepare("paid", check_after=0)
    ask(q, look, 2, eventually)
    assert (taken(q), undecided(q)) == (["paid"], [])


@pytest.mark.parametrize("error", [mqlite.LeaseLost("of a message of his own"), mqlite.NotClaimed("another"), mqlite.ShutDown("another"), SystemExit("stop")], ids=lambda error: type(error).__name__)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_whatever_the_function_raises_it_is_asked_again_and_about_others(q: mqlite.Queue[Any], eventually: Eventually, error: BaseException) -> None:
    oracle = Oracle(error, True)
    for body in ("x", "y"):
        q.prepare(body, check_after=0)
    with q.check_back(oracle, interval=0.005):
        eventually(lambda: counts(q) == (2, 0, 0, 0))
    assert (sorted(oracle.bodies), undecided(q)) == (["x", "x", "y"], [])


# ---------------------------------------------------------------------- too often
@answers
def test_what_was_asked_about_too_often_is_a_dead_letter_of_the_queue(timed_broker: mqlite.Broker, clock: HandClock, eventually: Eventually, answer: Any) -> None:
    if isinstance(answer, bool):
        answer = "no answer"
    q = timed_broker.queue("q")
    prepared = q.prepare("x", check_after=0, priority=3, headers={"h": 1}, type="t", correlation_id="c")
    for _ in range(3):
        ask(q, Oracle(answer), 1, eventually, interval=10, max_checks=3)
        clock.pass_by(10)
    assert (undecided(q), counts(q)) == ([], (0, 0, 0, 1))
    [letter] = q.dead.browse()
    assert (letter.body, letter.priority, letter.headers, letter.type, letter.correlation_id) == ("x", 3, {"h": 1}, "t", "c")
    assert letter.death is not None
    assert (letter.death.reason, letter.death.delivery_count, letter.death.died_at) == ("undecided", 3, datetime.fromtimestamp(NOON + 20, UTC))
    assert letter.death.error
    for decision in DECISIONS:
        with pytest.raises(mqlite.AlreadyDecided):
            decide(prepared, decision)
    assert not_asked(q, eventually)


def test_redrive_sends_what_was_asked_about_too_often(broker: mqlite.Broker, eventually: Eventually) -> None:
    q = broker.queue("q")
    for number in range(4):
        q.prepare(number, check_after=0, group="g", headers={"n": number})
    ask(q, Oracle(None), 4, eventually, max_checks=1)
    assert counts(q) == (0, 0, 0, 4)
    assert q.redrive(lambda message: message.body != 2) == 3
    assert counts(q) == (3, 0, 0, 1)
    [message] = q.receive(5, timeout=0)
    assert (message.body, message.group, message.headers, message.delivery_count, message.death) == (0, "g", {"n": 0}, 0, None)
    message.ack()
    assert (taken(q), undecided(q), bodies(q.dead)) == ([1, 3], [], [2])


def test_a_queue_that_keeps_no_dead_letters_keeps_what_is_undecided(broker: mqlite.Broker, eventually: Eventually) -> None:
    q = broker.queue("q", dead_letter=False, max_deliveries=1)
    q.prepare("x", check_after=0)
    ask(q, Oracle(None), 1, eventually, max_checks=1)
    assert [message.death.reason for message in q.dead.browse()] == ["undecided"]


def test_the_dead_letters_of_the_queue_are_among_those_that_were_undecided(q: mqlite.Queue[Any], eventually: Eventually) -> None:
    q.prepare("undecided", check_after=0)
    received(q, "rejected").reject("bad")
    ask(q, Oracle(None), 1, eventually, max_checks=1)
    assert {message.body: message.death.reason for message in q.dead.browse()} == {"undecided": "undecided", "rejected": "rejected"}
    assert (q.redrive(), sorted(taken(q))) == (2, ["rejected", "undecided"])


def test_a_message_that_finds_no_room_when_it_is_to_be_sent_is_asked_about_again(timed_broker: mqlite.Broker, clock: HandClock, eventually: Eventually) -> None:
    q = timed_broker.queue("q", maxsize=1)
    q.put("there")
    q.prepare("x", check_after=0)
    ask(q, Oracle(True), 1, eventually, interval=10, max_checks=5)
    assert (undecided(q), bodies(q)) == (["x"], ["there"])
    q.get()
    clock.pass_by(10)
    ask(q, Oracle(True), 1, eventually, interval=10, max_checks=5)
    assert (undecided(q), taken(q)) == ([], ["x"])


# ---------------------------------------------------------------------- decided while somebody is asked
@answers
@decision
def test_who_decides_while_somebody_is_asked_wins(q: mqlite.Queue[Any], broker: mqlite.Broker, decision: str, answer: Any) -> None:
    busy = Busy()
    prepared = q.prepare("x", check_after=0)
    with q.check_back(busy, max_checks=1):
        assert busy.asked.wait(GUARD)
        assert undecided(q) == ["x"]
        decide(prepared, decision)
        assert (undecided(q), broker.check()) == ([], [])
        busy.answer(answer)
    assert (counts(q), bodies(q)) == ((decision == "commit", 0, 0, 0), ["x"] * (decision == "commit"))


@answers
def test_who_was_overtaken_is_asked_about_the_next(q: mqlite.Queue[Any], eventually: Eventually, answer: Any) -> None:
    busy = Busy()
    prepared = q.prepare("x", check_after=0)
    q.prepare("y", check_after=0)
    with q.check_back(busy):
        assert busy.asked.wait(GUARD)
        prepared.rollback()
        busy.answer(answer)
        eventually(lambda: len(busy.bodies) == 2)
    assert busy.bodies == ["x", "y"]
    assert taken(q) == (["y"] if answer is True else [])


@decision
def test_a_transaction_that_decides_while_somebody_is_asked_wins(q: mqlite.Queue[Any], broker: mqlite.Broker, decision: str) -> None:
    everything, busy = Everything(broker), Busy()
    prepared = q.prepare("x", check_after=0)
    with q.check_back(busy):
        assert busy.asked.wait(GUARD)
        with broker.transaction() as tx:
            everything.stage(tx)
            decide(prepared, decision, tx=tx)
        busy.answer(decision != "commit")
    everything.assert_all_happened()
    assert (undecided(q), len(bodies(q))) == ([], decision == "commit")


@decision
def test_who_decides_after_the_answer_is_too_late(q: mqlite.Queue[Any], broker: mqlite.Broker, eventually: Eventually, decision: str) -> None:
    prepared = q.prepare("x", check_after=0)
    with q.check_back(lambda message: decision != "commit"):
        eventually(lambda: not q.prepared())
        with pytest.raises(mqlite.AlreadyDecided):
            decide(prepared, decision)
    assert len(bodies(q)) == (decision != "commit")


def test_one_who_asks_has_the_message_for_himself(q: mqlite.Queue[Any], eventually: Eventually) -> None:
    busy, others = Busy(), Oracle(True)
    q.prepare("x", check_after=0, priority=1)
    with q.check_back(busy):
        assert busy.asked.wait(GUARD)
        for number in range(3):
            q.prepare(number, check_after=0)
        with q.check_back(others), q.check_back(others):
            eventually(lambda: counts(q)[0] == 3)
        assert (sorted(others.bodies), undecided(q)) == ([0, 1, 2], ["x"])
        busy.answer(False)
    assert (busy.bodies, sorted(taken(q)), undecided(q)) == (["x"], [0, 1, 2], [])


# ---------------------------------------------------------------------- the end of asking
def test_nobody_is_asked_after_the_close(q: mqlite.Queue[Any], eventually: Eventually) -> None:
    oracle, other = Oracle(True), Oracle(True)
    asking = q.check_back(oracle)
    asking.close()
    asking.close()
    q.prepare("x", check_after=0)
    ask(q, other, 1, eventually)
    assert (oracle.bodies, other.bodies) == ([], ["x"])


@pytest.mark.parametrize("closing", ["the check-back", "the queue", "the broker"])
def test_a_close_waits_for_the_answer_that_is_under_way(backend: str, path: str, in_thread: InThread, closing: str, eventually: Eventually) -> None:
    broker = mqlite.open(path if backend == "disk" else None)
    keeper = broker if closing != "the broker" or backend == "memory" else mqlite.open(path)
    q, busy = broker.queue("q"), Busy()
    q.prepare("x", check_after=0)
    q.prepare("never asked about", check_after=0)
    asking = q.check_back(busy)
    assert busy.asked.wait(GUARD)
    closed = in_thread({"the check-back": asking, "the queue": q, "the broker": broker}[closing].close)
    eventually(lambda: asking._consumer._interrupt.closed)
    assert not closed.done()
    busy.answer(True)
    closed.result(GUARD)
    assert busy.bodies == ["x"]
    if closing != "the broker" or backend == "disk":
        again = keeper.queue("q")
        assert (taken(again), undecided(again), keeper.check()) == (["x"], ["never asked about"], [])
    keeper.close()
    broker.close()


@pytest.mark.parametrize("answer", [True, False, None])
def test_who_is_asked_may_end_the_asking(q: mqlite.Queue[Any], eventually: Eventually, answer: Any) -> None:
    closing: list[Any] = []

    def end(message: mqlite.Message) -> Any:
        eventually(lambda: closing)
        closing[0].close()
        return answer

    q.prepare("x", check_after=0)
    q.prepare("y", check_after=0)
    closing.append(q.check_back(end))
    closing[0]._thread.join(GUARD)
    assert not closing[0]._thread.is_alive()
    assert (bodies(q), undecided(q)) == (["x"] if answer else [], ["x", "y"] if answer is None else ["y"])


def test_a_check_back_cannot_be_pickled_and_is_a_handle(q: mqlite.Queue[Any]) -> None:
    with q.check_back(lambda message: True) as asking, pytest.raises(TypeError, match="another process"):
        asking.__reduce__()


def test_a_shutdown_leaves_what_is_asked_about(q: mqlite.Queue[Any], eventually: Eventually) -> None:
    one, _ = q.prepare("x", check_after=0), q.prepare("y", check_after=0, priority=-1)
    q.shutdown()
    ask(q, Oracle(True, False), 2, eventually)
    assert [(p.body, p.checks) for p in q.prepared()] == [("x", 1)]
    one.rollback()


# ---------------------------------------------------------------------- topics
def test_who_gets_it_is_found_out_at_the_commit(topic: mqlite.Topic[Any], broker: mqlite.Broker) -> None:
    before, gone = topic.subscribe("before"), topic.subscribe("gone")
    prepared = topic.prepare("x", "a.b", headers={"h": 1}, priority=3)
    assert (bodies(before), topic.stats().published) == ([], 0)
    topic.unsubscribe("gone")
    after, other, bound = topic.subscribe("after", "a.*"), topic.subscribe("other", "b.*"), broker.queue("bound")
    topic.bind(bound, "a.b")
    published = prepared.commit()
    assert (published.receivers, topic.stats().published, undecided(topic)) == (3, 1, [])
    for sub in (before, after, bound):
        [message] = sub.receive(5, timeout=0)
        assert (message.id, message.body, message.routing_key, message.headers, message.priority) == (published, "x", "a.b", {"h": 1}, 3)
        message.ack()
    assert bodies(other) == []
    assert gone is not None


def test_what_nobody_gets_is_decided_as_by_a_publish(topic: mqlite.Topic[Any]) -> None:
    published = topic.prepare("x").commit()
    assert (published, published.receivers) == (0, 0)
    assert (undecided(topic), topic.stats().published, topic.stats().unroutable) == ([], 0, 1)


def test_what_nobody_gets_is_kept_as_by_a_publish(broker: mqlite.Broker) -> None:
    topic = broker.topic("log", retention="limits")
    published = topic.prepare("x").commit()
    assert (published > 0, published.receivers, topic.stats().retained) == (True, 0, 1)
    assert got(topic.subscribe("s", start="earliest")) == ["x"]


def test_a_mandatory_message_that_nobody_gets_stays_prepared(topic: mqlite.Topic[Any], broker: mqlite.Broker, eventually: Eventually) -> None:
    prepared = topic.prepare("x", "a", mandatory=True, check_after=0)
    for _ in range(2):
        with pytest.raises(mqlite.Unroutable):
            prepared.commit()
    with pytest.raises(mqlite.Unroutable), broker.transaction() as tx:
        prepared.commit(tx=tx)
    ask(topic, Oracle(True), 1, eventually, interval=0.001)
    assert undecided(topic) == ["x"]
    sub = topic.subscribe("s", "a")
    assert (prepared.commit().receivers, got(sub), undecided(topic)) == (1, ["x"], [])


def test_a_topic_decides_once(topic: mqlite.Topic[Any]) -> None:
    sub = topic.subscribe("s")
    for first in DECISIONS:
        for second in DECISIONS:
            prepared = topic.prepare(first)
            decide(prepared, first)
            with pytest.raises(mqlite.AlreadyDecided):
                decide(prepared, second)
    assert (got(sub), undecided(topic)) == (["commit", "commit"], [])


def test_all_subscriptions_get_it_or_none(topic: mqlite.Topic[Any]) -> None:
    one, full = topic.subscribe("one"), topic.subscribe("full", maxsize=1)
    topic.publish("old")
    prepared = topic.prepare("new")
    with pytest.raises(mqlite.Full):
        prepared.commit()
    assert (bodies(one), bodies(full), undecided(topic)) == (["old"], ["old"], ["new"])
    full.get()
    assert prepared.commit().receivers == 2
    assert (bodies(one), bodies(full), undecided(topic)) == (["old", "new"], ["new"], [])


def test_a_prepared_message_can_be_retained(topic: mqlite.Topic[Any]) -> None:
    topic.publish("old", "k", retain=True)
    prepared = topic.prepare("new", "k", retain=True)
    assert [message.body for message in topic.retained()] == ["old"]
    prepared.commit()
    assert [message.body for message in topic.retained()] == ["new"]
    assert got(topic.subscribe("s")) == ["new"]


PUBLISHED: dict[str, dict[str, Any]] = {name: options for name, options in OPTIONS.items() if "unique" not in options} | {"keys": {"dedup_id": "d", "replace_key": "r", "routing_key": "a.b"}}


@pytest.mark.parametrize("options", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_a_prepared_message_looks_as_if_it_were_published_at_the_commit(timed_broker: mqlite.Broker, clock: HandClock, options: dict[str, Any]) -> None:
    topic, plain = timed_broker.topic("events"), timed_broker.topic("plain")
    sub, other = topic.subscribe("s"), plain.subscribe("s")
    topic.prepare("x", **options)
    clock.pass_by(59)
    topic.prepared()[0].commit()
    plain.publish("x", **options)
    assert looks(sub) == looks(other) != []
    assert [m.enqueued_at for m in sub.browse()] == [m.enqueued_at for m in other.browse()]


def test_a_repeated_dedup_id_publishes_nothing_and_is_decided(topic: mqlite.Topic[Any]) -> None:
    sub = topic.subscribe("s")
    prepared = topic.prepare("again", dedup_id="d")
    first = topic.publish("first", dedup_id="d")
    again = prepared.commit()
    assert (again, again.receivers, got(sub), undecided(topic)) == (first, 0, ["first"], [])


def test_a_transaction_publishes_what_was_prepared(broker: mqlite.Broker, topic: mqlite.Topic[Any]) -> None:
    everything, sub = Everything(broker), topic.subscribe("s")
    prepared = topic.prepare("x")
    tx = broker.transaction()
    prepared.commit(tx=tx)
    tx.rollback()
    assert (undecided(topic), bodies(sub)) == (["x"], [])
    with broker.transaction() as tx:
        everything.stage(tx)
        receipt = prepared.commit(tx=tx)
        topic.publish("y", tx=tx)
    everything.assert_all_happened()
    [message, _] = sub.receive(2, timeout=0)
    assert (message.id, receipt.result().receivers, message.body) == (receipt.result(), 1, "x")


@answers
def test_somebody_is_asked_about_a_topic_s_messages(timed_broker: mqlite.Broker, clock: HandClock, eventually: Eventually, answer: Any) -> None:
    topic = timed_broker.topic("events")
    topic.prepare("x", "a.b")
    sub = topic.subscribe("s", "a.#")
    clock.pass_by(59.999)
    assert not_asked(topic, eventually)
    clock.pass_by(0.001)
    ask(topic, Oracle(answer), 1, eventually)
    assert (bodies(sub), undecided(topic)) == (["x"] if answer is True else [], ["x"] if not isinstance(answer, bool) else [])


def test_what_was_asked_about_too_often_is_among_the_dead_of_the_topic(timed_broker: mqlite.Broker, clock: HandClock, eventually: Eventually) -> None:
    topic = timed_broker.topic("events")
    sub = topic.subscribe("s")
    prepared = topic.prepare("x", "a.b", check_after=0, headers={"h": 1})
    assert bodies(topic.dead) == []
    for _ in range(2):
        ask(topic, Oracle(None), 1, eventually, interval=10, max_checks=2)
        clock.pass_by(10)
    for decision in DECISIONS:
        with pytest.raises(mqlite.AlreadyDecided):
            decide(prepared, decision)
    assert (undecided(topic), bodies(sub), bodies(sub.dead)) == ([], [], [])
    [letter] = topic.dead.receive(timeout=0)
    assert letter.death is not None
    assert (letter.body, letter.routing_key, letter.headers, letter.death.reason, letter.death.delivery_count) == ("x", "a.b", {"h": 1}, "undecided", 2)
    with timed_broker.transaction() as tx:
        topic.publish(letter.body, letter.routing_key, tx=tx)
        letter.ack(tx=tx)
    assert (bodies(sub), bodies(topic.dead)) == (["x"], [])


def test_the_dead_of_a_topic_have_a_name_that_can_be_read(topic: mqlite.Topic[Any], eventually: Eventually) -> None:
    topic.prepare("x", check_after=0)
    ask(topic, Oracle(None), 1, eventually, max_checks=1)
    [letter] = topic.dead.browse()
    for name in (topic.dead.name, letter.queue, letter.death.queue):  # type: ignore[union-attr]
        assert "events" in name
        assert "/" not in name


def test_the_dead_of_a_topic_are_closed_with_it_and_can_be_opened_again(topic: mqlite.Topic[Any], broker: mqlite.Broker) -> None:
    dead = topic.dead
    assert topic.dead is dead
    dead.close()
    assert topic.dead is not dead
    dead = topic.dead
    topic.close()
    assert dead.is_closed
    with pytest.raises(mqlite.Closed):
        _ = topic.dead


@decision
def test_who_decides_about_a_topic_s_message_while_somebody_is_asked_wins(topic: mqlite.Topic[Any], decision: str) -> None:
    sub, busy = topic.subscribe("s"), Busy()
    prepared = topic.prepare("x", check_after=0)
    with topic.check_back(busy):
        assert busy.asked.wait(GUARD)
        decide(prepared, decision)
        busy.answer(True)
    assert (got(sub), undecided(topic)) == (["x"] * (decision == "commit"), [])


def test_a_waiting_room_wakes_who_waits_to_be_asked_by_the_clock(timed_broker: mqlite.Broker, clock: HandClock, eventually: Eventually) -> None:
    q, oracle = timed_broker.queue("q"), Oracle(True)
    q.prepare("x", check_after=3600)
    with q.check_back(oracle):
        clock.pass_by(3600)
        eventually(lambda: (look_at_clock(q), not q.prepared())[1])
    assert (oracle.bodies, taken(q)) == (["x"], ["x"])
