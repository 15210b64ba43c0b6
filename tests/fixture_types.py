"""What the fixtures of conftest.py are, as types."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import mqlite

MakeQueue = Callable[..., mqlite.Queue[Any]]
InThread = Callable[..., Future[Any]]
UntilWaiting = Callable[..., None]
Eventually = Callable[[Callable[[], object]], None]
