"""More readers than LMDB's table has room for: a clear error, nothing lost, and it passes."""

from __future__ import annotations

import contextlib

import pytest

import mqlite
from mqlite.system import environment


def test_too_many_readers_are_told_so_and_the_store_works_on(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "MAX_READERS", 3)
    monkeypatch.setattr(environment, "LOCK_FILE_BYTES", 3 * 64)  # LMDB makes room for as many as fit
    with mqlite.Queue[str]("q", path) as queue:
        queue.put("kept")
        with contextlib.ExitStack() as held:
            for _ in range(3):
                held.enter_context(queue._engine.log.read())
            with pytest.raises(mqlite.MqliteError, match="too many readers"):
                queue.qsize()
            with pytest.raises(mqlite.MqliteError, match="too many readers"):
                queue.receive(timeout=0)
            queue.put("needs no reader of the log")
        assert [queue.get(timeout=0) for _ in range(2)] == ["kept", "needs no reader of the log"]
        assert queue.check() == []
