"""Whether the log of a store is whole, found out in a process of its own, so that no damage can crash this one.

The child opens the log alone: it takes no lock, joins nobody, reads no claims and writes nothing, so nobody may write
meanwhile. First it looks at the pages without LMDB (system/structure.py), and only if these are whole at all that is
stored (audit.py). It can be run by hand while no process has the store open:

    python -m mqlite.verify DIRECTORY

and writes lines of JSON, {"done": n, "total": n} while it works and {"problems": [...]} at the end.
"""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any

import lmdb

from .audit import log_problems
from .engine.catalog import Catalog
from .errors import MqliteError, StoreCorrupted
from .log import DEAD_BIT, counting, index
from .log import format as fmt
from .log.lmdb import LmdbLog
from .log.lmdb_reading import LmdbState
from .system.directory import StoreDirectory
from .system.pages import DataFile, newest_meta
from .system.structure import Progress, structure_problems

#: Seconds after which a child that has told nothing is given up.
PATIENCE = 120.0
_TELL_EVERY = 4096
_CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from mqlite.verify import main; main()"
#: What damage makes of code that reads it: whatever passes the checksums has been written by us.
_UNREADABLE = (MqliteError, lmdb.Error, struct.error, ValueError, KeyError, TypeError, AttributeError)


def store_problems(directory: str, progress: Progress | None = None, patience: float = PATIENCE) -> list[str]:
    """What is wrong with the log of a store, in words; [] when all is well. The claims are not looked at.

    Nobody may write to the store meanwhile, nor may this process have it open. A child process does the work; one that
    dies, or tells nothing for `patience` seconds, is a problem, too. Where no child can be started this process does it
    itself. progress(done, total): called now and then. Raises nothing but what progress raises. Cost: a fifth of a
    second, and a walk over all pages and records.
    """
    tell = progress or (lambda done, total: None)
    if not _is_python(sys.executable):
        return _looked_at(directory, tell)
    with tempfile.TemporaryFile() as said:
        try:
            child = subprocess.Popen(
                [sys.executable, "-c", _CHILD, json.dumps(sys.path), directory],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
            )
        except OSError:
            return _looked_at(directory, tell)
        try:
            answer = _answer_of(child, tell, patience)
        finally:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
        if answer is _NEVER_BEGAN:
            return _looked_at(directory, tell)
        if isinstance(answer, list):
            return answer
        return [f"{answer}{_last_line(said)}"]


def _is_python(executable: str | None) -> bool:
    """Whether it can be asked to run code: not where Python is built into another program."""
    name = os.path.basename(executable or "")
    return name.startswith(("python", "pypy")) and not getattr(sys, "frozen", False)


_NEVER_BEGAN = "the child never began"


def _answer_of(child: subprocess.Popen[bytes], tell: Progress, patience: float) -> list[str] | str:
    """The problems that the child found, or what became of it."""
    began = False
    for line in _lines(child.stdout, patience):
        if line is None:
            return f"the log could not be looked at: nothing was heard for {patience:g} seconds"
        told = _message_in(line)
        if "problems" in told:
            return [str(problem) for problem in told["problems"]]
        if "done" in told:
            began = True
            tell(told["done"], told["total"])
    code = child.wait()
    if not began:
        return _NEVER_BEGAN
    how = f"by signal {-code}" if code < 0 else f"with status {code}"
    return f"the log could not be looked at: the process that did it died {how}"


def _message_in(line: bytes) -> dict[str, Any]:
    """What a line of the child says; {} where something else has written it."""
    try:
        told = json.loads(line)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _lines(pipe: Any, patience: float) -> Iterator[bytes | None]:
    """The lines of a pipe to its end; None, and no more, when nothing came for so long."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    begun = b""
    while True:
        if not poll.poll(patience * 1000):
            yield None
            return
        read = os.read(pipe.fileno(), 1 << 16)
        if not read:
            return
        *lines, begun = (begun + read).split(b"\n")
        yield from lines


def _last_line(said: IO[bytes]) -> str:
    said.seek(0)
    lines = said.read()[-4096:].decode(errors="replace").strip().splitlines()
    return f" ({lines[-1]})" if lines else ""


# ---------------------------------------------------------------------- in the child
def _looked_at(directory: str, tell: Progress) -> list[str]:
    path = StoreDirectory(os.path.realpath(directory)).log
    pages = 1

    def walked(done: int, total: int) -> None:
        nonlocal pages
        pages = max(total, 1)
        tell(done, 2 * total)

    tell(0, 2)
    try:
        found = structure_problems(path, walked)
    except OSError as error:
        return [f"the log {path!r} cannot be read: {error.strerror}"]
    if not found:
        found = _contents(path, lambda share: tell(pages + int(pages * share), 2 * pages))
    tell(2 * pages, 2 * pages)
    return found


def _contents(path: str, tell: Callable[[float], object]) -> list[str]:
    """What is wrong with the records of a log whose pages are whole. tell: which part of them was looked at."""
    found: list[str] = []
    try:
        with _opened(path) as environment, environment.begin() as txn:
            state = _Told(txn, environment.stat()["entries"], tell)
            found.extend(_strays(state))
            log = _Decoding()
            found.extend(log_problems(log, Catalog(log), state))
    except _UNREADABLE as error:
        what = str(error) if isinstance(error, StoreCorrupted) else f"{type(error).__name__}: {error}"
        found.append(f"the records of the log cannot be read: {what}")
    return found


def _opened(path: str) -> Any:
    with DataFile(path) as file:
        newest = newest_meta(file)
        size = max(((newest.last_page if newest else 0) + 1) * file.page_size, 1 << 20)
    return lmdb.open(path, subdir=False, readonly=True, lock=False, map_size=size, lib_version=0)


class _Decoding(LmdbLog):
    """What decodes the records; nothing is opened for it."""

    def __init__(self) -> None:
        self.after_failure = lambda: None


class _Told(LmdbState):
    """Tells how much of the log was walked over; each record is met about twice."""

    def __init__(self, txn: Any, entries: int, tell: Callable[[float], object]) -> None:
        super().__init__(txn)
        self._entries = max(entries, 1)
        self._tell = tell
        self._met = 0

    def _counted(self, walk: Iterator[Any]) -> Iterator[Any]:
        for each in walk:
            self._met += 1
            if not self._met % _TELL_EVERY:
                self._tell(min(1.0, self._met / (2 * self._entries)))
            yield each

    def entries(self, *arguments: Any, **named: Any) -> Iterator[Any]:
        """As of any reading."""
        return self._counted(super().entries(*arguments, **named))

    def scan(self, *arguments: Any, **named: Any) -> Iterator[Any]:
        """As of any reading."""
        return self._counted(super().scan(*arguments, **named))

    def delayed(self, *arguments: Any, **named: Any) -> Iterator[Any]:
        """As of any reading."""
        return self._counted(super().delayed(*arguments, **named))

    def all_kept(self, *arguments: Any, **named: Any) -> Iterator[Any]:
        """As of any reading."""
        return self._counted(super().all_kept(*arguments, **named))

    def raw_rows(self, *arguments: Any, **named: Any) -> Iterator[Any]:
        """As of any reading."""
        return self._counted(super().raw_rows(*arguments, **named))

    def every_key(self) -> Iterator[bytes]:
        """All of the tree."""
        return self._counted(self._txn.cursor().iternext(values=False))

    def value(self, key: bytes) -> bytes | None:
        """What is stored there."""
        value: bytes | None = self._txn.get(key)
        return value


def _strays(state: _Told) -> Iterator[str]:
    """Records that belong to nothing that is declared, and numbers that were given out and are not known to be."""
    store = state.value(fmt.STORE_KEY)
    if store is None:
        yield "the record that names the store is missing"
    else:
        fmt.unpacked_store(store)
    state.folded_epoch()  # raises where it does not match its checksum
    definitions = {each.id: each for each in state.definitions()}
    known = {*definitions, *(number | DEAD_BIT for number in definitions), 0}
    for (number,), _ in state.entries(index.REMOVED, 0):
        known |= {number, number | DEAD_BIT}
    last_number = counting.unpacked_last_queue(state.value(fmt.LAST_QUEUE_KEY))
    for definition in definitions.values():
        if state.value(fmt.queue_key(fmt.NAME, definition.id)) != definition.name.encode():
            yield f"the name of number {definition.id}, {definition.name!r}, is not found by the number"
        if last_number and definition.id > last_number:
            yield f"the number {definition.id} is in use, and {last_number} was given out last"
    strays: dict[int, int] = {}
    newest = 0
    for key in state.every_key():
        kind, number = key[:1], int.from_bytes(key[1:5], "big")
        if kind == fmt.MESSAGE and len(key) == fmt.MESSAGE_KEY_BYTES:
            newest = max(newest, fmt.id_of(state.value(key) or b""))
        elif kind == fmt.DELAYED and not number and not fmt.is_whole(key, state.value(key) or b""):
            yield f"what is to be done when a process dies, at {key.hex()}, does not match its checksum"
        if kind not in _WHOLE and number not in known:
            strays[number] = strays.get(number, 0) + 1
    for number, count in strays.items():
        yield f"{count} records belong to the number {number}, which is not declared"
    if newest > state.last_seq():
        yield f"a message has the id {newest}, and the last number that was given is {state.last_seq()}"


#: Kinds of records that belong to the whole store.
_WHOLE = (fmt.STORE_KEY, fmt.DEFINITION, fmt.FOLDED_KEY, fmt.LAST_QUEUE_KEY, fmt.SEQ_KEY)


def main() -> None:
    """Look at the directory that the command line names."""

    def write(told: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()

    write({"problems": _looked_at(sys.argv[1], lambda done, total: write({"done": done, "total": total}))})


if __name__ == "__main__":
    main()
