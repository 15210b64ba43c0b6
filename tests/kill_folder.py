"""Where processes are killed: in memory, if there is plenty, since a kill asks nothing of the disk and waits for none."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

#: Of a file system in memory; a store takes 24 MB, and a sweep has several at once.
PLENTY = 4 << 30
_MEMORY = "/dev/shm"


def _has_plenty() -> bool:
    try:
        found = os.statvfs(_MEMORY)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize >= PLENTY


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """As pytest's, in memory where there is plenty; removed after the test. MQLITE_TESTS_ON_DISK=1: always on the disk."""
    if os.environ.get("MQLITE_TESTS_ON_DISK") or not _has_plenty():
        yield tmp_path
        return
    folder = tempfile.mkdtemp(prefix="mqlite-", dir=_MEMORY)
    try:
        yield Path(folder)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
