"""How a reply finds who has called: the address in the request, and what is published to it.

Each handle that calls has an ephemeral subscription to one topic of the store that users do not see; its pattern is
the address. So a reply to somebody who is no more is stored nowhere.

    request   reply_to         the address, CALLER and a token of the handle
              correlation_id   of the call
              reply_by         when the caller gives up, if he ever does
    reply     routing_key      the address
              correlation_id   that of the request
              type             FAILED where the body is the text of an error, and the header "traceback" where it was
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .engine import Claim, Engine
from .engine.catalog import SEPARATOR
from .engine.publishing import Publication, Publishing
from .engine.replay import due_in
from .engine.topics import TopicState
from .errors import MessageTooLarge
from .message import CALLER, DEFAULT_RANK, Record, error_texts

TOPIC = f"{SEPARATOR}replies"
FAILED = "failed"
#: Seconds for which a reply is kept that its caller does not take, though he lives.
TTL = 60.0
#: Characters of an error, and of a traceback, that travel.
TEXT_MAX = 1 << 15


def is_request(record: Record) -> bool:
    """Whether it was put by a call."""
    return bool((record.extras or {}).get("reply_to", "").startswith(CALLER))


def is_awaited(engine: Engine, record: Record) -> bool:
    """Whether the caller of a request lives and has not given up, as far as is known. Two snapshots."""
    topic = _topic_for(engine, record)
    if topic is None:
        return False
    topic.refresh(engine.log)
    extras = record.extras or {}
    return bool(topic.receivers(extras["reply_to"], DEFAULT_RANK, {}))


def reply_to(engine: Engine, claim: Claim, payload: Any) -> Publishing | None:
    """The reply to a request, to be published; None where nobody waits for it. Raises MessageTooLarge."""
    size = engine.log.size_of(payload)
    limit = claim.queue.options.max_message_bytes
    if size > limit:
        raise MessageTooLarge(
            f"a reply of {size} bytes is larger than max_message_bytes={limit} of queue {claim.queue.name!r}: store it "
            "elsewhere and reply with a reference, or configure(max_message_bytes=...)"
        )
    return _publishing(engine, claim.record, payload, {})


def report_to(engine: Engine, claim: Claim, error: BaseException, encode: Callable[[Any], Any]) -> Publishing | None:
    """The same of an error."""
    text, trace = error_texts(error)
    headers = {"traceback": (trace or "")[-TEXT_MAX:]}
    return _publishing(engine, claim.record, encode((text or "")[:TEXT_MAX]), {"type": FAILED, "headers": headers})


def _publishing(engine: Engine, request: Record, payload: Any, said: dict[str, Any]) -> Publishing | None:
    topic = _topic_for(engine, request)
    if topic is None:
        return None
    asked = request.extras or {}
    extras = {**said, "routing_key": asked["reply_to"], "correlation_id": asked.get("correlation_id")}
    publication = Publication(payloads=[payload], extras=extras, expires=engine.timeline.after(TTL))
    return Publishing(engine, topic, publication)


def _topic_for(engine: Engine, request: Record) -> TopicState | None:
    """That of the replies; None where the caller has given up, or this store has never seen a call."""
    reply_by = due_in(request.extras or {}, "reply_by")
    if reply_by is not None and engine.timeline.is_past(reply_by):
        return None
    with engine.log.read() as snapshot:
        definition = snapshot.definition(TOPIC + SEPARATOR)
        return None if definition is None else engine.topics.state(definition.id, snapshot)
