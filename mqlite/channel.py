"""One queue of one open store, as all its handles use it: what goes in, and how bodies are encoded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict

import attrs

from .checks import LIVE_STATES, check_delay, check_eta, check_key, check_states, check_ttl
from .codecs import BodyCodec, check_json
from .engine import Claim, QueueState, Refused
from .engine.local import LocalEngine
from .errors import Full, MessageTooLarge, SettingsMismatch
from .lease import Accept, Receiver, is_accepted
from .log import DEAD_BIT, Batch, Draft
from .message import UNGROUPED, Due, Marks, Record, Terms, digest, group_key, marks_of_group
from .options import UNSET, Named, QueueOptions
from .store import Store, open_store, release, retain
from .waiting import Interrupt


class PutOptions(TypedDict, total=False):
    """What can be said of a message that is put, besides its priority; see `Queue.put`."""

    delay: float | None
    eta: datetime | float | None
    ttl: float | None
    group: str | None
    headers: Mapping[str, Any] | None
    type: str | None
    dedup_id: str | None
    replace_key: str | None
    unique: str | None
    unique_states: Iterable[str]
    reply_to: str | None
    correlation_id: str | None


_PUT_OPTIONS = frozenset(PutOptions.__annotations__)
_RARE = frozenset({"delay", "eta", "dedup_id", "replace_key", "unique", "unique_states"})
_NOTHING = [None, None, None]
#: (extras, due, marks, terms) of a record
Said = tuple[dict[str, Any] | None, Due | None, Marks | None, Terms | None]
NOTHING_SAID: Said = (None, None, None, None)


class Channel:
    """A declared queue, its store, and the codec of this process for it.

    Holds one reference to the store, until `close`. Pickles as path, name and codec,
    and opens the store anew where it is unpickled; stateless otherwise.
    """

    def __init__(self, store: Store, state: QueueState, codec: BodyCodec) -> None:
        self.store = store
        self.engine = store.engine
        self.state = state
        self.codec = codec
        self.decode: Callable[[Any], Any] = _identity if store.in_memory else codec.decode
        self.encode: Callable[[Any], Any] = _identity if store.in_memory else codec.encode
        self.encode_all: Callable[[Iterable[Any]], list[Any]] = list if store.in_memory else codec.encode_all
        self.decode_all: Callable[[Sequence[Any]], list[Any]] = list if store.in_memory else codec.decode_all
        self.accept: Accept | None = None  # the user's filter, of a subscription, set before the channel is used
        self._reference = [store]  # popped by the one thread that closes

    @classmethod
    def open(cls, store: Store, name: str, named: dict[str, Any], codec: object) -> Channel:
        """The queue of that name. Takes over one reference to `store`. Raises SettingsMismatch."""
        try:
            state = store.engine.catalog.declare(name, named)
            backoff = state.options.backoff
            if isinstance(backoff, Named) and backoff.function is None:
                raise SettingsMismatch(
                    f"queue {name!r} was made with the function {backoff.name!r} as its backoff: pass backoff=, "
                    "or change it with configure(backoff=...)"
                )
            return _channel(store, state, codec_for(codec, state.options.codec, f"queue {state.name!r}"))
        except BaseException:
            release(store)
            raise

    def dead(self) -> Channel:
        """The channel of the queue's dead letters, with a reference of its own."""
        return channel_on(self.store, self.engine.catalog.dead_of(self.state), self.codec)

    def close(self) -> None:
        """Give the reference to the store back, once."""
        with contextlib.suppress(IndexError):
            release(self._reference.pop())

    def __reduce__(self) -> Any:
        if self.store.path is None:
            raise TypeError(
                f"queue {self.state.name!r} is in memory and cannot be sent to another process: give it a path"
            )
        origin = self.engine.catalog.known(self.state.id & ~DEAD_BIT) or self.state
        backoff = origin.options.backoff
        function = backoff.function if isinstance(backoff, Named) else None
        return _reopen, (
            self.store.path,
            self.state.origin,
            self.codec.codec,
            self.state.is_dead,
            function,
            self.accept,
        )

    def receiver(self, on_end: Callable[[Sequence[Claim]], None] | None = None) -> Receiver:
        """What makes messages of claims, for one handle."""
        return Receiver(self.engine, self.encode, self.decode, self.decode_all, self.accept, on_end)

    def read(self, claim: Claim) -> Any:
        """The body of a claimed message. Raises CodecError, Refused."""
        body = self.decode(claim.payload)
        if self.accept is not None and not is_accepted(self.engine, claim, body, self.accept):
            raise Refused
        return body

    # ------------------------------------------------------------------ putting
    def due(self, delay: float | None, eta: datetime | float | None) -> Due | None:
        """When a message put now is due; None: at once."""
        if delay is not None and eta is not None:
            raise ValueError("delay and eta say the same in two ways: give one of them")
        if eta is not None:
            return self.engine.timeline.at(check_eta(eta))
        return None if delay is None else self.engine.timeline.after(check_delay(delay))

    def said(self, rank: int, options: PutOptions) -> Said:
        """What is said of a message, checked and made ready for `draft`. Raises TypeError, ValueError, CodecError."""
        for name in options:
            if name not in _PUT_OPTIONS:
                raise TypeError(f"a message has no {name!r}: it may have {', '.join(sorted(_PUT_OPTIONS))}")
        extras = self.extras(options)
        marks = self.marks(rank, options.get("group"), options.get("ttl"))
        if _RARE.isdisjoint(options):
            return extras, None, marks, None
        replace_key, unique, dedup_id = options.get("replace_key"), options.get("unique"), options.get("dedup_id")
        if replace_key is not None:
            marks = (marks or Marks())._replace(replace=digest(check_key(replace_key, "replace_key")))
        terms = None
        if unique is not None:
            marks = (marks or Marks())._replace(unique=digest(check_key(unique, "unique")))
            terms = Terms(unique_states=check_states(options.get("unique_states", LIVE_STATES)))
        elif "unique_states" in options:
            raise ValueError(
                "unique_states says which messages with the same unique key are in the way: give unique, too"
            )
        if dedup_id is not None:
            terms = attrs.evolve(terms or Terms(), dedup=digest(check_key(dedup_id, "dedup_id")))
        return extras, self.due(options.get("delay"), options.get("eta")), marks, terms

    @staticmethod
    def extras(options: PutOptions) -> dict[str, Any] | None:
        """The parts of a message that are stored as they are, checked; None where there are none."""
        extras: dict[str, Any] = {}
        headers = options.get("headers")
        if headers is not None:
            if not isinstance(headers, Mapping):
                raise TypeError(f"headers is a dict, not {headers!r}")
            extras["headers"] = check_json(dict(headers), "headers")
        for name in ("type", "group", "reply_to", "correlation_id"):
            text = options.get(name)
            if text is not None:
                if not isinstance(text, str):
                    raise TypeError(f"{name} is a str or None, not {text!r}")
                extras[name] = text
        return extras or None

    def marks(self, rank: int, group: str | None, ttl: float | None) -> Marks | None:
        """What a new message is found by."""
        if group is None and ttl is None and not self.state.marks_all:
            return None
        options = self.state.options
        if group is not None:
            check_key(group, "group")
            if options.order == "lifo":
                raise ValueError(
                    f"queue {self.state.name!r} is last in, first out, and a group is in order: leave group out"
                )
        seconds = options.ttl if ttl is None else check_ttl(ttl)
        if group is not None and seconds is None and options.aging is None:
            return marks_of_group(group)
        return Marks(
            group=group_key(group) if group is not None else UNGROUPED if options.fair else None,
            expires=None if seconds is None else self.engine.timeline.after(seconds),
            rank=None if options.aging is None else rank,
        )

    def draft(
        self,
        item: Any,
        extras: dict[str, Any] | None,
        due: Due | None = None,
        marks: Marks | None = None,
        terms: Terms | None = None,
    ) -> Draft:
        """A message checked, encoded and ready to be put. Raises CodecError, MessageTooLarge."""
        return self.drafted(self.encode(item), extras, due, marks, terms)

    def drafted(
        self,
        payload: Any,
        extras: dict[str, Any] | None,
        due: Due | None = None,
        marks: Marks | None = None,
        terms: Terms | None = None,
    ) -> Draft:
        """The same of a body that is encoded already."""
        return self.engine.log.prepare(self.record(payload, extras, due, marks, terms))

    def record(
        self,
        payload: Any,
        extras: dict[str, Any] | None,
        due: Due | None = None,
        marks: Marks | None = None,
        terms: Terms | None = None,
    ) -> Record:
        """A message put now, of a body that is encoded already. Raises MessageTooLarge."""
        self._check_size(self.engine.log.size_of(payload))
        return Record(payload, self.engine.clock.wall_ns(), 0, 0, 0, extras, due, marks, terms)

    def payload(self, item: Any) -> Any:
        """A body, encoded. Raises CodecError, MessageTooLarge."""
        payload = self.encode(item)
        self._check_size(self.engine.log.size_of(payload))
        return payload

    def _check_size(self, size: int) -> None:
        if size > self.state.options.max_message_bytes:
            raise self._too_large(size)

    def put_one(self, item: Any, rank: int, timeout: float | None, interrupt: Interrupt) -> int:
        """Store a message of which nothing more is said; its id. Raises Full, ShutDown, StoreFull, CodecError,
        MessageTooLarge.
        """
        if self.state.is_plain:
            payload = self.encode(item)
            if len(payload[1]) > self.state.options.max_message_bytes:
                raise self._too_large(len(payload[1]))
            stored = self.engine.put_alone(self.state, rank, payload)
            if stored:
                return stored
            draft = self.drafted(payload, None)
        else:
            draft = self.draft(item, None)
        if self.state.options.maxbytes:  # it may be one that can never fit
            return self.put([(rank, draft)], timeout, interrupt)[0]
        number = self.engine.put_one(self.state, rank, draft, timeout, interrupt)
        if number is None:
            raise self._full()
        return number

    def put(self, ranked: list[tuple[int, Draft]], timeout: float | None, interrupt: Interrupt) -> list[int]:
        """Store all (rank, draft) in one commit. Raises Full, ShutDown, StoreFull, ValueError."""
        if not ranked:
            return []
        self.engine.check_can_fit(self.state, [draft for _, draft in ranked])
        ids = self.engine.put(self.state, ranked, timeout, interrupt)
        if ids is None:
            raise self._full()
        return ids

    def put_many(
        self, items: Iterable[Any], rank: int, said: Said, timeout: float | None, interrupt: Interrupt
    ) -> list[int]:
        """Store all, of which the same is said, in one commit. Raises as `put`, CodecError, MessageTooLarge."""
        extras, *rest = said
        if rest != _NOTHING:
            return self.put([(rank, self.draft(item, *said)) for item in items], timeout, interrupt)
        payloads = self.encode_all(items)
        count, now_ns = len(payloads), self.engine.clock.wall_ns()
        batch = self.engine.log.prepare_all([rank] * count, payloads, [now_ns] * count, [extras] * count)
        self._check_size(batch.largest)
        return self._put_batch(batch, timeout, interrupt)

    def put_each(
        self,
        ranks: Sequence[int],
        payloads: Sequence[Any],
        times: Sequence[int],
        said: Sequence[Said],
        timeout: float | None,
        interrupt: Interrupt,
    ) -> list[int]:
        """Store all, of each of which something else may be said, in one commit. payloads: as `payload` gives them;
        times: when they were put. Raises as `put`.
        """
        log = self.engine.log
        extras = [each[0] for each in said]
        if said.count(NOTHING_SAID) < len(said) and any(rest != _NOTHING for _, *rest in said):
            columns = zip(ranks, payloads, times, said, strict=True)
            drafts = [(rank, Record(payload, time, 0, 0, 0, *each)) for rank, payload, time, each in columns]
            return self.put([(rank, log.prepare(record)) for rank, record in drafts], timeout, interrupt)
        return self._put_batch(log.prepare_all(ranks, payloads, times, extras), timeout, interrupt)

    def _put_batch(self, batch: Batch, timeout: float | None, interrupt: Interrupt) -> list[int]:
        options = self.state.options
        if options.maxbytes or 0 < options.maxsize < len(batch):  # they may never fit
            drafts = map(self.engine.log.prepare, batch.records())
            return self.put(list(zip(batch.ranks, drafts, strict=True)), timeout, interrupt)
        if not batch:
            return []
        ids = self.engine.put_all(self.state, batch, timeout, interrupt)
        if ids is None:
            raise self._full()
        return ids

    def _too_large(self, size: int) -> MessageTooLarge:
        return MessageTooLarge(
            f"a body of {size} bytes is larger than max_message_bytes={self.state.options.max_message_bytes} "
            f"of queue {self.state.name!r}: store it elsewhere and put a reference, or configure(max_message_bytes=...)"
        )

    def _full(self) -> Full:
        return Full(
            f"queue {self.state.name!r} has no room (maxsize={self.state.options.maxsize}, "
            f"maxbytes={self.state.options.maxbytes}): take some messages, or wait with a timeout"
        )


class LocalChannel(Channel):
    """A channel of a store in memory: no codec, and a short way for a plain message."""

    engine: LocalEngine

    def put_one(self, item: Any, rank: int, timeout: float | None, interrupt: Interrupt) -> int:
        """As Channel.put_one."""
        if self.state.options.maxbytes:  # it may be one that can never fit
            return super().put_one(item, rank, timeout, interrupt)
        if (type(item) is bytes or type(item) is str) and len(item) > self.state.options.max_message_bytes:
            raise self._too_large(len(item))
        number = self.engine.put_plain(self.state, rank, item, timeout, interrupt)
        if number is None:
            raise self._full()
        return number


def _reopen(
    path: str, name: str, codec: object, dead: bool, backoff: Callable[[int], float] | None, accept: Accept | None
) -> Channel:
    """A pickled channel again, in this process."""
    named = {} if backoff is None else {"backoff": backoff}
    channel = Channel.open(open_store(path), name, named, codec)
    channel.accept = accept
    if not dead:
        return channel
    letters = channel.dead()
    channel.close()
    return letters


def channel_at(
    path: str | os.PathLike[str] | None,
    name: str,
    named: dict[str, Any],
    codec: object,
    durability: str | None,
    max_store_bytes: int | None,
) -> Channel:
    """The queue `name` of the store at `path`; bad options are told before a store is made."""
    QueueOptions(**named)
    return Channel.open(open_store(path, durability=durability, max_store_bytes=max_store_bytes), name, named, codec)


def channel_on(store: Store, state: QueueState, codec: BodyCodec) -> Channel:
    """A channel of a queue that is known, with a reference of its own to the store."""
    retain(store)
    return _channel(store, state, codec)


def _channel(store: Store, state: QueueState, codec: BodyCodec) -> Channel:
    return (LocalChannel if store.in_memory else Channel)(store, state, codec)


def _identity(body: Any) -> Any:
    return body


def codec_for(codec: object, stored: str, what: str) -> BodyCodec:
    """The codec that the user named, or the stored one where it need not be named. what: whose. Raises
    SettingsMismatch.
    """
    if codec is not UNSET:
        return BodyCodec(codec)
    if stored == "json":
        return BodyCodec("json")
    if stored == "pickle":
        raise SettingsMismatch(
            f"the bodies of {what} are pickled, and reading them can run code: pass codec='pickle' if you trust the "
            "store"
        )
    raise SettingsMismatch(f"{what} was made with the codec {stored!r}: pass codec= with one like it")
