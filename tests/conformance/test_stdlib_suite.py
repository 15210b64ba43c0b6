"""CPython's own tests of queue.Queue, run against ours."""

from __future__ import annotations

import os
import queue
import types
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mqlite

stdlib_tests = pytest.importorskip("test.test_queue", reason="this Python comes without its test suite")


class _OurQueueTest(stdlib_tests.QueueTest):  # type: ignore[misc, name-defined]
    """Gives the tests what they take from the module `queue`; the errors stay the standard library's."""

    queue = types.SimpleNamespace(Queue=mqlite.Queue, Empty=queue.Empty, Full=queue.Full, ShutDown=mqlite.ShutDown)


class TestInMemory(_OurQueueTest, unittest.TestCase):
    pass


class TestOnDisk(_OurQueueTest, unittest.TestCase):
    @pytest.fixture(autouse=True)
    def stores(self, tmp_path: Path) -> Iterator[None]:
        """Every queue in a store of its own."""
        self.made: list[mqlite.Queue[Any]] = []
        self.folder = tmp_path
        yield
        for made in self.made:
            made.close()

    def setUp(self) -> None:
        super().setUp()
        self.type2test = self.make

    def make(self, maxsize: int = 0) -> mqlite.Queue[Any]:
        path = os.path.join(self.folder, f"{len(self.made)}.mq")
        made: mqlite.Queue[Any] = mqlite.Queue("queue", path, maxsize=maxsize, codec="pickle")  # the tests put tuples
        self.made.append(made)
        return made

    if hasattr(stdlib_tests.QueueTest, "test_shutdown_all_methods_in_many_threads"):  # 65,536 messages, each put synced

        @pytest.mark.slow
        def test_shutdown_all_methods_in_many_threads(self) -> None:
            super().test_shutdown_all_methods_in_many_threads()

        @pytest.mark.slow
        def test_shutdown_immediate_all_methods_in_many_threads(self) -> None:
            super().test_shutdown_immediate_all_methods_in_many_threads()
