"""How many messages a producer handle commits at once."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import mqlite
from mqlite.channel import Channel
from mqlite.producer import MAX_GROUP, MAX_QUICK_GROUP


@pytest.mark.parametrize(
    ("durability", "most"), [("full", MAX_GROUP), ("checkpoint", MAX_QUICK_GROUP), ("process", MAX_QUICK_GROUP), (None, MAX_QUICK_GROUP)]
)
def test_groups_are_large_where_a_commit_waits_for_the_disk_and_smaller_elsewhere(
    durability: str | None, most: int, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    begun, may_go_on = threading.Event(), threading.Event()
    put_each = Channel.put_each

    def putting(self: Channel, ranks: Any, *rest: Any) -> list[int]:
        begun.set()
        assert may_go_on.wait(20)
        sizes.append(len(ranks))
        return put_each(self, ranks, *rest)

    monkeypatch.setattr(Channel, "put_each", putting)
    with mqlite.Queue[Any]("q", path if durability else None, durability=durability) as queue:
        with queue.producer() as producer:
            producer.put(b"first")
            assert begun.wait(20)
            for _ in range(2 * most + 10):
                producer.put(b"behind it")
            may_go_on.set()
        assert sizes == [1, most, most, 10]
        assert queue.qsize() == 2 * most + 11
