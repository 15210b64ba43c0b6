"""Stores of earlier formats, kept as they were written: each opens, gives all that is in it, and becomes a store of this format."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

import mqlite

HERE = Path(__file__).parent


@pytest.fixture
def format_1(tmp_path: Path) -> str:
    """Two queues: of 25 messages 2 were acknowledged, 1 rejected, 1 failed and waits; 2 more wait for their time."""
    store = tmp_path / "old.mq"
    store.mkdir(mode=0o700)
    with tarfile.open(HERE / "format_1.tar.xz") as archive:
        archive.extractall(store, filter="data")
    return str(store)


def test_a_store_of_format_1_gives_all_that_is_in_it(format_1: str) -> None:
    with mqlite.open(format_1) as broker:
        orders = broker.queue("orders")
        assert broker.queues() == ["orders", "other"]
        assert broker.check() == []
        assert orders.maxsize == 1000
        stats = orders.stats()
        assert (stats.ready, stats.delayed, stats.claimed, stats.dead) == (19, 3, 0, 1)
        [dead] = orders.dead.peek()
        assert (dead.body, dead.priority, dead.headers, dead.type) == ("text", 5, {"a": [1, 2]}, "t")
        assert dead.death is not None
        assert (dead.death.reason, dead.death.error) == ("rejected", "because")
        bodies = [orders.get(timeout=0) for _ in range(19)]
        assert bodies == [{"n": n} for n in range(2, 20)] + [b"bytes"]
        assert broker.queue("other", codec="pickle").get(timeout=0) == (1, 2)
        assert broker.check() == []


def test_messages_that_had_moved_are_found_by_their_ids_after_the_upgrade(format_1: str) -> None:
    with mqlite.open(format_1) as broker:
        orders = broker.queue("orders")
        [dead] = orders.dead.peek()
        assert orders.dead.cancel(dead.id)
        failed, later = 1, 24
        assert orders.update(failed, delay=0)
        assert orders.cancel(later)
        assert orders.receive(timeout=0)[0].id == 6
        assert [m.id for m in orders.browse()][-2:] == [failed, 3]
        assert broker.check() == []


def test_the_store_has_this_version_s_format_then(format_1: str) -> None:
    mqlite.open(format_1).close()
    with open(os.path.join(format_1, "store.json"), encoding="utf-8") as marker:
        assert json.load(marker)["format"] == 2
    with mqlite.open(format_1) as broker:
        assert broker.stats()["orders"].delayed == 3
        assert broker.check() == []
