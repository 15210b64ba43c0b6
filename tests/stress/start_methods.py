"""Sends handles to the children of one start method, and works with them there.

    python start_methods.py spawn FOLDER

Prints "ok" when all went well. A program of its own, since spawn and forkserver import
the main module again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import mqlite

GUARD = 60.0


def use_queue(queue: mqlite.Queue[Any], number: int) -> None:
    queue.put(["queue", number])


def use_producer(producer: mqlite.Producer, number: int) -> None:
    for n in range(5):
        producer.put(["producer", number, n])
    producer.flush()


def use_consumer(consumer: mqlite.Consumer, results: mqlite.Queue[Any], count: int) -> None:
    with consumer:
        for _ in range(count):
            with consumer.receive(timeout=GUARD) as message:
                results.put(message.body)


def use_auto(consumer: mqlite.Consumer, results: mqlite.Queue[Any]) -> None:
    with consumer:
        results.put(consumer.receive(timeout=GUARD).body)


def use_broker(broker: mqlite.Broker) -> None:
    broker.queue("work").put(["broker"])
    broker.close()


def hold_and_die(queue: mqlite.Queue[Any], told: Any) -> None:
    queue.receive(timeout=GUARD)
    told.send("held")
    os.kill(os.getpid(), signal.SIGKILL)


def in_pool(arguments: tuple[mqlite.Queue[Any], int]) -> int:
    queue, number = arguments
    return queue.put(["pool", number])


def settle(message: mqlite.Message) -> None:
    message.ack()


def take(queue: mqlite.Queue[Any], count: int) -> Counter[str]:
    return Counter(str(queue.get(timeout=GUARD)) for _ in range(count))


def main(method: str, folder: str) -> None:
    context: Any = multiprocessing.get_context(method)
    path = os.path.join(folder, "app.mq")
    work: mqlite.Queue[Any] = mqlite.Queue("work", path, maxsize=1000)
    results: mqlite.Queue[Any] = mqlite.Queue("results", path)
    broker = mqlite.open(path)

    def run(*processes: Any) -> None:
        for process in processes:
            process.start()
        for process in processes:
            process.join(GUARD)
            assert process.exitcode == 0, process

    run(*(context.Process(target=use_queue, args=(work, number)) for number in range(3)))
    assert take(work, 3) == Counter(str(["queue", number]) for number in range(3))

    with work.producer(priority=3) as producer:
        producer.put(["producer", "parent", 0])
        run(*(context.Process(target=use_producer, args=(producer, number)) for number in range(2)))
    assert take(work, 11) == Counter([str(["producer", "parent", 0]), *(str(["producer", number, n]) for number in range(2) for n in range(5))])

    work.put_many(range(20))
    with work.consumer(prefetch=4) as consumer:
        mine = consumer.receive(timeout=GUARD)
        run(*(context.Process(target=use_consumer, args=(consumer, results, 8)) for _ in range(2)))
        assert mine.body == 0
        mine.ack()
        rest = [consumer.receive(timeout=GUARD) for _ in range(3)]
        assert [message.body for message in rest] == [1, 2, 3]
        work.ack_many(rest)
    assert take(results, 16) == Counter(str(number) for number in range(4, 20))

    work.put("auto")
    with work.consumer(auto_ack=True) as consumer:
        run(context.Process(target=use_auto, args=(consumer, results)))
    assert results.get(timeout=GUARD) == "auto"

    run(context.Process(target=use_broker, args=(broker,)))
    assert work.get(timeout=GUARD) == ["broker"]

    work.put("job")
    hears, tells = context.Pipe(duplex=False)
    victim = context.Process(target=hold_and_die, args=(work, tells))
    victim.start()
    assert hears.recv() == "held"
    [message] = work.receive(timeout=GUARD)
    assert (message.body, message.delivery_count) == ("job", 1)
    victim.join(GUARD)
    message.ack()

    with context.Pool(2) as pool:
        ids = pool.map(in_pool, [(work, number) for number in range(20)])
        assert len(set(ids)) == 20
        work.put("claimed", priority=9)
        [message] = work.receive(timeout=GUARD)
        refused = None
        try:
            pool.apply(settle, (message,))
        except TypeError as error:
            refused = str(error)
        assert refused is not None
        assert "cannot be pickled" in refused
        message.ack()
    assert take(work, 20) == Counter(str(["pool", number]) for number in range(20))

    with ProcessPoolExecutor(2, mp_context=context) as executor:
        ids = list(executor.map(in_pool, [(work, number) for number in range(20)]))
        assert len(set(ids)) == 20
    assert take(work, 20) == Counter(str(["pool", number]) for number in range(20))

    assert broker.check() == []
    for handle in (work, results, broker):
        handle.close()
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
