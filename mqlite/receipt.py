"""What a put gives: the id of a published message, and the fate of one that is not stored yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .checks import check_timeout


class Receipt:
    """What becomes of one message. Free for any thread."""

    __slots__ = ("_done", "_error", "_id", "_wait", "item")

    def __init__(self, item: Any, wait: Callable[[Receipt, float | None], None]) -> None:
        self._wait = wait
        self._done = False
        self._id = 0
        self._error: BaseException | None = None
        self.item = item

    @property
    def done(self) -> bool:
        """Whether the message is durable, or failed."""
        return self._done

    @property
    def error(self) -> BaseException | None:
        """Why the message was not stored, if it was not."""
        return self._error

    def result(self, timeout: float | None = None) -> int:
        """The message's id (a Published, of one that was published). Raises why it was not stored.

        From a producer: waits until it is durable, and raises Empty after `timeout` seconds. In a transaction that is
        open: raises NotCommitted.
        """
        self._wait(self, check_timeout(timeout))
        if self._error is not None:
            raise self._error
        return self._id

    def settle(self, message_id: int, error: BaseException | None) -> None:
        """Called by who stores the message, once."""
        self._id, self._error, self._done = message_id, error, True


class Published(int):
    """The id of a published message, the same in every subscription; 0 where nobody gets it and nothing keeps it.

    receivers: how many subscriptions and queues got it; 0 also for the repetition of a dedup_id.
    """

    receivers: int

    def __new__(cls, id: int, receivers: int) -> Published:  # noqa: D102
        published = super().__new__(cls, id)
        published.receivers = receivers
        return published

    def __repr__(self) -> str:
        return f"Published(id={int(self)}, receivers={self.receivers})"

    def __reduce__(self) -> Any:
        return Published, (int(self), self.receivers)
