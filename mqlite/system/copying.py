"""A compacted copy of an LMDB file that is in use, read from a process of its own.

LMDB's own copy walks through one state of the tree and writes it without the free pages. It runs for as
long as the file is large, in one call that nothing can stop, inside a read transaction of its environment.
Here that is the environment of a child process: a fork of this process, which closes its environments first,
would else wait for the end of the copy, and so would `close`; a child is also ended at any moment (Ctrl-C),
and a damaged file that makes LMDB crash ends only the child. It writes the number of bytes to come, then the
copy, to a pipe.

The child opens the file read-only, with LMDB's locks, while it holds `open.lock`, as all who open a store do. So a
compaction, which puts another file in the place of this one, comes before or after. Where it is the compaction that
copies, nobody else can be inside, and the child asks for no locks.

A child whose parent has died meets a closed pipe. A process that was forked meanwhile may hold that pipe open, so
the child also looks once a second whose child it is: it would else hold old pages for ever.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import chain, starmap
from types import TracebackType
from typing import Self

import lmdb

from .. import errors
from ..errors import MqliteError, StoreCorrupted, StoreError
from .spawning import starting
from .translation import MAX_READERS, translated

CHUNK = 1 << 20
_TOTAL_BYTES = 8
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {} import serve; serve(*sys.argv[2:])"
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)


class Copying:
    """The copy of one state of the LMDB file `path` (map of `map_size` bytes), from the moment it is entered.

    open_lock: the file to be locked while the child opens; None: nobody else has the file open, or will.
    total: how many bytes the copy has; about, where LMDB is as its authors distribute it.
    Cost: to start Python, then one pass over the tree. No thread of this process and no fork is held up. The pages of
    that state are not used again before the end. Raises StoreError, StoreCorrupted.
    """

    def __init__(self, path: str, map_size: int, open_lock: str | None) -> None:
        if getattr(sys, "frozen", False) or not sys.executable:
            raise StoreError("no Python to start that makes the copy: set sys.executable")
        self._path = path
        self._arguments = [path, str(map_size), open_lock or ""]
        self.total = 0

    def __enter__(self) -> Self:
        with starting:
            self._start()
        try:
            head = self._copy.read(_TOTAL_BYTES)
            if len(head) < _TOTAL_BYTES:
                raise self._failure()
        except BaseException:
            self._end()
            raise
        self.total = int.from_bytes(head, "big")
        return self

    def _start(self) -> None:
        pipes: list[tuple[int, int]] = []
        try:
            pipes.extend(starmap(os.pipe, ((),)))  # in C, so that an interrupt comes before or after
            [(ours, theirs)] = pipes  # not its standard output: others may write there while Python starts
            command = [sys.executable, "-c", _START.format(__name__), json.dumps(sys.path), str(theirs)]
            self._child = subprocess.Popen(
                [*command, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[theirs],
                process_group=0,  # Ctrl-C is for this process, which may go on
            )
            self._copy = os.fdopen(os.dup(ours), "rb", CHUNK)
        except OSError as error:
            raise StoreError(f"cannot start {sys.executable!r} to copy {self._path!r} ({error.strerror})") from error
        finally:
            for end in chain.from_iterable(pipes):
                os.close(end)
        assert self._child.stderr is not None
        self._said = self._child.stderr

    def chunks(self) -> Iterator[bytes]:
        """The copy, in pieces of CHUNK bytes. Raises StoreError where it does not come to its end."""
        while chunk := self._copy.read(CHUNK):
            yield chunk
        if self._child.wait():
            raise self._failure()

    def _failure(self) -> MqliteError:
        """Why the child ended before the copy did."""
        said = self._said.read().decode(errors="replace").strip().rpartition("\n")[2]
        code = self._child.wait()
        if -code in _CRASHES:
            return StoreCorrupted(f"{self._path!r} is damaged (signal {-code} when read): restore it from a backup")
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            name, text = json.loads(said)
            error: MqliteError = getattr(errors, name)(text)
            return error
        return StoreError(
            f"the process that copied {self._path!r} has ended ({said or f'exit code {code}'}): try again"
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._child.kill()
        self._copy.close()
        self._said.close()
        self._child.wait()


# ---------------------------------------------------------------------- the child
def serve(out: str, path: str, map_size: str, open_lock: str) -> None:
    """What the child does: write to the descriptor `out`."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # LMDB waits for that signal where it meets a closed pipe
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        _copy(int(out), path, int(map_size), open_lock)
    except lmdb.Error as error:
        _say(_in_our_words(error, path))
    except MqliteError as error:
        _say(error)


def _copy(out: int, path: str, map_size: int, open_lock: str) -> None:
    with contextlib.ExitStack() as last:
        with contextlib.ExitStack() as opening:
            if open_lock:
                fd = os.open(open_lock, os.O_RDWR | os.O_CLOEXEC)
                opening.callback(os.close, fd)
                fcntl.flock(fd, fcntl.LOCK_EX)
            environment = lmdb.open(
                path,
                subdir=False,
                create=False,
                readonly=True,
                lock=bool(open_lock),
                map_size=map_size,
                max_readers=MAX_READERS,
                lib_version=0,
            )
            last.callback(environment.close)
        main = environment.open_db()
        with environment.begin() as state:
            stat = state.stat(main)
            pages = 2 + stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
            os.write(out, (pages * stat["psize"]).to_bytes(_TOTAL_BYTES, "big"))
            with contextlib.suppress(TypeError):  # not the LMDB that comes with py-lmdb: it begins anew
                environment.copyfd(out, compact=True, txn=state)
                return
        environment.copyfd(out, compact=True)


def _in_our_words(error: lmdb.Error, path: str) -> MqliteError:
    if isinstance(error, lmdb.IncompatibleError):  # the pages that are reached and those that are free are not all
        return StoreCorrupted(f"{path!r} is damaged (some of its pages are lost): restore it from a backup")
    return translated(error, path)


def _say(error: MqliteError) -> None:
    print(json.dumps([type(error).__name__, str(error)]), file=sys.stderr, flush=True)
    sys.exit(1)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
