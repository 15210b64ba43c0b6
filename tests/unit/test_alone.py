"""One plain message in or out, without the group: the same as with it, also where something comes in between."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from damage import Spoilt, pages_in_use

import mqlite
from mqlite.system.pages import LEAF

LEVEL = "full"
#: Of a page, where LMDB says what it is.
FLAGS_AT = 10


class Interrupted:
    """A codec that does something else first, once."""

    name = "interrupted"

    def __init__(self) -> None:
        self.first: Any = None

    def encode(self, body: Any) -> bytes:
        first, self.first = self.first, None
        if first is not None:
            first()
        return bytes(body["size"])

    def decode(self, data: bytes) -> Any:
        return {"size": len(data)}


def test_a_put_that_is_under_way_goes_by_the_new_limit(path: str) -> None:
    codec = Interrupted()
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path, codec=codec)
    queue.put({"size": 60})
    codec.first = lambda: queue.configure(maxbytes=100, overflow="reject")
    with pytest.raises(mqlite.Full):
        queue.put({"size": 60})
    assert queue.qsize() == 1


@pytest.mark.parametrize("how", ["put", "ack"])
def test_a_damaged_page_is_told_in_our_words(path: str, how: str) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put_many(["x" * 300] * 100)
    [message] = queue.receive()
    log = f"{path}/log.mdb"
    spoilt = Spoilt(log)
    good = {}
    for number in pages_in_use(log)[2:]:
        page = bytearray(good.setdefault(number, spoilt.read(number)))
        if page[FLAGS_AT] == LEAF:
            struct.pack_into("=H", page, FLAGS_AT, 0x40)
            spoilt.write(number, bytes(page))
    with pytest.raises(mqlite.StoreCorrupted):
        queue.put("y") if how == "put" else message.ack()
    for number, page in good.items():
        spoilt.write(number, page)
    spoilt.close()
    queue.put("y")
    message.ack()
    assert queue.qsize() == 100
    assert queue.check() == []
