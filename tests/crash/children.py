"""Child processes for tests: forked, told what to do, listened to, killed.

    def worker(talk):
        queue = mqlite.Queue("q", path)
        talk.say("ready")
        talk.hear()

    child = children.fork(worker)
    assert child.hear() == "ready"
    child.kill()

Both ends speak JSON, one value per line. An exception in the child is raised in the
parent by the next `hear` or `end`. LIMIT bounds every wait, so that a hang fails.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

LIMIT = 60.0


class Talk:
    """One end of the line between parent and child."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._read = b""

    def say(self, value: Any) -> None:
        self._end.sendall(json.dumps(value).encode() + b"\n")

    def hear(self, timeout: float = LIMIT) -> Any:
        """The other side's next value. EOFError: it is gone; TimeoutError: it says nothing."""
        until = time.monotonic() + timeout
        while b"\n" not in self._read:
            if not select.select([self._end], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError("the other process says nothing")
            try:
                more = self._end.recv(65536)
            except ConnectionResetError:
                more = b""
            if not more:
                raise EOFError("the other process is gone")
            self._read += more
        line, self._read = self._read.split(b"\n", 1)
        return json.loads(line)

    def has_word(self) -> bool:
        """Whether `hear` would not wait: the other side has said something, or is gone."""
        return bool(self._read or select.select([self._end], [], [], 0)[0])

    def close(self) -> None:
        self._end.close()


class Child:
    """A forked process, seen from its parent."""

    def __init__(self, pid: int, talk: Talk) -> None:
        self.pid = pid
        self.status: int | None = None
        self._talk = talk

    def say(self, value: Any) -> None:
        self._talk.say(value)

    def hear(self, timeout: float = LIMIT) -> Any:
        value = self._talk.hear(timeout)
        if isinstance(value, dict) and "raised in the child" in value:
            raise AssertionError(value["raised in the child"])
        return value

    def has_word(self) -> bool:
        return self._talk.has_word()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; after SIGKILL, wait until the process is gone."""
        if self.status is None:
            os.kill(self.pid, number)
            if number == signal.SIGKILL:
                self.wait()

    def wait(self, timeout: float = LIMIT) -> int:
        """The exit code; minus the number of the signal that ended it."""
        if self.status is None:
            end = os.pidfd_open(self.pid)
            try:
                poll = select.poll()
                poll.register(end, select.POLLIN)
                if not poll.poll(1000 * timeout):
                    raise TimeoutError(f"process {self.pid} does not end")
            finally:
                os.close(end)
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def end(self) -> None:
        """Wait for the end of a child that has nothing more to say."""
        try:
            said = self.hear()
        except EOFError:
            pass
        else:
            raise AssertionError(f"the child had more to say: {said!r}")
        code = self.wait()
        assert code == 0, f"the child ended with {code}"

    def drop(self) -> None:
        self.kill()
        self._talk.close()


class Children:
    """Forks, and leaves nobody behind."""

    def __init__(self) -> None:
        self._all: list[Child] = []

    def fork(self, function: Callable[..., Any], *arguments: Any) -> Child:
        """A child that runs function(talk, *arguments) and ends, without the parent's exit functions."""
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            gc.freeze()  # its collections look at what is new here; at all that pytest has, each would copy a hundred megabytes
            talk = Talk(theirs)
            code = 1
            try:
                function(talk, *arguments)
                code = 0
            except BaseException:
                try:
                    talk.say({"raised in the child": traceback.format_exc()})
                except OSError:
                    pass
            finally:
                os._exit(code)
        theirs.close()
        child = Child(pid, Talk(ours))
        self._all.append(child)
        return child

    def kill_all(self) -> None:
        for child in self._all:
            child.drop()
        self._all.clear()
