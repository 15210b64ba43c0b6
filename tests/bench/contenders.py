"""What is measured, and against what: the same few verbs over each.

    put(body)  get_ack() -> body or None  put_many(bodies)  get_ack_many(count) -> how many
    wait(seconds) -> body or None         as get_ack, but waits for a message
    close()

The raw ones are what LMDB itself costs, with a transaction per call and nothing else:
no priorities, no claims, no checksums, no waking. A get there is a delete.
"""

from __future__ import annotations

import itertools
import multiprocessing.queues
import os
import queue
import struct
import time
from collections.abc import Sequence
from typing import Any, Protocol

import lmdb

import mqlite

BODY = b"x" * 100
STOP = b"stop"
_SEQ = struct.Struct(">Q")
_POLL = 0.0005  # raw LMDB has no bell: its consumers look again after this many seconds


class Contender(Protocol):
    """See the top of this module."""

    def put(self, body: bytes) -> Any: ...
    def get_ack(self) -> bytes | None: ...
    def wait(self, seconds: float) -> bytes | None: ...
    def close(self) -> None: ...


class RawLmdb:
    """py-lmdb with its default, synced commits, or as its settings say."""

    def __init__(self, folder: str, **settings: Any) -> None:
        os.makedirs(folder, exist_ok=True)
        self._env = lmdb.open(folder, map_size=8 << 30, lib_version=0, **settings)

    def put(self, body: bytes) -> None:
        with self._env.begin(write=True) as txn:
            walk = txn.cursor()
            seq = _SEQ.unpack(walk.key())[0] + 1 if walk.last() else 1
            txn.put(_SEQ.pack(seq), body, append=True)

    def put_many(self, bodies: Sequence[bytes]) -> None:
        with self._env.begin(write=True) as txn:
            walk = txn.cursor()
            seq = _SEQ.unpack(walk.key())[0] if walk.last() else 0
            for body in bodies:
                seq += 1
                txn.put(_SEQ.pack(seq), body, append=True)

    def get_ack(self) -> bytes | None:
        with self._env.begin(write=True) as txn:
            walk = txn.cursor()
            if not walk.first():
                return None
            body = walk.value()
            walk.delete()
        return body

    def get_ack_many(self, count: int) -> int:
        taken = []
        with self._env.begin(write=True) as txn:
            walk = txn.cursor()
            found = walk.first()
            while found and len(taken) < count:
                taken.append(walk.value())
                found = walk.delete()
        return len(taken)

    def wait(self, seconds: float) -> bytes | None:
        end = time.monotonic() + seconds
        while True:
            with self._env.begin() as txn:
                found = txn.cursor().first()
            if found and (body := self.get_ack()) is not None:
                return body
            if time.monotonic() >= end:
                return None
            time.sleep(_POLL)

    def close(self) -> None:
        self._env.close()


class PinnedLmdb(RawLmdb):
    """What a checkpoint needs at least: commits that nobody flushes, and a state that a read transaction keeps whole
    until the next one is on the disk. Each time that VOLUME bytes were written there is a new one.
    """

    VOLUME = 32 << 20
    _LOOKS = 64  # commits from one look at what was written to the next

    def __init__(self, folder: str) -> None:
        super().__init__(folder, sync=False, metasync=False)
        self._pin = self._env.begin()
        self._io = os.open("/proc/self/io", os.O_RDONLY | os.O_CLOEXEC)
        self._flushed_at, self._commits = self._volume(), 0

    def _volume(self) -> int:
        """Bytes that this process has written; LMDB does not tell."""
        return int(os.pread(self._io, 64, 0).split(b"wchar: ")[1].split()[0])

    def _committed(self) -> None:
        self._commits += 1
        if not self._commits % self._LOOKS and self._volume() - self._flushed_at >= self.VOLUME:
            pin = self._env.begin()
            self._env.sync(True)
            self._pin.abort()
            self._pin, self._flushed_at = pin, self._volume()

    def put(self, body: bytes) -> None:
        super().put(body)
        self._committed()

    def put_many(self, bodies: Sequence[bytes]) -> None:
        super().put_many(bodies)
        self._committed()

    def get_ack(self) -> bytes | None:
        body = super().get_ack()
        self._committed()
        return body

    def get_ack_many(self, count: int) -> int:
        taken = super().get_ack_many(count)
        self._committed()
        return taken

    def close(self) -> None:
        self._pin.abort()
        os.close(self._io)
        super().close()


class Ours:
    """mqlite's reliable side: a put is a commit, a get is receive and ack. durability: None for what is stored."""

    def __init__(self, folder: str | None, durability: str | None = None) -> None:
        self.queue: mqlite.Queue[bytes] = mqlite.Queue("bench", folder, durability=durability)
        self.put = self.queue.put
        self.put_many = self.queue.put_many

    def get_ack(self) -> bytes | None:
        return self.wait(0)

    def get_ack_many(self, count: int) -> int:
        try:
            messages = self.queue.receive(count, 0)
        except mqlite.Empty:
            return 0
        self.queue.ack_many(messages)
        return len(messages)

    def wait(self, seconds: float) -> bytes | None:
        try:
            [message] = self.queue.receive(1, seconds)
        except mqlite.Empty:
            return None
        message.ack()
        return message.body  # type: ignore[no-any-return]

    def close(self) -> None:
        self.queue.close()


class Plain:
    """The verbs of the standard library: any of its queues, and mqlite.Queue in memory."""

    def __init__(self, made: Any) -> None:
        self.queue = made
        self.put = made.put
        self.get = made.get

    def get_ack(self) -> bytes | None:
        return self.wait(0)

    def wait(self, seconds: float) -> bytes | None:
        try:
            return self.queue.get(True, seconds)  # type: ignore[no-any-return]
        except queue.Empty:
            return None

    def close(self) -> None:
        if isinstance(self.queue, multiprocessing.queues.Queue):
            self.queue.close()
            self.queue.join_thread()
        elif isinstance(self.queue, mqlite.Queue):
            self.queue.close()


class Prioritised(Plain):
    """queue.PriorityQueue as it is used: (priority, number, body), so that equal priorities stay in order."""

    def __init__(self) -> None:
        super().__init__(queue.PriorityQueue())
        numbers, put = itertools.count(), self.queue.put
        self.put = lambda body: put((0, next(numbers), body))
        get = self.queue.get
        self.get = lambda: get()[2]
