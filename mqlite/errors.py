"""Every error that mqlite raises, with one root.

Each message says what happened, to which queue or store, and what to do next.
`lmdb.Error` never leaves the package: `system/translation.py` translates it.
"""

from __future__ import annotations

import queue as _stdlib
import sys


class MqliteError(Exception):
    """The root of all errors of this package (`ShutDown` apart, see there)."""


class Empty(MqliteError, _stdlib.Empty):
    """No message came within the time allowed; `except queue.Empty` catches it."""


class CallTimeout(Empty, TimeoutError):
    """Nobody answered a call within its timeout."""


class CallFailed(MqliteError):
    """The function that was to answer a call raised.

    error: what it raised, as a text; traceback: where, as a text, or None.
    """

    def __init__(self, text: str, error: str = "", traceback: str | None = None) -> None:
        super().__init__(text)
        self.error = error
        self.traceback = traceback

    def __reduce__(self) -> tuple[type[CallFailed], tuple[str, str, str | None]]:
        return type(self), (str(self), self.error, self.traceback)


class Full(MqliteError, _stdlib.Full):
    """The queue holds `maxsize` messages; `except queue.Full` catches it."""


if sys.version_info >= (3, 13):
    ShutDown = _stdlib.ShutDown
else:

    class ShutDown(MqliteError):
        """The queue was shut down. From Python 3.13 on this *is* `queue.ShutDown`."""


class Closed(MqliteError):
    """The queue, consumer, producer or broker was closed before this call."""


class NotClaimed(MqliteError):
    """The message cannot be settled: peeked at, settled before, or claimed by another process."""


class LeaseLost(MqliteError):
    """The claim was lost (it timed out, or its consumer was closed); nothing was changed."""


class Conflict(MqliteError):
    """A transaction lost a race: what it had read or expected was changed by another one. Nothing was changed."""


class NotCommitted(MqliteError):
    """A message that was put in a transaction has no id: that is still open, or was rolled back."""


class AlreadyDecided(MqliteError):
    """A prepared message was committed or rolled back before, or is dead."""


class AlreadyClaimed(MqliteError):
    """Somebody holds the message: it cannot be cancelled or changed until it is given back."""


class QueueLocked(MqliteError):
    """Another consumer has the queue for itself (mode="exclusive" or "failover")."""


class OutOfRange(MqliteError, ValueError):
    """A position from which a topic cannot replay: what was there is not kept any more, or was never published."""


class Unroutable(MqliteError):
    """Nobody subscribes to a message that was published with mandatory=True; it was not stored."""


class NoSuchSubscription(MqliteError, LookupError):
    """A topic has no subscription of that name (any more)."""


class CodecError(MqliteError):
    """The codec cannot carry this body, or cannot read what is stored."""


class MessageTooLarge(MqliteError, ValueError):
    """The body has more bytes than the queue's max_message_bytes."""


class SettingsMismatch(MqliteError):
    """A queue was opened with another value than the one stored for it."""


class NotSupported(MqliteError):
    """This version, platform or store cannot do what was asked."""


class StoreError(MqliteError):
    """The store on disk cannot be used as it is."""


class StoreFull(StoreError):
    """There is no room for the message. Messages can still be taken and acknowledged."""


class StoreCorrupted(StoreError):
    """The store on disk is damaged; it is never served as if it were whole."""


class MessageCorrupted(MqliteError):
    """One stored message does not match its checksum; it was moved to the dead-letter queue."""


class NetworkFilesystemWarning(UserWarning):
    """The store lies on a network file system, where locks and shared memory are not reliable."""
