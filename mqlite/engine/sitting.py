"""Who waits for a message that passes by: on the bench (claims/bench.py), without a commit. [32]

He sits down under L, the lock under which messages come, and who puts one calls him under it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..claims import Waiting
from ..claims.shared import SharedClaims
from ..errors import Closed
from ..log.front import Front
from .looking import Looking

if TYPE_CHECKING:
    from .machine import Engine


class Sitting(Looking):
    """The bench of one engine: a BenchKeeper (waiting.py). Free for any thread, where it does not say "under L"."""

    def __init__(self, engine: Engine, front: Front, claims: SharedClaims, words: memoryview) -> None:
        super().__init__(engine, front, claims, words)
        self._aftermath = engine.aftermath
        self._waiters = engine.waiters
        assert claims.bench is not None
        self._bench = claims.bench

    def sit(self, queue: int, waiting: Waiting) -> int | None:
        """See BenchKeeper. He sits before the look, and the claims are looked at again when the gate was given back:
        who changes those looks at the bench afterwards. [5]

        Who sits wakes for the next deadline only. So nobody does who is to look at other times: for dead letters, which
        come when something expires in another queue, and for what the dead have left to be done.
        """
        state, front, bench = self._engine.catalog.known(queue), self._front, self._bench
        if state is None or state.is_dead or self._is_shut() or self._engine.takeback.has_to_settle:
            return None
        wake_ns = None
        try:
            if front.lock.locked():
                front.let_others_finish()
            with front.lock, front.guard:
                if not front.enter():
                    return None
                place = bench.place_of(queue, waiting.sleeper, waiting.owner) or bench.sit(queue, waiting)
                found = self._first(state) if place else None
                if found is False:
                    lane = front.lanes[queue]
                    commit, wake_ns = lane.commit, lane.deadline_ns
                    bench.note_wake(place, wake_ns)
                elif place:
                    bench.leave(place)
        except BaseException:
            self._let_go()
            raise
        if wake_ns is None:
            return -1 if found else None
        return wake_ns if commit == self._claims.last_commit() else -1

    def get_up(self, queue: int, sleeper: int, owner: int) -> None:
        """See BenchKeeper. Free for who was called."""
        if self._bench.is_empty() or not self._bench.place_of(queue, sleeper, owner):
            return
        front = self._front
        front.let_others_finish()
        try:
            with front.lock, front.guard:
                front.take_gate()
                place = self._bench.place_of(queue, sleeper, owner)
                if place:
                    self._bench.leave(place)
        except BaseException:
            self._let_go()
            raise

    def pass_on(self, number: int) -> bool:
        """See BenchKeeper. [9]"""
        if not self._aftermath.is_calm_by_rows(number):
            return False
        if self._bench.is_empty():
            return True
        state, front = self._engine.catalog.known(number), self._front
        if state is None or self._is_shut():
            return False
        called: list[Waiting] = []
        try:
            if front.lock.locked():
                front.let_others_finish()
            with front.lock, front.guard:
                found = self._first(state)
                if found is None:
                    return False
                deadline_ns = front.lanes[number].deadline_ns
                if found or (deadline_ns and not self._bench.looks_by(number, deadline_ns)):
                    self._choose(number, called)
            if called:
                self._call(number, called)
        except BaseException:
            self._let_go()
            self._ring_all(called)
            raise
        return True

    def _choose(self, number: int, called: list[Waiting]) -> bool:
        """Under L: one who sits there is to be rung, and sits no more. False where nobody does. `called` is the
        caller's: whom an interrupt keeps him from ringing, he finds there.
        """
        found = self._bench.first(number)
        if found is None:
            return False
        called.append(found[1])
        self._bench.leave(found[0])
        return True

    def _call(self, number: int, called: list[Waiting]) -> None:
        """Ring the one who was chosen; if he is gone, the next one. [9]"""
        while not self._waiters.ring(called[-1].owner, called[-1].sleeper):
            if not self._choose_one(number, called):
                return

    def _choose_one(self, number: int, called: list[Waiting]) -> bool:
        """`_choose`, under no lock."""
        self._front.let_others_finish()
        try:
            with self._front.lock, self._front.guard:
                self._front.take_gate()
                return self._choose(number, called)
        except Closed:  # others see this process leave, and look
            return False

    def _ring_all(self, called: list[Waiting]) -> None:
        for waiting in called:
            self._waiters.ring(waiting.owner, waiting.sleeper)
