"""A lock of all processes (flock(2)) that is taken at once, or not, with the GIL in hand.

`fcntl.flock` lets go of the GIL in each call. Where many threads of a process do no more under the lock than that
takes, each then meets another one that has to wait for its own lock.
"""

from __future__ import annotations

import ctypes
import fcntl

#: flock(fd, how): 0, or -1 where another process has it. To be called once to lock and once to unlock for each message
#: that comes or goes, so without a function around it.
flock = ctypes.PyDLL(None).flock
AT_ONCE = fcntl.LOCK_EX | fcntl.LOCK_NB
