"""Read transactions as context managers: one state of an LMDB environment."""

from __future__ import annotations

from typing import Any, Self

import lmdb

from .environment import Environment


class LmdbView:
    """Entered, it begins and holds a reader's token; left, it ends. Kept short, for it keeps old pages alive."""

    _txn: Any = None  # py-lmdb's stubs allow for memoryviews, which are never asked for here
    _held: list[None] = []  # noqa: RUF012 - never changed: for who was interrupted before he had his own

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._held: list[None] = []  # the token of a reader that is inside

    def __enter__(self) -> Self:
        try:
            self._txn = self._environment.begin_read(self._held)
        except BaseException:  # an interrupt: the token is not left to the collector of garbage
            self._end()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        try:
            self._end()
        except BaseException:  # an interrupt, perhaps before it had begun
            self._end()
            raise
        if error is not None and isinstance(error, lmdb.Error):
            raise self._environment.failed(error) from error

    def _end(self) -> None:
        if self._held:
            txn, self._txn = self._txn, None
            self._environment.end_read(self._held, txn)

    __del__ = _end  # an interrupt may strike where the block is entered or left


class LmdbGlance:
    """The same without a token (1.5 us less), for who holds the write lock of the environment's `sheltered_by`."""

    _txn: Any = None

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def begin(self) -> None:
        """As a block does at its beginning."""
        self._txn = self._environment.begin_glance()

    def end(self) -> None:
        """The same at its end."""
        self._txn.abort()

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        self.end()
        if error is not None and isinstance(error, lmdb.Error):
            raise self._environment.failed(error) from error
