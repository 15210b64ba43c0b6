"""LMDB without any of the store's care: the measure of what the simulation of power cuts can find."""

from __future__ import annotations

import functools
import os
import random
import zlib
from collections.abc import Callable

import lmdb

MAP_BYTES = 8 << 20
Contents = dict[bytes, bytes]


@functools.lru_cache(maxsize=1)
def states(seed: str, count: int) -> list[Contents]:
    """The contents after each commit; the first is empty."""
    rnd = random.Random(seed)
    contents: Contents = {}
    found: list[Contents] = [{}]
    for number in range(1, count + 1):
        contents.pop(b"number of the state %d" % (number - 1), None)
        for change in range(rnd.randint(1, 3)):
            if contents and rnd.random() < 0.45:
                del contents[rnd.choice(sorted(contents))]
            else:
                body = rnd.randbytes(rnd.choice((20, 100, 700, 3000, 9000)))
                contents[b"%06d %d" % (number, change)] = zlib.crc32(body).to_bytes(4, "big") + body
        contents[b"number of the state %d" % number] = b""
        found.append(dict(contents))
    return found


def opened(path: str, sync: bool) -> lmdb.Environment:
    return lmdb.open(path, subdir=False, map_size=MAP_BYTES, sync=sync, lib_version=0)


def run(
    path: str, seed: str, count: int, sync: bool, begun: Callable[[int], None], returned: Callable[[int], None]
) -> None:
    """One commit for each state."""
    environment = opened(path, sync)
    environment.sync(True)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(folder)  # the name of the file
    os.close(folder)
    returned(0)
    found = states(seed, count)
    for number in range(1, count + 1):
        begun(number)
        with environment.begin(write=True) as txn:
            change(txn, found[number - 1], found[number])
        returned(number)
    environment.close()


def change(txn: lmdb.Transaction, before: Contents, after: Contents) -> None:
    for key in before.keys() - after.keys():
        txn.delete(key)
    for key in after.keys() - before.keys():
        txn.put(key, after[key])


def contents(environment: lmdb.Environment) -> Contents:
    with environment.begin() as txn:
        found = {}
        for key, value in txn.cursor():
            found[bytes(key)] = bytes(value)
            if len(found) > 100_000:
                raise AssertionError("endless")
        if len(found) != txn.stat()["entries"]:
            raise AssertionError("another number of entries")
        return found
