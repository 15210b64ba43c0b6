"""Fixtures of the stress suite."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_spec = importlib.util.spec_from_file_location("mqlite_tests_children", Path(__file__).parent.parent / "crash" / "children.py")
assert _spec is not None
assert _spec.loader is not None
_children = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_children)


@pytest.fixture
def children() -> Iterator[Any]:
    """Forks processes (see ../crash/children.py); kills those that are left."""
    made = _children.Children()
    yield made
    made.kill_all()
