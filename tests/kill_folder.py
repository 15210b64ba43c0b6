"""Where stores are made that nobody cuts the power of: in memory, if there is plenty. A kill asks nothing of the disk, and neither does
what a test says about messages; but flushes would take a third of the time.
"""

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


def in_memory() -> str | None:
    """A folder in memory, for `dir=` of tempfile's functions; None where there is not plenty, or with MQLITE_TESTS_ON_DISK=1."""
    try:
        found = os.statvfs(_MEMORY)
    except OSError:
        return None
    has_plenty = found.f_bavail * found.f_frsize >= PLENTY
    return _MEMORY if has_plenty and not os.environ.get("MQLITE_TESTS_ON_DISK") else None


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """As pytest's, in memory where there is plenty; removed after the test."""
    memory = in_memory()
    if memory is None:
        yield tmp_path
        return
    folder = tempfile.mkdtemp(prefix="mqlite-", dir=memory)
    try:
        yield Path(folder)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
