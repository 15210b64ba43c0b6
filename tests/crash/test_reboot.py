"""After a crash of the machine nobody holds anything: every message that was not acknowledged is ready."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest

import mqlite
import mqlite.system.directory

GUARD = 60.0
LEVEL = "full"  # the others promise less, see conformance/test_durability.py


def crash_with_claims(talk: Any, path: str) -> None:
    """Leaves some acknowledged, some claimed, some given back, a sleeper and a shutdown behind."""
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    for number in range(10):
        queue.put(number, priority=number % 2)
    messages = queue.receive(6, timeout=GUARD)  # 1 3 5 7 9 0
    messages[0].ack()
    messages[1].nack()
    messages[2].release()
    assert queue.get(timeout=GUARD) == 3
    other: mqlite.Queue[Any] = mqlite.Queue("other", path)
    other.put("waits")
    other.shutdown()
    talk.say("ready")
    talk.hear(3600)


LEFT = [5, 7, 9, 0, 2, 4, 6, 8]


def check_after_reboot(path: str) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    assert queue.check() == []
    assert (queue.stats().ready, queue.stats().claimed) == (len(LEFT), 0)
    messages = queue.receive(100, timeout=0)
    assert [message.body for message in messages] == LEFT
    assert {message.delivery_count for message in messages} == {0}
    queue.ack_many(messages)
    other: mqlite.Queue[Any] = mqlite.Queue("other", path)
    assert not other.is_shutdown
    assert other.get(timeout=0) == "waits"
    assert queue.check() == []
    queue.close()
    other.close()


def test_when_the_volatile_folder_is_gone_all_messages_are_ready(path: str, children: Any) -> None:
    child = children.fork(crash_with_claims, path)
    child.hear()
    child.kill()
    shutil.rmtree(os.path.join(path, "run"))
    check_after_reboot(path)


def test_in_another_boot_all_messages_are_ready_and_the_old_claims_are_removed(path: str, children: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    child = children.fork(crash_with_claims, path)
    child.hear()
    child.kill()
    before = os.listdir(os.path.join(path, "run"))
    monkeypatch.setattr(mqlite.system.directory, "boot_id", lambda: "another boot")
    check_after_reboot(path)
    after = os.listdir(os.path.join(path, "run"))
    assert len(after) == 1
    assert not set(before) & set(after)


def test_a_reboot_with_damaged_claims_needs_no_repair(path: str, children: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims are written without any flush: after a power cut their file may hold anything."""
    child = children.fork(crash_with_claims, path)
    child.hear()
    child.kill()
    [session] = os.listdir(os.path.join(path, "run"))
    with open(os.path.join(path, "run", session, "claims.mdb"), "r+b") as file:
        file.write(os.urandom(65536))
    monkeypatch.setattr(mqlite.system.directory, "boot_id", lambda: "another boot")
    check_after_reboot(path)


def test_a_copy_of_the_store_starts_without_the_claims_of_the_original(path: str, children: Any) -> None:
    child = children.fork(crash_with_claims, path)
    child.hear()
    copy = path + ".copy"
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns("owners", "bells"))
    child.kill()
    check_after_reboot(copy)
