"""How the log gets to the disk: three levels, one of which a store is made with.

    full         each commit is flushed by LMDB before it returns (system/level.py)
    checkpoint   nobody waits for the disk; a power cut takes back what came after the last checkpoint
    process      nobody waits for the disk; a power cut may damage the store, and that is noticed

Nothing above the log can tell them apart. The argument why each is safe: docs/durability.md.
"""

from __future__ import annotations

from ..errors import StoreCorrupted
from ..system.control import CHECKPOINT, MAPPED, WRITTEN, Control, meta_pages, page_size_in, put_back
from ..system.directory import newest_transaction
from ..system.environment import PAGE
from ..system.level import Level
from ..system.mounts import keeps_blocks
from .checkpoint import Checkpoints
from .process import Unsynced


def level_of(durability: str, control: Control, log: str) -> Level:
    """The level of a store's log, as one process uses it. The words of log.control are those of this boot."""
    if durability == "checkpoint":
        return Checkpoints(control, log)
    if durability == "process":
        return Unsynced(control, log)
    return Level()


def is_mapped(durability: str, log: str) -> bool:
    """Whether the log is to be written through a map, as long as this boot lasts."""
    return durability == "process" and _can_be_mapped(log)


def may_pass_by(durability: str, control: Control, log: str) -> bool:
    """Whether plain messages may pass by the log, in a file of their own, which is mapped (log/front.py)."""
    return bool(control.words[MAPPED]) or (durability == "full" and _can_be_mapped(log))


def _can_be_mapped(log: str) -> bool:
    """Not where it was made on a machine with pages of another size, by which the room for it is counted."""
    return keeps_blocks(log) and page_size_in(meta_pages(log)) == PAGE


def after_a_stop(durability: str, control: Control, log: str) -> bool:
    """The machine may have stopped since the log was written: make of it what the level promises, as its first user in
    this boot. Returns whether it must be looked through before it is opened. Raises StoreCorrupted.
    """
    if durability == "full":
        return False
    mark = control.mark
    if mark is None:
        raise StoreCorrupted(
            f"the marks beside {log!r} (log.control) are missing or damaged, so nobody knows whether it was on the "
            "disk when the machine stopped: restore the store from a backup, or save its messages with "
            "mqlite.recover(path, into=...)"
        )
    if mark.kind == CHECKPOINT:
        if newest_transaction(log) < mark.transaction:
            raise StoreCorrupted(
                f"{log!r} is older than its last checkpoint, so it was replaced: restore all files of a store together"
            )
        put_back(log, mark.metas)
    return mark.kind == WRITTEN
