"""This process among those that share a store: it joins, watches, rings, and leaves.

Joining gives the process a new owner id that never repeats, and wakes all sleepers
of all processes, so that they watch it from then on [6]. A forked child drops what
it inherited and joins as another owner when it first needs to [21].
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable

from .claims.shared import SharedClaims
from .errors import Closed, StoreError
from .system.environment import Environment
from .system.liveness import Liveness
from .wake.fifo import FifoBell
from .wake.polling import PollingBell


class SharedPresence:
    """One process of several, by signs in `session` (a folder, see system/directory.py).

    Locks    `_joining` is held while the process joins or leaves; it is taken before all
             locks of the store. `_watching` guards the list of watched owners.
    """

    def __init__(self, session: str, log: Environment, claims: SharedClaims, passed: Callable[[], int]) -> None:
        """passed(): grows with each change of the log that is no commit of its environment."""
        self._session = session
        self._log = log
        self._claims = claims
        self._passed = passed
        self._reset()

    def _reset(self) -> None:
        self._joining = threading.Lock()
        self._watching = threading.Lock()
        self._liveness = Liveness(os.path.join(self._session, "owners"))
        #: Whether a watched process may have died. One poll(2), none where nobody else is there.
        self.someone_died = self._liveness.any_died
        self._owner = 0
        self._bell: FifoBell | PollingBell | None = None
        self.generation = -1
        self._left = False

    # ------------------------------------------------------------------ joining and leaving
    @property
    def owner(self) -> int:
        """The id of this process, which joins the store if it has not. [6]"""
        return self._owner or self._join()

    @property
    def bell(self) -> FifoBell | PollingBell:
        """The bell of this process."""
        if self._bell is None:
            self._join()
        assert self._bell is not None
        return self._bell

    def _join(self) -> int:
        with self._joining:
            if self._owner:
                return self._owner
            if self._left:
                raise Closed("the store was closed: open it again to use it")
            with self._claims.lock, self._claims.guard, self._claims.write() as c:
                others = [owner for owner in c.owners() if self._liveness.is_alive(owner)]
                if not others:
                    c.forget_shutdowns()
                try:
                    owner = self._liveness.join()
                except OSError as error:
                    raise StoreError(
                        f"cannot join the store of {self._session!r} ({error.strerror}): "
                        "free file descriptors or space on the disk, then try again"
                    ) from error
                try:
                    bell = self._make_bell(owner)
                except BaseException:
                    self._liveness.leave(owner)
                    raise
                c.add_owner(owner)
            self._bell, self._owner = bell, owner
            with self._claims.read() as c:
                waiting = c.all_waiting()
            for sleeper in waiting:
                bell.ring(sleeper.owner, sleeper.sleeper)
            return owner

    def _make_bell(self, owner: int) -> FifoBell | PollingBell:
        def commits() -> tuple[int, int]:
            return self._log.last_txnid() + self._passed(), self._claims.environment.last_txnid()

        try:
            return FifoBell(os.path.join(self._session, "bells"), owner, self._liveness, commits)
        except OSError:
            return PollingBell(commits)

    def leave(self) -> None:
        """Disappear, after the engine has given back what this process held."""
        with self._joining:
            if self._owner:
                assert self._bell is not None
                self._bell.close(self._owner)
                self._liveness.leave(self._owner)
                self._claims.marks.leave(self._owner)
                self._owner = 0
            self._left = True

    def forget(self) -> None:
        """In a forked child: drop what was inherited."""
        if self._bell is not None:
            self._bell.close()
        self._liveness.forget()
        self._reset()

    def hold(self) -> None:
        """Let nobody join or leave (around a fork)."""
        self._joining.acquire()

    def let_go(self) -> None:
        """Undo `hold`."""
        self._joining.release()

    @property
    def joined(self) -> bool:
        """Whether this process has an owner id."""
        return bool(self._owner)

    # ------------------------------------------------------------------ the others
    def watch(self, owners: Iterable[int], generation: int) -> None:
        """See all these processes die. Free when nothing changed."""
        if generation <= self.generation:
            return
        everybody, own = set(owners), self.owner
        with self._watching:
            if generation <= self.generation:
                return  # another thread has read a newer list
            if own not in everybody:
                return  # it leaves, or joined after that list: this generation is not known here
            self._liveness.watch(everybody - {own})
            self.generation = generation
        self.bell.watching_changed()

    def is_alive(self, owner: int) -> bool:
        """Whether a process lives."""
        return owner == self._owner or self._liveness.is_alive(owner)

    def bury(self, owner: int) -> None:
        """Remove what a dead process left; its slots among LMDB's readers, too."""
        self._liveness.bury(owner)
        self.bell.bury(owner)
        self._log.reader_check()
        self._log.level.attend(self._log)
        self._claims.environment.reader_check()
