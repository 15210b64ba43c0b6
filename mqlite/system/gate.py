"""The gate: a lock of all processes, a flock(2) on the data file, which comes behind the write lock of the own threads.

Some take it for a few microseconds, with the GIL in hand: `fcntl.flock` lets go of the GIL in each call. Where many
threads of a process do no more under the lock than that takes, each then meets another one that has to wait for its own
lock.
"""

from __future__ import annotations

import ctypes
import fcntl
import time

from ..errors import StoreError

_flock, _LOCK, UNLOCK = fcntl.flock, fcntl.LOCK_EX, fcntl.LOCK_UN
#: 0, or -1 where another process has it. To be called once to lock and once to unlock for each message that comes or
#: goes, so without a function around it.
flock_quickly, _AT_ONCE = ctypes.PyDLL(None).flock, fcntl.LOCK_EX | fcntl.LOCK_NB
#: How often who is quick tries again to have the gate, some 10 us, before he pauses; for how many seconds, which take
#: 80 us; and how often he does all that before he waits for it. (20 times: 0.85 of the messages where one commits.)
_TRIES, _PAUSE, _PAUSES = 30, 20e-6, 2


class Gated:
    """The part of an environment that is its gate. All of it for who holds the write lock, and is under the guard that
    opens the gate.

    is_open: whether LMDB has it open in this process, and with it the gate, `_gate`. _gated: whether it is held here,
    or may be; _is_quick: and was taken quickly.
    """

    path: str
    is_open: bool
    _gate: int
    _gated: bool
    _is_quick: bool

    def lock_gate_quickly(self) -> bool:
        """`lock_gate` for who is in and out in a few microseconds, in which the GIL is not let go of. False where it is
        not open.

        So is mostly who has it already: to be put to sleep and woken takes longer than that. (2 processes that put and
        2 that receive: 1.27 times the messages; 100 tries bring no more.) Who has it longer, for a fold, goes on
        afterwards, and would wake all who wait each time he gives it back, only to have it again before they can come:
        so they pause first. (1.1 times the messages; they waited 1.5 ms on the average.)
        """
        if not self.is_open:
            return False
        self._gated = self._is_quick = True
        if flock_quickly(self._gate, _AT_ONCE):
            for _ in range(_PAUSES):
                for _ in range(_TRIES):
                    if not flock_quickly(self._gate, _AT_ONCE):
                        return True
                time.sleep(_PAUSE)
            self.lock_gate()
        return True

    def lock_gate(self) -> None:
        """Alone among all processes, for who has entered `with env.write_lock, env: ...` and finds it open, until he
        leaves.
        """
        self._gated = True
        try:
            _flock(self._gate, _LOCK)
        except OSError as error:
            self._gated = False
            raise StoreError(f"{self.path!r} cannot be locked ({error.strerror}): use a local file system") from error

    def _open_gate(self) -> None:
        if self._gate >= 0:
            if self._is_quick:
                flock_quickly(self._gate, UNLOCK)
            else:
                _flock(self._gate, UNLOCK)
        self._gated = self._is_quick = False
