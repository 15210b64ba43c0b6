"""A checkpoint, and what may come between its steps."""

from __future__ import annotations

from typing import Any

import pytest

import mqlite
from mqlite.system.control import MARKED, PIN_TRANSACTION
from mqlite.system.environment import Environment


def test_a_fork_between_the_steps_of_a_checkpoint_has_it_made_again(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It closes the environment, and what was pinned is not pinned any more."""
    with mqlite.open(path, durability="checkpoint") as broker:
        store: Any = broker._store
        environment, words = store._environment, store._control.words
        broker.queue("q").put("here")
        flush, forks = Environment.flush, []

        def flush_and_fork(self: Environment) -> None:
            flush(self)
            if not forks:
                forks.append(1)
                store.before_fork()
                store.after_fork_in_parent()

        monkeypatch.setattr(Environment, "flush", flush_and_fork)
        broker.sync()
        assert forks
        assert words[MARKED] == words[PIN_TRANSACTION] == environment.last_txnid()
        assert f" {words[PIN_TRANSACTION]}\n" in environment.opened.readers()
        assert broker.check() == []
