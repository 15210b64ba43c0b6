"""No fork while a process is started whose end is to be noticed by the end of a pipe.

A process that is forked between the making of the pipe and the start of the other one inherits that one's end, and
holds it open for as long as it lives: the reader would wait for it. `store.py` imports this module before it says what
it does around a fork, so a forking thread takes this lock after those of all stores, as who starts a process may hold
them.
"""

from __future__ import annotations

import os
import threading

#: Held while a process is started.
starting = threading.Lock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=starting.acquire, after_in_parent=starting.release, after_in_child=starting.release)
