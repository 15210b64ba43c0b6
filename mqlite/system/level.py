"""How an LMDB environment gets to the disk: the base of the levels of durability, and the simplest two."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .environment import Environment


class Level:
    """LMDB's own flushes: a commit that returned is on the disk. The level "full".

    What differs between levels is asked here, and nowhere else. All of it is called by the environment.
    """

    #: whether LMDB flushes each commit
    sync = True
    #: whether it changes the file through a map, whose every page must have a block on the disk
    writemap = False
    #: whether `admits` must be asked, and the gate be held, before anything is changed or closed
    guarded = False
    #: whether pages that are freed stay as they are until the next checkpoint
    pins = False

    def admits(self, environment: Environment) -> bool:
        """Under the gate, in a transaction that has changed nothing: whether it may; else it begins again after
        `prepare`.
        """
        return True

    def check(self) -> None:
        """Under the gate, before a commit: raises StoreError where there can be none any more."""

    def prepare(self, environment: Environment) -> None:
        """Under the gate, outside of a transaction: do what must come before the next change."""

    def attend(self, environment: Environment) -> None:
        """Another process may have died with commits that are not on the disk."""

    def is_held_up(self, environment: Environment) -> bool:
        """Under the gate, after `prepare`: whether other processes are to be let in for a moment, before it is asked
        again.
        """
        return False

    def sync_now(self, environment: Environment) -> None:
        """Return when everything that was committed before the call survives a power cut. Under no lock."""

    def end(self) -> None:
        """The environment, open or not, is about to be closed for good. Under no lock of other processes."""

    def leave(self, environment: Environment) -> None:
        """Under the gate, for the last time in this process: the environment is about to be closed."""

    def closing(self) -> None:
        """Under the gate: the environment is about to be closed, around a fork or for good."""

    def forget(self) -> None:
        """In a forked child: nothing of the parent's is used."""


class Unflushed(Level):
    """A map, and no flush ever: for what a power cut may take. kill -9 loses nothing."""

    sync = False
    writemap = True
