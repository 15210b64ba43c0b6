"""The levels of durability that there are."""

from __future__ import annotations

import tempfile

import mqlite


def _there(level: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            mqlite.open(f"{folder}/asked.mq", durability=level).close()
        except mqlite.NotSupported:
            return False
        return True


LEVELS = [level for level in ("full", "checkpoint", "process") if _there(level)]
