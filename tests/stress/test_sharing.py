"""Many handles, one store: opened once per process, made once among processes, closed with the last handle."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Any

import mqlite

GUARD = 60.0


def test_two_opens_of_one_path_in_a_process_share_everything(path: str) -> None:
    first: mqlite.Queue[Any] = mqlite.Queue("q", path)
    second: mqlite.Queue[Any] = mqlite.Queue("q", os.path.join(os.path.dirname(path), ".", os.path.basename(path)))
    link = path + ".link"
    os.symlink(path, link)
    broker = mqlite.open(link)
    third = broker.queue("q")
    woken: list[Any] = []
    thread = threading.Thread(target=lambda: woken.append(third.get(timeout=GUARD)))
    thread.start()
    first.put("for all")
    thread.join(GUARD)
    assert woken == ["for all"]
    first.put("next")
    [message] = second.receive()
    first.close()
    broker.close()
    assert second.stats().claimed == 1
    message.ack()
    second.close()


def test_closing_a_queue_closes_its_dead_letter_queue(path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put("job")
    queue.receive()
    assert queue.dead.qsize() == 0
    queue.close()  # the last handle: what this process holds goes back

    def other(talk: Any) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        talk.say([message.delivery_count for message in mine.receive(timeout=GUARD)])
        mine.close()

    child = children.fork(other)
    assert child.hear() == [0]
    child.end()


def test_processes_that_make_the_same_store_at_once_all_find_one(tmp_path: Any, children: Any) -> None:
    processes = 8
    for number in range(6):
        path = str(tmp_path / f"{number}.mq")

        def maker(talk: Any, child: int, path: str) -> None:
            talk.hear()
            queue: mqlite.Queue[Any] = mqlite.Queue("q", path, maxsize=100)
            queue.put(child)
            talk.say(queue.maxsize)
            queue.close()

        makers = [children.fork(maker, child, path) for child in range(processes)]
        for child in makers:
            child.say("go")
        assert [child.hear() for child in makers] == [100] * processes
        for child in makers:
            child.end()
        with mqlite.open(path) as broker:
            assert broker.check() == []
            assert sorted(message.body for message in broker.queue("q").receive(20)) == list(range(processes))


def test_processes_that_declare_different_queues_at_once_all_get_theirs(path: str, children: Any) -> None:
    def maker(talk: Any, child: int) -> None:
        for number in range(10):
            with mqlite.Queue[Any](f"q{child}-{number}", path) as queue:
                queue.put([child, number])

    for child in [children.fork(maker, child) for child in range(4)]:
        child.end()
    with mqlite.open(path) as broker:
        assert len(broker.queues()) == 40
        for child in range(4):
            for number in range(10):
                assert broker.queue(f"q{child}-{number}").get(timeout=0) == [child, number]
        assert broker.check() == []


def test_closing_while_threads_wait_ends_them_and_the_store_can_be_opened_again_at_once(path: str) -> None:
    for number in range(30):
        queue: mqlite.Queue[Any] = mqlite.Queue("q", path, maxsize=1)
        queue.put("old")
        ended: list[Any] = []
        started = threading.Barrier(4)

        def wait(verb: str, queue: mqlite.Queue[Any] = queue, ended: list[Any] = ended, started: threading.Barrier = started) -> None:
            started.wait(GUARD)
            try:
                if verb == "put":
                    queue.put("new")
                elif verb == "consume":
                    with queue.consumer() as consumer:
                        while True:
                            message = consumer.receive()
                            with contextlib.suppress(mqlite.LeaseLost):  # closing gave it back already
                                message.release()
                else:
                    queue.join()
            except mqlite.Closed:
                ended.append(verb)
            except BaseException as error:
                ended.append(error)

        threads = [threading.Thread(target=wait, args=(verb,), daemon=True) for verb in ("put", "consume", "join")]
        for thread in threads:
            thread.start()
        started.wait(GUARD)
        if number % 2:
            queue.qsize()
        queue.close()
        again: mqlite.Queue[Any] = mqlite.Queue("q", path)
        assert again.get(timeout=GUARD) == "old"
        for thread in threads:
            thread.join(GUARD)
            assert not thread.is_alive(), "a thread waits for a queue that was closed"
        assert sorted(map(str, ended)) == ["consume", "join", "put"]
        assert again.check() == []
        again.close()


def test_opening_and_closing_in_many_threads_leaves_no_descriptor_behind(path: str) -> None:
    kept: mqlite.Queue[Any] = mqlite.Queue("q", path)
    kept.close()
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for n in range(25):
                with mqlite.Queue[Any]("q", path) as queue:
                    queue.put([number, n])
                    queue.get(timeout=GUARD)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GUARD)
    assert errors == []
    with mqlite.open(path) as broker:
        assert broker.check() == []
        assert broker.queue("q").qsize() == 0
    if before:
        assert len(os.listdir("/proc/self/fd")) == before
