"""Fixtures of the crash suite."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def load(name: str) -> Any:
    """A module that lies beside this file, also where it is no package."""
    spec = importlib.util.spec_from_file_location(f"mqlite_tests_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look here
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def children() -> Iterator[Any]:
    """Forks processes (see children.py); kills those that are left."""
    made = load("children").Children()
    yield made
    made.kill_all()


@pytest.fixture(scope="session")
def kill_points() -> Any:
    """The module kill_points.py."""
    return load("kill_points")


@pytest.fixture(scope="session")
def storm() -> Any:
    """The module storm.py."""
    return load("storm")
