"""What can be saved of a damaged store, saved into a new one.

Every record has its checksum, so each can be saved by itself:

    run.py        first all that can be read is staged: what is in the tree for sure, and what lies about
    staging.py    besides and would belong where the tree is damaged (system/salvage.py); so each record is
                  met once, in order, and memory stays flat
    declared.py   then a new log is made of it: what is declared, with names for what has lost its own,
    rebuild.py    messages where they were and under their ids, and rows;
    topics.py     at last what topics keep, with as many references as there are messages left
    tally.py      what was saved, and what is wrong

Counters and indexes follow from what is put (log/rebuild.py). The marker of the new store is written last, as ever.

At least once: what was acknowledged may still lie about where the tree is damaged, and comes back.
"""

from __future__ import annotations

import os

import attrs

from ..checks import check_durability
from ..errors import NotSupported
from ..system.structure import Progress


@attrs.frozen(kw_only=True)
class Recovery:
    """What `recover` has saved.

    messages    in queues, subscriptions and dead letters, with those that wait for a time, and schedules
    kept        messages that topics keep
    rows        of tables
    definitions queues, topics, subscriptions, bindings and tables
    problems    what is damaged and what is lost, in words, as far as that can be told; () where all was whole
    pages_read, pages_damaged   of the old file
    """

    messages: int
    kept: int
    rows: int
    definitions: int
    problems: tuple[str, ...]
    pages_read: int
    pages_damaged: int


def recover(
    path: str | os.PathLike[str],
    into: str | os.PathLike[str],
    *,
    durability: str | None = None,
    progress: Progress | None = None,
) -> Recovery:
    """Save every record that is whole from the store at `path`, damaged in whatever way, into a new store.

    into: a directory that does not exist, or is empty. durability: of the new store; None: as the old one says, or else
    "full". progress(done, total): called now and then, in pages, while the old store is read; what it raises ends this.

    Nobody may have the old store open, and nothing is written to it. Messages keep their ids, places and counts;
    what was claimed is ready. Where pages are damaged, messages that were acknowledged may come back, and rows that
    were changed may be older; no message is in a queue twice. A queue whose settings are lost has default ones, and a
    name such as "recovered-7" if that is lost, too.

    After a kill or a power cut `into` is not there, or empty, or raises StoreError when opened, or is whole; delete it
    before the next try. When this has returned, the new store is on the disk.

    Raises StoreError (somebody has the old store open, or `into` cannot be used), StoreFull, NotSupported (a newer
    format); then `into` is as it was. Cost: reads the old log once or twice, and writes what is saved twice.
    """
    check_durability(durability)
    try:
        from .run import recovered
    except ImportError as error:
        raise NotSupported(f"stores on disk need a POSIX system ({error}): there is nothing to recover") from error
    return Recovery(**recovered(os.fspath(path), os.fspath(into), durability, progress))
