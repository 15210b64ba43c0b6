"""Ctrl-C at any moment of an operation that passes by the tree: nothing is lost, held for ever, or in a wrong place."""

from __future__ import annotations

import faulthandler
import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from crash.front_points import LEVELS, always_open
from crash.kill_points import sweep_seed
from interrupting import interrupted_at, learn

import mqlite
from mqlite.log import front_records as records

GUARD = 60.0
HANGS = 30
#: More points than any of the calls has.
END = 4000
Hands = list[mqlite.Message]
Call = Callable[[mqlite.Queue[Any], Hands], Any]
#: What the bodies are: bytes go to who gets them with one step less.
KINDS = ("text", "bytes")


def _body(queue: mqlite.Queue[Any], text: str) -> Any:
    return text.encode() if "bytes" in queue.name else text


def _text(body: Any) -> str:
    return body.decode() if isinstance(body, bytes) else body


def _put_last(queue: mqlite.Queue[Any], hands: Hands) -> None:
    queue.put(_body(queue, "new"))


def _put_first(queue: mqlite.Queue[Any], hands: Hands) -> None:
    queue.put(_body(queue, "new"), priority=5)


def _get(queue: mqlite.Queue[Any], hands: Hands) -> None:
    queue.get(timeout=0)


def _take_first(queue: mqlite.Queue[Any]) -> None:
    queue.receive(timeout=0)[0].ack()


def _receive(queue: mqlite.Queue[Any], hands: Hands) -> None:
    hands.extend(queue.receive(timeout=0))


def _three(queue: mqlite.Queue[Any], hands: Hands) -> None:
    for number in range(3):
        queue.put(_body(queue, f"old {number}"))


def _three_seen(queue: mqlite.Queue[Any], hands: Hands) -> None:
    """The first claim of a queue goes the general way, since its deadline is new."""
    queue.put(_body(queue, "first"), priority=9)
    _take_first(queue)
    _three(queue, hands)


def _three_indexed(queue: mqlite.Queue[Any], hands: Hands) -> None:
    _three_seen(queue, hands)
    queue.put(_body(queue, "first"), priority=9)
    _take_first(queue)


def _one_held(queue: mqlite.Queue[Any], hands: Hands) -> None:
    _three_indexed(queue, hands)
    _receive(queue, hands)


def _three_in_the_tree(queue: mqlite.Queue[Any], hands: Hands) -> None:
    _three_seen(queue, hands)
    assert queue.qsize() == 3


def _two_in_rows(queue: mqlite.Queue[Any], hands: Hands) -> None:
    _three_in_the_tree(queue, hands)
    hands.extend(queue.receive(2, timeout=0))


def _full_and_in_the_tree(queue: mqlite.Queue[Any], hands: Hands) -> None:
    _three_in_the_tree(queue, hands)
    words: Any = queue._engine.log.front.words
    other = mqlite.Queue[Any](f"filler of {queue.name}", queue._channel.store.path)
    while words[records.HEAD] + 400 < records.END:
        other.put("x")
    other.close()


def _almost_full(queue: mqlite.Queue[Any], hands: Hands) -> None:
    _three_indexed(queue, hands)
    words: Any = queue._engine.log.front.words
    while words[records.HEAD] + 200 < records.END:
        queue.put(_body(queue, "x"), priority=8)
        _take_first(queue)


#: name -> (what is there before, the call, whether the area is small)
CASES: dict[str, tuple[Call, Call, bool]] = {
    "put": (_three_indexed, _put_last, False),
    "put before all": (_three_indexed, _put_first, False),
    "put into a full front": (_almost_full, _put_last, True),
    "receive": (_three_indexed, _receive, False),
    "receive for the first time": (_three_seen, _receive, False),
    "receive what is in the tree": (_three_in_the_tree, _receive, False),
    "receive, full, what is in the tree": (_full_and_in_the_tree, _receive, True),
    "ack": (_one_held, lambda queue, hands: hands[0].ack(), False),
    "ack of what rows hold": (_two_in_rows, lambda queue, hands: hands[0].ack(), False),
    "ack_many of what rows hold": (_two_in_rows, lambda queue, hands: queue.ack_many(hands), False),
    "get": (_three_indexed, _get, False),
    "get what is in the tree": (_three_in_the_tree, _get, False),
    "fold": (_one_held, lambda queue, hands: queue.qsize(), False),
}


def _interrupted(talk: Any, path: str, names: list[str], call: str, point: int, then: str) -> None:
    """The call on the first of these queues, interrupted; then everything must work still."""
    faulthandler.dump_traceback_later(HANGS, exit=True)
    before, carry_out, _ = CASES[call]
    broker = mqlite.open(path)
    queue, other = map(broker.queue, names)
    hands: Hands = []
    _three_seen(other, [])
    before(queue, hands)
    returned = False
    with interrupted_at(point) as struck:
        carry_out(queue, hands)
        returned = True
    talk.say([struck, returned])
    if then == "fork":
        if os.fork() == 0:
            os._exit(0)
        os.wait()
    if then == "others":  # nothing is left locked
        talk.say("stands still")
        assert talk.hear() == "others have gone on"
    wrong = []
    for number in range(3):  # it passes by still, in the right order, in both queues
        for each in (queue, other):
            each.put(_body(each, f"more {number}"), priority=number + 1)
    messages = other.receive(timeout=0)
    if _text(messages[0].body) != "more 2":
        wrong.append(f"{messages[0].body!r} came first")
    messages[0].ack()
    left = []
    while True:
        try:
            [message] = queue.receive(timeout=0)
        except mqlite.Empty:
            break
        left.append([_text(message.body), message.delivery_count])
        message.ack()
    holds = [_text(message.body) for message in hands]
    for message in hands:
        try:
            message.release()
        except mqlite.MqliteError:
            holds.remove(_text(message.body))
    stats = queue.stats()
    if stats.claimed:
        wrong.append(f"somebody holds {stats.claimed} messages")
    if stats.ready != len(holds):
        wrong.append(f"{stats.ready} are left instead of {holds}")
    wrong += broker.check()
    talk.say([left, holds, wrong])
    broker.close()


def _judge(call: str, returned: bool, left: list[Any], holds: list[str]) -> None:
    bodies = [body for body, _ in left]
    there = set(bodies) | set(holds)
    assert len(there) == len(bodies) + len(holds), "something is there twice"
    assert all(count == 0 for _, count in left), "nobody has died"
    more, old = [f"more {number}" for number in (2, 1, 0)], [f"old {number}" for number in range(3)]
    settled = old[:2] if call.startswith("ack_many") else old[:1]
    assert {*more, *old} - {*settled} <= there, "something is lost"
    assert there <= {*more, *old, "new"}, "something is invented"
    line = ["new", *more] if call == "put before all" else more
    line = [*line, *old, "new"] if call != "put before all" else [*line, *old]
    assert bodies == [body for body in line if body in bodies], "not in order"
    if call.startswith("put"):
        assert old[0] in there
        assert "new" in there or not returned
    elif call.startswith("receive"):
        assert old[0] in there
        assert holds == (old[:1] if returned else [])
    elif call.startswith(("get", "ack")):
        assert there.isdisjoint(settled) or (there.issuperset(settled) and not returned)
    else:
        assert holds == old[:1]


def _sweep(call: str, kind: str, level: str, points: Any, path: str, children: Any) -> int:
    """Interrupt the call at each of the points; how many interrupts struck."""
    small = CASES[call][2]
    with always_open(small):
        mqlite.Queue[Any]("kept", path, durability=level).close()  # loads all of the package
        learn()
        for struck_times, point in enumerate(points):
            names = [f"{kind} {point}", f"other {kind} {point}"]
            then = ("pass by", "others", "fork")[point % 3]
            child = children.fork(_interrupted, path, names, call, point, then)
            struck: Any = None
            try:
                struck, returned = child.hear()
                if then == "others":
                    assert child.hear() == "stands still"
                    with mqlite.open(path) as broker:
                        queue = broker.queue("kept")
                        queue.put("kept", timeout=0)
                        assert queue.get(timeout=0) == "kept"
                    child.say("others have gone on")
                left, holds, wrong = child.hear()
            except (EOFError, BrokenPipeError):
                raise AssertionError(f"the process hangs after an interrupt of {call!r} at point {point} ({struck}), {then}") from None
            where = f"{call!r} of {kind}, interrupted at point {point} ({struck}), {then}: {left}, {holds}"
            child.end()
            assert wrong == [], where
            try:
                _judge(call, returned, left, holds)
            except AssertionError as error:
                raise AssertionError(f"{where}: {error}") from error
            children.kill_all()
            if not struck:
                return struck_times
    raise AssertionError(f"no call has {END} points")


def _some_points(seed: int) -> list[int]:
    """Closer together at the beginning: some calls are short."""
    chance = random.Random(seed)
    points = [chance.randint(1, 6)]
    while points[-1] < 300:
        points.append(points[-1] + chance.randint(4, 8 + points[-1] // 3))
    return [*points, END]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("call", CASES)
def test_after_an_interrupt_at_some_points_messages_pass_by_still(call: str, level: str, path: str, children: Any) -> None:
    seed = sweep_seed()
    assert _sweep(call, KINDS[seed % 2], level, _some_points(seed), path, children) > 2


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", CASES)
def test_after_an_interrupt_at_every_point_messages_pass_by_still(call: str, kind: str, level: str, path: str, children: Any) -> None:
    stride = int(os.environ.get("MQLITE_SWEEP_STRIDE", "9"))  # 1: every point; else every n-th, beginning anywhere
    assert _sweep(call, kind, level, range(1 + sweep_seed() % stride, END + stride, stride), path, children) > 1
