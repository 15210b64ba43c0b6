"""Who gets what: patterns, conditions and headers as one message meets many subscriptions; and functions of the user's."""

# ruff: noqa: F811
from __future__ import annotations

import random
from typing import Any

import pytest
from bounded import BOUNDED
from crash.children import Children
from fixture_types import InThread, UntilWaiting
from hand_clock import HandClock
from hypothesis import given, note, settings
from hypothesis import strategies as st
from topic_things import GUARD, Shop, got, held, messages, shop, timed_shop, topic  # noqa: F401

import mqlite
from mqlite.filters import Filter
from mqlite.patterns import matches

Topic = mqlite.Topic[Any]


# ---------------------------------------------------------------------- patterns
@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("#", ["", "a", "a.b", "b.a", "a.b.c", "a..b"]),
        ("", [""]),
        ("a", ["a"]),
        ("*", ["a"]),
        ("a.*", ["a.b"]),
        ("*.*", ["a.b", "b.a"]),
        ("a.#", ["a", "a.b", "a.b.c", "a..b"]),
        ("#.b", ["a.b", "a..b"]),
        ("a.*.b", ["a..b"]),
        ("#.b.#", ["a.b", "b.a", "a.b.c", "a..b"]),
        ("*.#", ["a", "a.b", "b.a", "a.b.c", "a..b"]),
        ("A", []),
    ],
)
def test_a_pattern_takes_what_it_matches(topic: Topic, pattern: str, wanted: list[str]) -> None:
    sub = topic.subscribe("s", pattern)
    for key in ("", "a", "a.b", "b.a", "a.b.c", "a..b"):
        topic.publish(key, key)
    assert got(sub) == wanted


def test_stars_and_hashes_in_a_routing_key_are_words_like_others(topic: Topic) -> None:
    star, hash_, a = topic.subscribe("star", "*"), topic.subscribe("hash", "#"), topic.subscribe("a", "a")
    topic.publish(1, "*")
    topic.publish(2, "#")
    assert (got(star), got(hash_), got(a)) == ([1, 2], [1, 2], [])


# ---------------------------------------------------------------------- conditions
@pytest.mark.parametrize(
    ("wanted", "accepted"),
    [
        ({"type": "order"}, [0, 1]),
        ({"type": ("!=", "order")}, [2]),
        ({"type": ("exists", False)}, [3]),
        ({"type": ("prefix", "ord")}, [0, 1]),
        ({"priority": (">", 5)}, [0]),
        ({"priority": [(">=", 1), ("<=", 7)]}, [0, 1]),
        ({"headers.region": ("in", ["eu", "us"])}, [0, 1]),
        ({"region": "eu"}, [0]),
        ({"region": ("not in", ["eu"])}, [1]),
        ({"region": ("exists", False)}, [2, 3]),
        ({"group": "g"}, [1]),
        ({"routing_key": ("prefix", "a.")}, [0, 2]),
        ({"reply_to": "r"}, [2]),
        ({"correlation_id": ("exists", True)}, [3]),
        ({"headers.n": ("<", 3)}, [1]),
        ({"headers.flag": True}, [0]),
        ({"headers.flag": 1}, [1]),
        ({"type": "order", "region": "us"}, [1]),
        ({"headers.list": ("==", [1, 2])}, [2]),
    ],
    ids=str,
)
def test_conditions_are_asked_of_each_message(topic: Topic, wanted: dict[str, Any], accepted: list[int]) -> None:
    sub = topic.subscribe("s", filter=wanted)
    topic.publish(0, "a.b", type="order", priority=7, headers={"region": "eu", "flag": True, "n": 3})
    topic.publish(1, "b", type="order", priority=1, group="g", headers={"region": "us", "flag": 1, "n": 2})
    topic.publish(2, "a.", type="bill", reply_to="r", headers={"list": [1, 2]})
    topic.publish(3, correlation_id="c")
    assert sorted(got(sub)) == accepted


@pytest.mark.parametrize(("match", "accepted"), [("all", [0]), ("any", [0, 1, 3])])
def test_headers_are_asked_all_or_any(topic: Topic, match: str, accepted: list[int]) -> None:
    sub = topic.subscribe("s", headers={"a": 1, "b": None}, match=match)
    for n, headers in enumerate([{"a": 1, "b": "x"}, {"a": 1}, {"a": 2}, {"b": None}, {}]):
        topic.publish(n, headers=headers)
    assert got(sub) == accepted


def test_a_filter_given_to_subscribe_does_not_change_with_its_dict(topic: Topic) -> None:
    wanted: dict[str, Any] = {"type": ("in", ["a"])}
    sub = topic.subscribe("s", filter=wanted)
    wanted["type"][1].append("b")
    wanted["group"] = "g"
    topic.publish(1, type="a")
    topic.publish(2, type="b")
    assert got(sub) == [1]


# ---------------------------------------------------------------------- many, at random
words = st.sampled_from(["a", "b", "c"])
keys = st.lists(words, max_size=3).map(".".join)
patterns = st.lists(st.one_of(words, st.sampled_from(["*", "#"])), max_size=4).map(".".join)
values = st.one_of(st.integers(-1, 2), st.sampled_from(["x", "xy", "y"]), st.booleans())
conditions = st.one_of(
    values,
    st.tuples(st.sampled_from(["==", "!=", "<", ">="]), st.one_of(st.integers(-1, 2), st.sampled_from(["x", "y"]))),
    st.tuples(st.sampled_from(["in", "not in"]), st.lists(values, max_size=2)),
    st.tuples(st.just("exists"), st.booleans()),
    st.tuples(st.just("prefix"), st.just("x")),
)
filters = st.none() | st.dictionaries(st.sampled_from(["type", "priority", "headers.h", "i", "group"]), conditions, min_size=1, max_size=2)
wanted_headers = st.none() | st.dictionaries(st.sampled_from(["h", "i"]), st.none() | values, min_size=1, max_size=2)
wishes = st.tuples(patterns, filters, wanted_headers, st.sampled_from(["all", "any"]))
sent = st.fixed_dictionaries(
    {"routing_key": keys, "priority": st.integers(-1, 2)},
    optional={"type": st.sampled_from(["x", "xy", "y"]), "group": st.sampled_from(["x", "y"]), "headers": st.dictionaries(st.sampled_from(["h", "i"]), st.none() | values, max_size=2)},
)


def accepts(wish: tuple[Any, ...], said: dict[str, Any]) -> bool:
    pattern, conditions, headers, match = wish
    asked = Filter.of(conditions, headers, match if headers is not None else "all")
    extras = {name: value for name, value in said.items() if name != "priority"}
    return matches(pattern, said["routing_key"]) and (asked is None or asked.accepts(said["priority"], extras))


@pytest.mark.parametrize("backend", ["memory", "disk"])
@given(data=st.data())
@settings(parent=BOUNDED, max_examples=25)
def test_each_gets_what_its_pattern_and_filter_say_while_others_come_and_go(tmp_path_factory: pytest.TempPathFactory, backend: str, data: st.DataObject) -> None:
    path = str(tmp_path_factory.mktemp("random") / "s") if backend == "disk" else None
    with mqlite.Topic[Any]("events", path) as topic:
        subs: dict[str, tuple[mqlite.Subscription, tuple[Any, ...]]] = {}
        expected: dict[str, list[int]] = {}
        for step in range(data.draw(st.integers(3, 25), "steps")):
            what = data.draw(st.sampled_from(["subscribe", "publish", "publish", "publish", "unsubscribe"]), "what")
            if what == "subscribe" or not subs:
                wish = data.draw(wishes, "wish")
                name = f"s{step}"
                pattern, conditions, headers, match = wish
                sub = topic.subscribe(name, pattern, conditions, headers=headers, match=match if headers is not None else "all")
                subs[name], expected[name] = (sub, wish), []
            elif what == "unsubscribe":
                name = data.draw(st.sampled_from(sorted(subs)), "name")
                topic.unsubscribe(name)
                del subs[name], expected[name]
            else:
                said = data.draw(sent, "said")
                receivers = [name for name, (_, wish) in subs.items() if accepts(wish, said)]
                assert topic.publish(step, **said).receivers == len(receivers)
                for name in receivers:
                    expected[name].append(step)
        note(f"{expected}")
        assert {name: sorted(got(sub)) for name, (sub, _) in subs.items()} == expected
        assert topic.check() == []


def test_a_hundred_subscriptions_at_random(shop: Shop) -> None:
    dice = random.Random(7)
    topic = shop.topic()
    choices = ["a", "b", "c", "*", "#"]
    subs = {}
    for number in range(100):
        pattern = ".".join(dice.choice(choices) for _ in range(dice.randint(0, 4)))
        subs[pattern, number] = topic.subscribe(f"s{number}", pattern)
    expected: dict[Any, list[str]] = {each: [] for each in subs}
    for _ in range(40):
        key = ".".join(dice.choice("abc") for _ in range(dice.randint(0, 4)))
        assert topic.publish(key, key).receivers == sum(matches(pattern, key) for pattern, _ in subs)
        for each in subs:
            if matches(each[0], key):
                expected[each].append(key)
    assert {each: got(sub) for each, sub in subs.items()} == expected


def come_and_go(talk: Any, path: str) -> None:
    """Subscribes and unsubscribes as it is told, with patterns."""
    topic: Topic = mqlite.Topic("events", path)
    while (word := talk.hear()) is not None:
        what, name, pattern = word
        if what == "subscribe":
            topic.subscribe(name, pattern).close()
        else:
            topic.unsubscribe(name)
        talk.say(topic.subscriptions())
    topic.close()


def test_members_that_come_and_go_in_another_process_are_known_at_once(path: str, children: Children) -> None:
    with mqlite.Topic[Any]("events", path) as topic:
        other = children.fork(come_and_go, path)
        expected: dict[str, list[int]] = {}
        patterns = {"s0": "#", "s1": "a.#", "s2": "b"}
        for n in range(24):
            name = f"s{n % 3}"
            if name in expected:
                del expected[name]
                other.say(["unsubscribe", name, ""])
            else:
                expected[name] = []
                other.say(["subscribe", name, patterns[name]])
            assert other.hear() == list(expected)
            for key in ("a", "b"):
                wanting = [each for each in expected if matches(patterns[each], key)]
                assert topic.publish(n, key).receivers == len(wanting)
                for each in wanting:
                    expected[each].append(n)
        other.say(None)
        other.end()
        assert {name: got(topic.subscription(name)) for name in expected} == expected
        assert topic.check() == []


# ---------------------------------------------------------------------- functions
def is_even(message: mqlite.Message) -> bool:
    return message.body % 2 == 0


def never(message: mqlite.Message) -> bool:
    return False


def broken(message: mqlite.Message) -> bool:
    raise ZeroDivisionError(f"no answer for {message.body}")


def test_what_a_function_refuses_is_settled_and_not_handed_out(topic: Topic) -> None:
    sub, other = topic.subscribe("s", filter=is_even), topic.subscribe("other")
    topic.publish_many(range(6))
    assert [m.body for m in sub.receive(6)] == [0, 2, 4]
    assert (sub.stats().claimed, sub.stats().ready, sub.stats().dead) == (3, 0, 0)
    sub.seek("latest")
    assert got(other) == list(range(6))
    assert topic.stats().stored == 0


@pytest.mark.parametrize(
    "take",
    [
        lambda sub: sub.get(timeout=0),
        lambda sub: sub.receive(timeout=0)[0].body,
        lambda sub: sub.receive(3, timeout=0)[0].body,
        lambda sub: sub.consumer().receive(timeout=0).body,
        lambda sub: sub.consumer(prefetch=4).receive(timeout=0).body,
        lambda sub: sub.consumer(auto_ack=True).receive(timeout=0).body,
        lambda sub: sub.consumer(prefetch=4, auto_ack=True).receive(timeout=0).body,
        lambda sub: sub.peek()[0].body,
        lambda sub: next(sub.browse()).body,
    ],
    ids=["get", "receive", "receive 3", "consumer", "prefetch", "auto_ack", "auto_ack prefetch", "peek", "browse"],
)
def test_however_a_message_is_taken_the_function_was_asked(topic: Topic, take: Any) -> None:
    sub = topic.subscribe("s", filter=is_even)
    topic.publish_many([1, 3, 4, 5])
    assert take(sub) == 4


def test_a_function_that_refuses_everything_leaves_nothing(topic: Topic) -> None:
    sub = topic.subscribe("s", filter=never)
    topic.publish_many(range(50))
    assert held(sub) == []
    with pytest.raises(mqlite.Empty):
        sub.get(timeout=0)
    with pytest.raises(mqlite.Empty), sub.consumer(prefetch=5) as consumer:
        consumer.receive(timeout=0)
    assert (sub.stats().lag, sub.stats().dead, topic.stats().stored, sub.unfinished_tasks) == (0, 0, 0, 0)


def test_peek_settles_nothing(topic: Topic) -> None:
    sub = topic.subscribe("s", filter=is_even)
    topic.publish_many(range(4))
    assert [m.body for m in sub.peek(4)] == [0, 2]
    assert [m.body for m in sub.browse()] == [0, 2]
    assert sub.qsize() == 4


def test_a_function_sees_the_whole_message(timed_shop: Shop) -> None:
    topic = timed_shop.topic()
    seen: list[Any] = []

    def look(message: mqlite.Message) -> bool:
        seen.append((message.id, message.body, message.routing_key, message.headers, message.priority, message.type, message.queue))
        with pytest.raises(mqlite.NotClaimed):
            message.ack()
        return True

    sub = topic.subscribe("s", "a.*", filter=look)
    number = topic.publish({"n": 1}, "a.b", headers={"h": 1}, priority=2, type="t")
    assert got(sub) == [{"n": 1}]
    assert seen == [(number, {"n": 1}, "a.b", {"h": 1}, 2, "t", "events/s")]


def test_a_function_may_answer_anything(topic: Topic) -> None:
    answers = iter([1, "", None, [0], 0, object()])
    sub = topic.subscribe("s", filter=lambda message: next(answers))
    topic.publish_many(range(6))
    assert got(sub) == [0, 3, 5]


def test_a_function_that_raises_is_a_failure_of_the_message_and_kills_it(topic: Topic) -> None:
    sub = topic.subscribe("s", filter=broken, max_deliveries=3)
    number = topic.publish("x")
    assert held(sub) == []
    [letter] = sub.dead.peek()
    assert letter.death is not None
    assert (letter.id, letter.body, letter.death.reason, letter.death.error, letter.death.delivery_count) == (number, "x", "max_deliveries", "ZeroDivisionError: no answer for x", 3)
    assert "broken" in (letter.death.traceback or "")
    assert (sub.stats().lag, topic.stats().stored) == (0, 0)


@pytest.mark.parametrize("take", [lambda sub: sub.get(timeout=0), lambda sub: sub.consumer(prefetch=3).receive(timeout=0), lambda sub: sub.consumer(auto_ack=True).receive(timeout=0)])
def test_so_it_is_however_it_is_taken(topic: Topic, take: Any) -> None:
    sub = topic.subscribe("s", filter=broken)
    topic.publish_many([1, 2])
    with pytest.raises(mqlite.Empty):
        take(sub)
    assert [letter.body for letter in sub.dead.peek(5)] == [1, 2]


def test_a_function_that_raises_makes_the_message_wait_for_its_backoff(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    fail = [True, False]
    sub = topic.subscribe("s", filter=lambda message: not fail.pop(0) or 1 // 0, backoff=[10])
    topic.publish(1)
    assert (held(sub), sub.stats().delayed) == ([], 1)
    clock.pass_by(10)
    [m] = held(sub)
    assert (m.body, m.delivery_count) == (1, 1)
    m.ack()


def test_a_failure_of_one_message_does_not_stop_the_others(topic: Topic) -> None:
    sub = topic.subscribe("s", filter=is_even)
    topic.publish("not a number")
    topic.publish_many([1, 2])
    assert got(sub) == [2]
    assert [letter.body for letter in sub.dead.peek()] == ["not a number"]


def test_an_interrupt_in_a_function_gives_the_message_back(topic: Topic) -> None:
    strikes = [True]

    def interrupted(message: mqlite.Message) -> bool:
        if strikes and strikes.pop():
            raise KeyboardInterrupt
        return True

    sub = topic.subscribe("s", filter=interrupted)
    topic.publish_many([1, 2])
    with pytest.raises(KeyboardInterrupt):
        sub.receive(2)
    found = held(sub)
    assert [(m.body, m.delivery_count) for m in found] == [(1, 0), (2, 0)]


def test_pattern_and_function_go_together(topic: Topic) -> None:
    sub = topic.subscribe("s", "a", is_even, headers={"h": 1})
    for n in range(8):
        topic.publish(n, "a" if n < 6 else "b", headers={"h": 1} if n > 1 else {})
    assert got(sub) == [2, 4]


def test_who_waits_is_woken_only_by_what_the_function_wants(topic: Topic, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    sub = topic.subscribe("s", filter=is_even)
    waiting = in_thread(sub.get, timeout=GUARD)
    until_waiting(sub)
    topic.publish_many([1, 3])
    topic.publish(4)
    assert waiting.result(GUARD) == 4


def test_a_function_must_be_passed_anew(topic: Topic) -> None:
    sub = topic.subscribe("s", filter=is_even)
    for call in (lambda: topic.subscribe("s"), lambda: topic.subscription("s"), lambda: topic.subscribe("s", filter=never), lambda: topic.subscription("s", never), lambda: topic.subscribe("s", filter={"type": "t"})):
        with pytest.raises(mqlite.SettingsMismatch, match="filter"):
            call()
    again, third = topic.subscribe("s", filter=is_even), topic.subscription("s", is_even)
    assert (sub.filter, again.filter, third.filter) == (is_even, is_even, is_even)
    topic.publish_many(range(4))
    assert (got(again, 1), got(third)) == ([0], [2])


def test_a_function_must_be_passed_anew_after_a_reopen(shop: Shop) -> None:
    topic = shop.topic()
    sub = topic.subscribe("s", filter=is_even)
    topic.publish_many(range(3))
    sub.close()
    topic = shop.again()
    with pytest.raises(mqlite.SettingsMismatch, match="is_even"):
        topic.subscription("s")
    assert got(topic.subscription("s", is_even)) == [0, 2]


def test_a_function_is_asked_in_a_replay_and_of_retained_messages(shop: Shop) -> None:
    topic = shop.topic(retention="limits")
    topic.publish_many(range(5), "k")
    topic.publish(5, "odd", retain=True)
    topic.publish(6, "even", retain=True)
    assert got(topic.subscribe("s", filter=is_even, start="earliest")) == [0, 2, 4, 6]
    assert got(topic.subscribe("r", filter=is_even)) == [6]


def test_what_the_function_refuses_frees_its_group(topic: Topic) -> None:
    sub = topic.subscribe("s", filter=is_even)
    topic.publish_many([1, 2, 3, 4], group="g")
    [two] = held(sub)
    assert two.body == 2
    two.ack()
    assert got(sub) == [4]


def test_dead_letters_and_redrive_ask_the_function_again(topic: Topic) -> None:
    sub = topic.subscribe("s", filter=is_even)
    topic.publish(2)
    held(sub)[0].reject()
    assert sub.dead.get(timeout=0) == 2
    topic.publish("x")
    assert held(sub) == []
    assert sub.redrive() == 1
    assert held(sub) == []
    assert sub.stats().dead == 1


def test_to_join_a_subscription_with_a_function(topic: Topic, in_thread: InThread) -> None:
    sub = topic.subscribe("s", filter=is_even)
    topic.publish_many([1, 2, 3])
    joined = in_thread(sub.join)
    assert got(sub) == [2]
    joined.result(GUARD)


def test_an_object_that_can_be_called_is_a_function_too(topic: Topic) -> None:
    sub = topic.subscribe("s", filter=Above(2))
    topic.publish_many(range(5))
    assert got(sub) == [3, 4]
    assert len(messages(topic.subscribe("s", filter=Above(9)))) == 0


class Above:
    def __init__(self, limit: int) -> None:
        self.limit = limit

    def __call__(self, message: mqlite.Message) -> bool:
        return bool(message.body > self.limit)
