"""A KeyboardInterrupt at one chosen point after the other: what real signals hit by chance only."""

from __future__ import annotations

import dis
import functools
import gc
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mqlite

PACKAGE = os.path.dirname(mqlite.__file__)


@functools.cache
def _looks(code: types.CodeType) -> dict[int, int]:
    """Offset -> which handler covers it, 0 for none; negative where the interpreter looks for signals after it."""
    handlers = dis._parse_exception_table(code)  # type: ignore[attr-defined]
    found = {}
    for instruction in dis.get_instructions(code):
        handler = next((entry.target for entry in handlers if entry.start <= instruction.offset < entry.end), 0) + 1
        looks = instruction.opname.startswith(("CALL", "JUMP_BACKWARD"))
        found[instruction.offset] = -handler if looks else handler
    return found


def learn() -> None:
    """Find all points of the package as far as it is loaded. Before a fork: its children know them, and need not find them again."""
    _learn(sum(name.startswith("mqlite") for name in sys.modules))


@functools.cache
def _learn(_modules: int) -> None:
    """Once for so many modules."""
    unseen: list[types.CodeType] = []
    for found in gc.get_objects():
        if isinstance(found, types.FunctionType) and found.__code__.co_filename.startswith(PACKAGE):
            unseen.append(found.__code__)
    while unseen:
        code = unseen.pop()
        _looks(code)
        unseen += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]


@contextmanager
def interrupted_at(point: int) -> Iterator[list[str]]:
    """A KeyboardInterrupt at the n-th point of the package in this thread; [where it struck].

    A point is where the interpreter looks for signals: after a call, at the start of
    a function, at the end of a loop's round. (Raised at any line, it would strike
    where a signal cannot, such as between the block of a `with` and its end.) One that
    strikes in a `__del__` is swallowed, as a real one would be.
    """
    left = point
    struck: list[str] = []

    def look(frame: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            struck.append(f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} {frame.f_code.co_name}")
            raise KeyboardInterrupt

    def follow(frame: Any) -> Any:
        frame.f_trace_opcodes = True
        looks = _looks(frame.f_code)
        before = 0
        ends_block_of_user = frame.f_code.co_name == "__exit__" and not frame.f_back.f_code.co_filename.startswith(PACKAGE)
        if not ends_block_of_user:  # there, nobody but Python could help
            look(frame)  # at the start

        def local(frame: Any, event: str, argument: Any) -> Any:
            nonlocal before
            if event == "opcode":
                now, last, before = looks[frame.f_lasti], before, looks[frame.f_lasti]
                if last < 0 and -last == abs(now):
                    look(frame)
            return local

        return local

    before = sys.gettrace()
    sys.settrace(lambda frame, event, argument: follow(frame) if frame.f_code.co_filename.startswith(PACKAGE) else None)
    try:
        yield struck
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
