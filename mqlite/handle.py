"""What the user opens and closes: closed at the end of its `with` block."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Handle:
    """Something with a `close`."""

    def close(self) -> None:
        """See the handle."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()
