"""The bell between processes: one named pipe per process, read by the sleeper that leads.

A ring is the 8-byte id of a sleeper, written to the pipe of its process. Among
the sleeping threads of a process one leads: it polls the pipe and the pipes of
the watched owners (a hang-up there is a death), opens the gates of those that
were rung, and hands the lead on when it leaves. So a process needs one pipe
however many of its threads wait, a lone waiter is woken without a detour, and no
thread of ours runs in the background.

The owner opens its pipe for reading and writing, so that it never sees an end of
file. A pipe that may have been full wakes everybody when it is read.

A ring goes to one sleeper. If its process is stopped (SIGSTOP, a debugger), or the one
that should ring is stopped after its commit, the message would wait as long as that
lasts; so the leader wakes once in HEDGE seconds and, if there were commits since its
look and no rings, has some sleepers look. An idle process has no other timer.

Locks    `_lock` guards the sleepers, their gates, the lead and the open pipes;
         nothing is waited for under it.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import select
import struct
import threading
import time
from collections.abc import Callable, Iterable

from ..system.liveness import Liveness
from . import LONGEST_SLEEP, Sleeper

_RING = struct.Struct("=Q")
_FULL = 4096 - 8  # the smallest pipe there is: with as many unread rings, some may have been dropped
_NUDGE = _RING.pack(0)  # wakes the leader only, so that it polls anew
HEDGE = 1.0
HEDGED_AT_ONCE = 64
LOOK_AGAIN = 0.05  # seconds between looks where a death cannot be polled


Commits = Callable[[], tuple[int, int]]


class FifoBell:
    """Rings threads of all processes that share `folder`."""

    def __init__(
        self, folder: str, owner: int, liveness: Liveness, commits: Callable[[], tuple[int, int]] = lambda: (0, 0)
    ) -> None:
        self._folder = folder
        self._commits = commits
        self._owner = owner
        self._liveness = liveness
        self._lock = threading.Lock()
        self._sleepers: dict[int, Sleeper] = {}
        self._asleep: dict[int, Sleeper] = {}
        self._leader: Sleeper | None = None
        self._pipes: dict[int, int] = {}
        os.mkfifo(self._path(owner), 0o600)
        self._fd = os.open(self._path(owner), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def _path(self, owner: int) -> str:
        return os.path.join(self._folder, f"{owner:016x}")

    # ------------------------------------------------------------------ sleeping
    def sleeper(self) -> Sleeper:
        """A new sleeper of the calling thread."""
        sleeper = Sleeper()
        with self._lock:
            self._sleepers[sleeper.id] = sleeper
        return sleeper

    def forget(self, sleeper: Sleeper) -> None:
        """The sleeper stays awake from now on; it hands the lead on, if an interrupt kept it from doing so."""
        with self._lock:
            self._sleepers.pop(sleeper.id, None)
            self._step_back(sleeper)

    def drain(self, sleeper: Sleeper) -> bool:
        """Forget rings so far. Unread ones in the pipe stay: they cost one more look."""
        with self._lock:
            rung, sleeper.rung = sleeper.rung, False
            sleeper.close_gate()
        sleeper.seen = self._commits()
        return rung

    def sleep(self, sleeper: Sleeper, timeout: float | None) -> None:
        """Until rung, until a watched process died, or for `timeout` seconds."""
        end = math.inf if timeout is None else time.monotonic() + min(timeout, LONGEST_SLEEP)
        while True:
            left = end - time.monotonic()
            with self._lock:
                self._asleep.pop(sleeper.id, None)
                if sleeper.rung or left <= 0:
                    self._step_back(sleeper)
                    return
                leads = self._leader is None
                if leads:
                    self._leader = sleeper
                else:
                    self._asleep[sleeper.id] = sleeper
            if leads:
                if self._lead(left, sleeper):
                    return
            else:
                sleeper.gate.acquire(timeout=-1 if left == math.inf else left)

    def _lead(self, left: float, leader: Sleeper) -> bool:
        """Poll for all once; whether the leader itself was rung, and has stepped back."""
        unseen = self._liveness.unseen
        left = min(left, LOOK_AGAIN if unseen else HEDGE)
        try:
            poller = select.poll()
            poller.register(self._fd, select.POLLIN)
            for fd in self._liveness.descriptors():
                poller.register(fd, 0)
            ready = poller.poll(math.ceil(left * 1000))
            silent = not ready and self._commits() != leader.seen
            with self._lock:  # so that nobody closes the pipe meanwhile, and another file gets its number
                rings, deaths = b"", unseen
                for fd, _ in ready:
                    if fd != self._fd:
                        deaths = True
                        continue
                    try:  # contextlib.suppress would take more time than this whole loop
                        rings = os.read(fd, 65536)
                    except BlockingIOError:
                        pass
                if deaths or len(rings) >= _FULL:
                    self._wake(self._sleepers)
                elif silent:
                    self._wake(random.sample(list(self._sleepers), min(len(self._sleepers), HEDGED_AT_ONCE)))
                else:
                    self._wake(number for (number,) in _RING.iter_unpack(rings))
                self._leader = None
                if leader.rung:
                    self._step_back(leader)
                    return True
        except (OSError, ValueError):
            if self._fd >= 0:
                raise
            # closed meanwhile: everybody looks, and is told
        finally:
            if self._leader is leader:  # closed, or interrupted before all were told
                with self._lock:
                    self._wake(self._sleepers)
                    self._leader = None
        return False

    def _wake(self, numbers: Iterable[int]) -> None:
        """The caller holds the lock."""
        for number in numbers:
            sleeper = self._sleepers.get(number)
            if sleeper is not None:
                sleeper.rung = True
                sleeper.open_gate()

    def _step_back(self, sleeper: Sleeper) -> None:
        """It is awake: another one leads, if nobody does. The caller holds the lock."""
        self._asleep.pop(sleeper.id, None)
        if self._leader is sleeper:
            self._leader = None
        if self._leader is None:
            for other in self._asleep.values():
                other.open_gate()  # it takes the lead
                break

    # ------------------------------------------------------------------ ringing
    def ring(self, owner: int, sleeper_id: int) -> bool:
        """Wake that sleeper. Cost: a lock, or a write(2) to the pipe of its process."""
        if owner == self._owner:
            with self._lock:
                sleeper = self._sleepers.get(sleeper_id)
                if sleeper is None:
                    return False
                sleeper.rung = True
                sleeper.open_gate()
                if self._leader is sleeper:
                    self._send(self._fd, _NUDGE)
            return True
        with self._lock:
            fd = self._pipes.get(owner, -1)
            if fd < 0:
                try:
                    fd = os.open(self._path(owner), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                except OSError:
                    return False
                self._pipes[owner] = fd
            if self._send(fd, _RING.pack(sleeper_id)):
                return True
            os.close(self._pipes.pop(owner))
            return False

    @staticmethod
    def _send(fd: int, ring: bytes) -> bool:
        try:
            os.write(fd, ring)
        except BlockingIOError:
            pass  # full: its reader wakes everybody
        except OSError:
            return False
        return True

    # ------------------------------------------------------------------ lifetime
    def watching_changed(self) -> None:
        """Other owners are to be watched now: whoever leads polls anew."""
        with self._lock:
            if self._leader is not None:
                self._send(self._fd, _NUDGE)

    def bury(self, owner: int) -> None:
        """Remove what is left of a dead owner."""
        with self._lock:
            fd = self._pipes.pop(owner, -1)
            if fd >= 0:
                os.close(fd)
        try:
            os.unlink(self._path(owner))
        except OSError:  # gone, or the disk refuses: it goes with its folder
            pass

    def close(self, owner: int | None = None) -> None:
        """Close all descriptors; with `owner`, remove its pipe as well."""
        with self._lock if owner is not None else contextlib.nullcontext():  # in a forked child nobody holds it rightly
            closing = [self._fd, *self._pipes.values()]
            self._fd = -1
            self._pipes.clear()
            for fd in closing:
                os.close(fd)
        if owner is not None:
            self.bury(owner)
