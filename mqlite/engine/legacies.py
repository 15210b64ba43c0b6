"""What is done when a process dies without leaving: its last wills are published, its ephemeral subscriptions and its
requests go, and what it used may be forgotten. [25]

A legacy is a message of queue 0 that waits on a line of time of its own, at its owner: nobody
looks there for what is due. An owner is a process for the time that it uses the store, and its
number never repeats, also not in another boot; so a legacy whose owner does not live is open.
Whoever notices a death, or opens the store, settles what is open; each is gone in the commit that
does what it says, so it is done once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..codecs import BYTES
from ..errors import MessageCorrupted, MqliteError, ShutDown
from ..log import Snapshot
from ..message import DEFAULT_RANK, Record
from ..waiting import Interrupt
from .removal import drop_unique

if TYPE_CHECKING:
    from .machine import Engine

#: The queue of the whole store, and the line on which its legacies wait.
STORE, LEGACY_LINE = 0, 255


def found(engine: Engine, snapshot: Snapshot) -> Iterator[tuple[int, Record, dict[str, Any]]]:
    """(owner, record, what it says) of all legacies."""
    for key, owner, raw in list(snapshot.delayed(STORE, LEGACY_LINE)):
        with contextlib.suppress(MessageCorrupted):
            _, record = engine.log.decode_delayed(key, raw)
            yield owner, record, (record.extras or {})["legacy"]


def leave(engine: Engine, txn: Any, owner: int, said: dict[str, Any], payload: Any = (BYTES, b"")) -> int:
    """Under L: what is to be done when that process dies; its id. The caller has reserved room."""
    record = Record(payload, engine.clock.wall_ns(), extras={"legacy": said}, due=(LEGACY_LINE, owner))
    number: int = txn.delay(STORE, DEFAULT_RANK, engine.log.prepare(record))
    return number


def take(txn: Any, number: int) -> bool:
    """Under L: the legacy with that id goes; False where it is gone."""
    place = txn.place(STORE, number) if number else None
    return place is not None and txn.undelay(STORE, txn.delayed_key(STORE, place)) is not None


def withdraw(engine: Engine, number: int) -> bool:
    """The same, in one commit."""
    return engine.log.write(lambda txn: take(txn, number))


def settle(engine: Engine) -> bool:
    """Do what the dead have left to be done; False where some of it is left. By one thread at a time: the others need
    not wait for it, and publishing may notice a death itself.
    """
    held: list[bool] = []
    try:
        held.extend(map(engine.settling.acquire, (False,)))  # in C: an interrupt comes before or after
        return held[0] and _settle_all(engine)
    finally:
        if held and held[0]:
            engine.settling.release()


def _settle_all(engine: Engine) -> bool:
    with engine.log.read() as snapshot:
        legacies = [(owner, record, said) for owner, record, said in found(engine, snapshot)]
    dead = {owner for owner in {owner for owner, _, _ in legacies} if not engine.presence.is_alive(owner)}
    all_done = True
    for owner, record, said in legacies:
        if owner in dead:
            try:
                _settle(engine, record, said)
            except (ShutDown, MqliteError):
                all_done = False
    return all_done


def give_up_one(engine: Engine, number: int) -> None:
    """The legacy with that id is settled in good order, if it is still there."""
    with engine.log.read() as snapshot:
        place = snapshot.place(STORE, number)
        if place is None:
            return
        key = snapshot.delayed_key(STORE, place)
        _, record = engine.log.decode_delayed(key, snapshot.delayed_at(STORE, key))
    _settle(engine, record, (record.extras or {})["legacy"], to_the_end=True)


def give_up(engine: Engine, owner: int) -> None:
    """This process leaves in good order: its wills are void, the rest is as when it dies."""
    with engine.log.read() as snapshot:
        own = [(record, said) for by, record, said in found(engine, snapshot) if by == owner]
    for record, said in own:
        with contextlib.suppress(MqliteError):  # whoever comes next finds this process dead
            if "will" in said:
                withdraw(engine, record.id)
            else:
                _settle(engine, record, said)


def _settle(engine: Engine, record: Record, said: dict[str, Any], *, to_the_end: bool = False) -> None:
    from . import subscriptions  # they leave legacies

    def op(txn: Any) -> None:
        if not take(txn, record.id):
            return
        if "requests" in said:
            drop_unique(txn, engine.claims, said["requests"], bytes.fromhex(said["key"]))
            return
        if "used" in said:
            subscriptions.stop_using(engine, txn, said["topic"], said["used"])
            return
        definition = txn.definition_by_id(said["unsubscribe"])
        if definition is not None:
            subscriptions.remove(engine, txn, said["topic"], definition)

    if "will" in said:
        _publish(engine, record, said)
        return
    engine.log.write(op)
    if "requests" in said:
        return
    with engine.log.read() as snapshot:
        topic = engine.topics.state(said["topic"], snapshot)
    subscriptions.care(engine, topic, to_the_end=to_the_end)


def _publish(engine: Engine, record: Record, said: dict[str, Any]) -> None:
    from .commitment import Commitment
    from .publishing import Publication, Publishing

    with engine.log.read() as snapshot:
        topic = engine.topics.state(said["topic"], snapshot)
    will = dict(said["will"])
    ttl, replace = will.pop("ttl"), will.pop("replace")
    publication = Publication(
        payloads=[record.payload],
        expires=None if ttl is None else engine.timeline.after(ttl),
        replace=None if replace is None else bytes.fromhex(replace),
        **will,
    )
    commitment = Commitment(engine, f"the last will to topic {topic.name!r} cannot be published")
    commitment.store(Publishing(engine, topic, publication))
    commitment.add(_Taking(record.id))
    with contextlib.suppress(_Settled):
        commitment.run(0, Interrupt("a last will"))


class _Settled(MqliteError):
    """Somebody else has settled it."""


class _Taking:
    """The legacy goes in the commit that does what it says."""

    def __init__(self, number: int) -> None:
        self._number = number

    def check(self, txn: Any) -> int:
        """Raises _Settled."""
        if txn.place(STORE, self._number) is None:
            raise _Settled
        return 0

    def do(self, txn: Any) -> None:
        """It goes."""
        take(txn, self._number)
