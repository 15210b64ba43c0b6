"""Ctrl-C at any moment in what topics do: nothing is lost, torn or doubled, and everything goes on.

The calls are the plays of crash/topic_points.py, interrupted in the main thread of a process that
lives on, at one point after the other (see interrupting.py).
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import random
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from crash.topic_points import PLAYS, STEP, Play, Stage, Verify, forgotten, nobody_left
from interrupting import interrupted_at, learn

import mqlite
from mqlite.engine import replay, subscriptions

#: More points than any of the calls has.
END = 20000
#: Seconds after which a process that was interrupted is taken for hanging.
HANGS = 20
BACKENDS = ("memory", "disk")
#: In memory nothing is undone, so what was being changed may be half done; but all of it goes on. Not so where the interrupt strikes
#: at the very start of the __exit__ of the log or the claims, or at the end of their __enter__: then the lock stays held.
STRICT = "MQLITE_STRICT_MEMORY" in os.environ
#: Of other processes, which a store in memory has not.
ON_DISK_ONLY = ("remove what a dead one had", "publish the will of a dead one")


# ---------------------------------------------------------------------- where a process that lives on is another matter
def _after_closing_again(verify: Verify) -> Verify:
    def judge(stage: Stage, returned: bool) -> None:
        stage.kept[-1].close()
        verify(stage, True)

    return judge


def _nothing_comes(stage: Stage, returned: bool) -> None:
    assert stage.left("a") == []


def _can_be_removed(stage: Stage, returned: bool) -> None:
    """An interrupted call may leave a subscription without a handle: until the process ends, or somebody removes it."""
    assert set(stage.topic.subscriptions()) <= {"b", "mine"}
    stage.topic.unsubscribe("mine")
    nobody_left(stage, returned)


def _is_used_or_not(stage: Stage, returned: bool) -> None:
    assert stage.left("a") in ([0, 1], [])
    stage.topic.unsubscribe("a")


OTHERWISE: dict[str, Verify] = {
    "subscribe for a life": _can_be_removed,
    "close what lives as long": _after_closing_again(nobody_left),
    "stop using": _after_closing_again(forgotten),
    "use what may be forgotten": _is_used_or_not,
    "leave a will": _nothing_comes,
    "withdraw a will": _after_closing_again(_nothing_comes),
}
BY_NAME = {play.name: play for play in PLAYS}
CASES = [(name, backend) for name in BY_NAME for backend in BACKENDS if backend == "disk" or name not in ON_DISK_ONLY]


# ---------------------------------------------------------------------- the process
def _interrupted(talk: Any, path: str | None, name: str, play: Play, point: int) -> None:
    """The call, interrupted; then everything must still work."""
    faulthandler.dump_traceback_later(HANGS, exit=True)
    replay.FED_AT_ONCE = subscriptions.DROPPED_AT_ONCE = STEP
    broker = mqlite.open(path)
    stage = Stage(broker.topic(name, max_deliveries=None, **play.topic), broker.queue(name, max_deliveries=None))
    play.before(stage)
    for handle in stage.kept:
        handle.close()
    stage.kept = []
    play.enter(stage)
    returned = False
    with interrupted_at(point) as struck:
        play.act(stage)
        returned = True
    talk.say(struck)
    errors: list[str] = []
    if path is None and not STRICT and struck and struck[0].startswith("memory.py") and struck[0].endswith(("__enter__", "__exit__")):
        talk.say(errors)  # the lock stays held: see STRICT
        return

    def judge() -> None:
        gc.collect()  # tracing leaves cycles, which hold what nobody has any more
        for message in stage.held:
            with contextlib.suppress(mqlite.LeaseLost, mqlite.NotClaimed, mqlite.NoSuchSubscription):
                message.release()
        if not STRICT and path is None:
            for subscription in stage.topic.subscriptions():
                with contextlib.suppress(mqlite.Empty):
                    stage.topic.unsubscribe("nobody")
                    taker = stage.sub(subscription)
                    taker.ack_many(taker.receive(100, timeout=0))
            return
        errors.extend(broker.check())
        OTHERWISE.get(name.partition(":")[0], play.verify)(stage, returned)
        errors.extend(broker.check())

    _in_thread(judge, errors).join()
    sleeper = stage.topic.subscribe("sleeper", "wake")
    thread = _in_thread(lambda: _expect(sleeper, "wake up"), errors)
    stage.topic.publish("wake up", "wake")
    thread.join()
    stage.topic.unsubscribe("sleeper")
    if os.fork() == 0:  # a fork waits until nobody is inside
        os._exit(0)
    os.wait()
    if STRICT or path is not None:
        errors += broker.check()
    broker.close()
    talk.say(errors)


def _expect(taker: Any, body: Any) -> None:
    assert taker.get(timeout=HANGS / 2) == body


def _in_thread(function: Callable[[], None], errors: list[str]) -> threading.Thread:
    def run() -> None:
        try:
            function()
        except BaseException:
            errors.append(traceback.format_exc())

    thread = threading.Thread(target=run)
    thread.start()
    return thread


# ---------------------------------------------------------------------- the sweeps
def _sweep(name: str, backend: str, points: Any, path: str, children: Any) -> int:
    """Interrupt the call at each of the points; how many interrupts struck."""
    with mqlite.open() as store:  # all modules are loaded
        store.topic("t").subscribe("s").close()
    learn()
    for struck_times, point in enumerate(points):
        child = children.fork(_interrupted, path if backend == "disk" else None, f"{name}:{point}", BY_NAME[name], point)
        struck: Any = None
        try:
            struck = child.hear()
            errors = child.hear()
        except EOFError:
            raise AssertionError(f"the process hangs after an interrupt of {name!r} at point {point} ({struck})") from None
        except AssertionError as error:
            raise AssertionError(f"{name!r}, interrupted at point {point} ({struck}): {error}") from None
        assert errors == [], f"{name!r}, interrupted at point {point} ({struck}): {''.join(errors)}"
        child.end()
        children.kill_all()
        if not struck:
            return struck_times
    raise AssertionError(f"no call has {END} points")


def _some_points(seed: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.randint(1, 12), chance.randint(12, 200), chance.randint(200, 700), END]


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_after_an_interrupt_at_some_points_a_topic_lacks_nothing(name: str, backend: str, path: str, children: Any) -> None:
    seed = int(os.environ.get("MQLITE_SWEEP_SEED", "1"))  # another seed, other points
    print(f"seed {seed}")
    assert _sweep(name, backend, _some_points(seed), path, children) > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "backend"), CASES)
def test_after_an_interrupt_at_every_point_a_topic_lacks_nothing(name: str, backend: str, path: str, children: Any) -> None:
    stride = int(os.environ.get("MQLITE_TOPIC_STRIDE", "180"))  # 1: every point; else every n-th; another seed begins elsewhere
    first = 1 + int(os.environ.get("MQLITE_SWEEP_SEED", "0")) % stride
    print(f"from {first} in steps of {stride}")
    assert _sweep(name, backend, range(first, END + stride, stride), path, children) > 0
