"""A consumer holds at most `prefetch` messages, whatever is done with them and by however many threads."""

from __future__ import annotations

import os
import tempfile
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kill_folder import in_memory

import mqlite

BOUNDED = settings(
    deadline=None,
    database=None,
    print_blob=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "take", "take", "take", "ack", "nack", "reject", "release", "close"]),
        st.integers(0, 1),
        st.integers(0, 5),
    ),
    max_size=60,
)


def queue_on(backend: str, folder: str, **options: Any) -> mqlite.Queue[Any]:
    return mqlite.Queue("q", None if backend == "memory" else os.path.join(folder, "app.mq"), **options)


@given(prefetch=st.tuples(st.integers(1, 4), st.integers(1, 4)), steps=STEPS)
@settings(BOUNDED, max_examples=60)
def test_never_more_than_prefetch_is_claimed_and_buffered_messages_come_in_order(
    backend: str, prefetch: tuple[int, int], steps: list[tuple[str, int, int]]
) -> None:
    with tempfile.TemporaryDirectory(dir=in_memory()) as folder, queue_on(backend, folder, max_deliveries=2) as queue:
        queue.put_many(range(8))
        consumers = [queue.consumer(prefetch=n) for n in prefetch]
        in_hand: list[list[mqlite.Message]] = [[], []]
        for verb, which, n in steps:
            mine = in_hand[which]
            if verb == "put":
                queue.put("more", priority=n % 2)
            elif verb == "close":
                consumers[which].close()
                mine.clear()
                consumers[which] = queue.consumer(prefetch=prefetch[which])
            elif verb == "take":
                if len(mine) == prefetch[which]:
                    with pytest.raises(mqlite.Empty):
                        consumers[which].receive(timeout=0)
                else:
                    try:
                        mine.append(consumers[which].receive(timeout=0))
                    except mqlite.Empty:
                        assert queue.qsize() == 0
            elif mine:
                getattr(mine.pop(n % len(mine)), verb)()
            stats = queue.stats()
            assert sum(map(len, in_hand)) <= stats.claimed <= sum(prefetch)
            ids = [m.id for hand in in_hand for m in hand]
            assert len(set(ids)) == len(ids)
        for consumer in consumers:
            consumer.close()
        assert queue.stats().claimed == 0
        assert queue.check() == []


@given(prefetch=st.integers(1, 5), threads=st.integers(1, 5), count=st.integers(0, 60))
@settings(BOUNDED, max_examples=12)
def test_threads_that_share_a_consumer_hold_at_most_prefetch_and_get_each_message_once(
    backend: str, prefetch: int, threads: int, count: int
) -> None:
    with tempfile.TemporaryDirectory(dir=in_memory()) as folder, queue_on(backend, folder) as queue:
        queue.put_many(range(count))
        got: list[int] = []
        too_many: list[int] = []
        failed: list[BaseException] = []

        with queue.consumer(prefetch=prefetch) as consumer:

            def work() -> None:
                try:
                    for message in consumer:
                        claimed = queue.stats().claimed
                        if claimed > prefetch:
                            too_many.append(claimed)
                        got.append(message.body)
                        message.ack()
                except BaseException as error:
                    failed.append(error)

            workers = [threading.Thread(target=work) for _ in range(threads)]
            for worker in workers:
                worker.start()
            queue.join()
            queue.shutdown()
            for worker in workers:
                worker.join(30)
                assert not worker.is_alive()
        assert (failed, too_many) == ([], [])
        assert sorted(got) == list(range(count))
        assert queue.check() == []
