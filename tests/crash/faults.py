"""Faults at system calls: what fault_at_call.c does, from Python."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("fault_at_call.c")

WRITES, FLUSHES, NAMES = 1, 2, 4
ALL = WRITES | FLUSHES | NAMES
NOTHING, KILLS, TEARS_AND_KILLS, FAILS, FAILS_SHORT, FAILS_AFTER = range(6)


def built(folder: Path) -> str:
    """The library to preload, made in that folder; the test is skipped where it cannot be made."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("faults at system calls need Linux and a C compiler (cc)")
    library = folder / "fault_at_call.so"
    made = subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl"], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"{SOURCE.name} cannot be compiled here: {made.stderr}")
    return str(library)


class Faults:
    """The library, preloaded into this process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.fault_arm.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_char_p]
        self._library.fault_calls.restype = self._library.fault_fired.restype = ctypes.c_long

    def arm(self, first: int, last: int, fault: int, errno: int = 0, kinds: int = ALL, where: str = "") -> None:
        """Strike the calls number `first` to `last` (0: without an end), counted from now on."""
        self._library.fault_arm(first, last, fault, errno, kinds, where.encode())

    def disarm(self) -> None:
        self.arm(0, 0, NOTHING)

    @property
    def fired(self) -> int:
        """How many calls were struck since it was armed."""
        return int(self._library.fault_fired())

    @property
    def calls(self) -> int:
        """How many calls of these kinds and files there were since it was armed."""
        return int(self._library.fault_calls())
