"""Loads what the tests of this folder share, and keeps processes to be killed at hand."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

HERE = os.path.dirname(__file__)


class Holder:
    """A process that runs holder.py. The next one is started ahead, since starting takes most of the time."""

    spare: subprocess.Popen[str] | None = None

    def __init__(self) -> None:
        self._process = Holder.spare or Holder.started()
        Holder.spare = Holder.started()

    @staticmethod
    def started() -> subprocess.Popen[str]:
        script = os.path.join(HERE, "holder.py")
        return subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *request: Any) -> Any:
        """Its answer; an AssertionError where it died of the question."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the other process died of {request}"
        return json.loads(line)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        Holder.end(self._process)

    @staticmethod
    def end(process: subprocess.Popen[str]) -> None:
        process.kill()
        process.wait()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()


@pytest.fixture
def machine() -> ModuleType:
    """machine.py, with its clock and its queues."""
    module, holder = importlib.import_module("model.machine"), importlib.import_module("model.holder")
    module.QueueBesideList.clock_class = holder.ToldClock
    module.QueueBesideList.open_queue = staticmethod(holder.open_queue)
    return module


@pytest.fixture
def policies(machine: ModuleType) -> ModuleType:
    """policies.py, with what it shares with machine.py."""
    return importlib.import_module("model.policies")


@pytest.fixture
def holder_class() -> Iterator[type[Holder]]:
    """Makes processes that can be told to claim and be killed."""
    yield Holder
    if Holder.spare is not None:
        Holder.end(Holder.spare)
        Holder.spare = None
