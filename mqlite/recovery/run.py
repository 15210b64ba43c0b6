"""One recovery from its beginning to its end: alone with the old store, into a new directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

from ..disk_store import DEFAULT_MAX_STORE_BYTES
from ..engine.catalog import shown
from ..errors import NotSupported, StoreError
from ..log import DEAD_BIT, counting, rows
from ..log import format as fmt
from ..log.front_file import END
from ..log.lmdb import LmdbLog
from ..log.rebuild import RebuildLog, is_whole
from ..log.recalling import saved
from ..system.control import CLEAN, Control, Mark
from ..system.directory import FORMAT, Marker, StoreDirectory, new_store_id, newest_transaction
from ..system.environment import Environment
from ..system.liveness import Liveness
from ..system.pages import DataFile
from ..system.salvage import Salvage
from ..system.structure import MOST_PROBLEMS, Progress
from .declared import declare
from .rebuild import Rebuild
from .staging import Staged, Staging
from .tally import Tally
from .topics import TopicRebuild

#: Where records are staged. Who opens a directory that holds such a file and no marker is refused; else a power cut may
#: leave one in which an empty store is made, as if nothing could have been saved.
_STAGED = ("unfinished-recovery-1.mdb", "unfinished-recovery-2.mdb")
#: What is left free above the greatest number that was seen, where the counter of numbers is lost.
UNSEEN = 1 << 20
_ROOM = 1 << 28  # for staging, besides four times the old file: its pages may come out half full


def recovered(path: str, into: str, durability: str | None, progress: Progress | None) -> dict[str, Any]:
    """The fields of a Recovery. See `recover`."""
    old = StoreDirectory(os.path.realpath(path))
    if not os.path.isfile(old.log):
        raise StoreError(f"there is nothing to recover at {path!r}: it holds no log.mdb")
    target = os.path.realpath(into)
    made = not os.path.lexists(target)
    if not made and os.path.isdir(target):
        _check_is_empty(target, into, os.listdir(target))
    new = StoreDirectory.locate(into)
    try:
        with new.locked():
            found = set(os.listdir(new.path)) if os.path.isdir(new.path) else set()
            _check_is_empty(
                new.path, into, found - {os.path.basename(new.open_lock)}
            )  # another one may have been faster
            try:
                with _alone(old):
                    return _Run(old, new, progress).recovery(durability)
            except BaseException:
                for name in os.listdir(new.path):
                    with contextlib.suppress(OSError):
                        os.unlink(os.path.join(new.path, name))
                raise
    except BaseException:
        if made:
            with contextlib.suppress(OSError):  # not empty: it is another one's
                os.rmdir(new.path)
        raise


def _check_is_empty(path: str, into: str, found: Collection[str]) -> None:
    if found:
        raise StoreError(
            f"{into!r} is not empty: give a directory that does not exist, or is empty; if a recovery was cut short "
            "there, delete it first"
        )
    if not os.path.isdir(path):
        raise StoreError(f"{into!r} was removed, or is no directory: give one that does not exist, or is empty")


@contextlib.contextmanager
def _alone(old: StoreDirectory) -> Iterator[None]:
    """Nobody opens the store meanwhile. Raises StoreError where somebody has it open."""
    with contextlib.ExitStack() as last:
        with contextlib.suppress(OSError):  # without the file nobody has ever opened it here
            fd = os.open(os.path.join(old.path, "open.lock"), os.O_RDONLY | os.O_CLOEXEC)
            last.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
        for owners in _folders_of_owners(old):
            signs = Liveness(owners)
            for name in os.listdir(owners):
                if signs.is_alive(int(name, 16)):
                    raise StoreError(f"a process has the store {old.path!r} open: close it there, then recover it")
        yield


def _folders_of_owners(old: StoreDirectory) -> list[str]:
    run = os.path.join(old.path, "run")
    sessions = os.listdir(run) if os.path.isdir(run) else []
    folders = [os.path.join(run, session, "owners") for session in sessions]
    return [folder for folder in folders if os.path.isdir(folder)]


def _bytes_on_disk(path: str) -> int:
    """Of a file; one that is written through a map seems larger."""
    found = os.stat(path)
    return min(found.st_size, found.st_blocks * 512 + (1 << 20))


class _Run:
    """One of them."""

    def __init__(self, old: StoreDirectory, new: StoreDirectory, progress: Progress | None) -> None:
        self._old = old
        self._new = new
        self._progress = progress
        self._tally = Tally()
        self._in_front: Counter[int] = Counter()  # how many more than its numbers say a queue has

    def recovery(self, durability: str | None) -> dict[str, Any]:
        """The fields of a Recovery."""
        marker = self._old_marker()
        tally, room = self._tally, 4 * _bytes_on_disk(self._old.log) + _ROOM
        size = max(marker.max_store_bytes if marker else DEFAULT_MAX_STORE_BYTES, room)
        with contextlib.ExitStack() as last, DataFile(self._old.log) as file:
            sure, doubtful = (
                last.enter_context(contextlib.closing(Staging(os.path.join(self._new.path, name), room)))
                for name in _STAGED
            )
            self._new.sync(own_name=False)  # before any name of a store is on the disk
            salvage = Salvage(file, is_whole, self._progress)
            for key, value, is_sure in salvage.entries():
                if is_sure:
                    sure.put(key, value)
                elif not sure.has(key):
                    doubtful.put(key, value)
            self._stage_front(sure, doubtful, is_whole=not (salvage.problems or salvage.unreadable))
            tally.problems += salvage.problems
            if doubtful.count:
                tally.problems.append(
                    f"{doubtful.count} records lay on damaged pages, or on pages that are not in use: some of them may "
                    "have been acknowledged, removed or changed"
                )
            states = sure.staged(), doubtful.staged()
            self._refuse_newer_format(states)
            store_id = new_store_id()
            self._make_log(store_id, size, states)
            self._tell_losses(states, salvage)
            with Control(self._new.control) as control:
                control.write(Mark(CLEAN, newest_transaction(self._new.log)))
            self._new.sync(own_name=False)  # before the files that are staged are gone, and the marker is there
        durability = durability or (marker.durability if marker else "full")
        self._new.write_marker(Marker(format=FORMAT, store_id=store_id, durability=durability, max_store_bytes=size))
        return {
            "messages": tally.messages.total(),
            "kept": tally.kept,
            "rows": tally.rows,
            "definitions": len(tally.definitions),
            "problems": tuple(tally.problems),
            "pages_read": salvage.read,
            "pages_damaged": len(salvage.damaged),
        }

    def _stage_front(self, sure: Staging, doubtful: Staging, is_whole: bool) -> None:
        """What is in the front is not in the tree yet, if the tree says so; else it may be there, or have been."""
        area = b""
        with contextlib.suppress(OSError), open(self._old.front, "rb") as file:
            area = file.read(END)
        told = sure.value(fmt.FOLDED_KEY)
        messages, settled = saved(area, fmt.unpacked_folded(told or doubtful.value(fmt.FOLDED_KEY)))
        for key, value in messages.items():
            if not sure.has(key):
                (sure if is_whole or told is not None else doubtful).put(key, value)
                self._in_front[int.from_bytes(key[1:5], "big")] += 1
        for key in settled:
            if sure.drop(key):
                self._in_front[int.from_bytes(key[1:5], "big")] -= 1
            doubtful.drop(key)

    def _old_marker(self) -> Marker | None:
        marker = None
        try:
            marker = self._old.read_marker()
        except NotSupported:
            raise
        except StoreError:
            pass
        if marker is None:
            self._tally.problems.append("store.json is missing or damaged: what it said is lost")
        return marker

    def _refuse_newer_format(self, states: tuple[Staged, Staged]) -> None:
        value = next(filter(None, (state.value(fmt.STORE_KEY) for state in states)), None)
        if value is not None and fmt.unpacked_store(value)[0] > FORMAT:
            raise NotSupported(f"{self._old.log!r} has a newer format than this version reads: upgrade mqlite")

    def _make_log(self, store_id: str, size: int, states: tuple[Staged, Staged]) -> None:
        """It appears under its name only when it is whole."""
        path = self._new.log + ".new"
        environment = Environment(path, map_size=size)
        with Control(self._new.control) as control:
            try:
                LmdbLog.initialise(environment, store_id)
                log = RebuildLog(environment, control)
                self._fill(Rebuild(self._tally, log, states))
                log.close()
            finally:
                environment.close()
        os.rename(path, self._new.log)
        os.unlink(path + "-lock")

    def _fill(self, rebuild: Rebuild) -> None:
        tally, states = self._tally, rebuild.states
        declare(tally, states)
        for state in states:
            tally.saw(state.last_seq())
        rebuild.apply(rebuild.definitions())
        rebuild.apply(rebuild.records())
        topics = [TopicRebuild(rebuild, definition) for definition in tally.of_kind("topic")]
        for topic in topics:
            rebuild.apply(topic.orphans())
        for topic in topics:
            rebuild.apply(topic.kept())
        if states[0].value(fmt.SEQ_KEY) is None:
            tally.greatest += UNSEEN
        last_number = max(
            max(tally.definitions, default=0),
            *(counting.unpacked_last_queue(state.value(fmt.LAST_QUEUE_KEY)) for state in states),
        )
        rebuild.log.write(lambda txn: txn.start(max(tally.greatest, txn.last_seq()), last_number))

    # ------------------------------------------------------------------ what is lost
    def _tell_losses(self, states: tuple[Staged, Staged], salvage: Salvage) -> None:
        tally, (found, besides) = self._tally, states
        for key, value in salvage.unreadable[:MOST_PROBLEMS]:
            told = self._loss(key, value) if besides.value(key) is None else ""
            if told:
                tally.problems.append(told)
        for definition in tally.of_kind("queue", "subscription"):
            for queue in (definition.id, definition.id | DEAD_BIT):
                counters = found.told_counters(queue)
                missing = 0
                if counters is not None:
                    missing = counters.total + counters.timers + self._in_front[queue] - tally.messages[queue]
                if missing > 0:
                    tally.problems.append(f"{missing} messages of queue {tally.name_of(queue)!r} are lost")

    def _loss(self, key: bytes, value: bytes) -> str:
        """In words; "" of what follows from the messages."""
        kind, name = key[:1], self._tally.name_of(int.from_bytes(key[1:5], "big"))
        size = f"({len(value)} bytes)"
        if (kind == fmt.MESSAGE and len(key) == fmt.MESSAGE_KEY_BYTES) or kind == fmt.DELAYED:
            return f"message {fmt.id_of(value)} of queue {name!r} {size} is lost: it does not match its checksum"
        if kind == fmt.KEPT and len(key) == fmt.KEPT_KEY_BYTES:
            return f"message {fmt.kept_number(key)} of topic {name!r} {size} is lost: it does not match its checksum"
        if kind == rows.ROW:
            return f"row {key[rows.PREFIX_BYTES :]!r} of table {name!r} {size} is lost: it does not match its checksum"
        if kind == fmt.DEFINITION:
            return f"the settings of {shown(key[1:].decode(errors='replace'))!r} are lost"
        return ""
