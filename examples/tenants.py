"""A noisy tenant and four quiet ones: who waits for whom, with and without fair turns.

    python examples/tenants.py [--jobs JOBS]

The noisy tenant puts 2,000 jobs, then four quiet ones put 5 each; `group=tenant`. Four threads do
them all, three times over:

    fair=False               first in, first out: the quiet tenants wait for all of the noisy one's
    fair=True                the tenants take turns: a quiet tenant's fifth job is among the first 25
    limits={"noisy": 2}      besides, two threads at most work for the noisy tenant

For each run it prints a table: each tenant's jobs, as which of all jobs the first and the last of
them were started, how long they waited, and how many threads worked for the tenant at once, at most.
Then it checks what the table shows, counting jobs and not seconds. The exit code is 0 if all holds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from statistics import fmean
from typing import Any

import mqlite

THREADS = 4
SECONDS = 0.001  # that each job takes
QUIET = ("ann", "bob", "cem", "dee")
QUIET_JOBS = 5
FREE = {"*": THREADS}  # as many of a tenant's jobs at once as there are threads, instead of one after the other


class Run:
    """All jobs put, and then done, by a queue with some options."""

    def __init__(self, title: str, path: str, noisy_jobs: int, **options: Any) -> None:
        self.jobs = {"noisy": noisy_jobs, **dict.fromkeys(QUIET, QUIET_JOBS)}
        self.places: dict[str, list[int]] = {tenant: [] for tenant in self.jobs}  # in the order in which jobs start
        self.waits: dict[str, list[float]] = {tenant: [] for tenant in self.jobs}  # seconds
        self.most: Counter[str] = Counter()  # threads that worked for a tenant at once
        self._busy: Counter[str] = Counter()
        self._lock = threading.Lock()  # guards the three above
        with mqlite.Queue[str]("jobs", path, **options) as queue:
            for tenant, count in self.jobs.items():
                queue.put_many([tenant] * count, group=tenant)
            with queue.consumer(prefetch=THREADS) as consumer, ThreadPoolExecutor(THREADS) as threads:
                for place, job in enumerate(islice(consumer, sum(self.jobs.values())), start=1):
                    self.places[job.body].append(place)
                    threads.submit(self._work, job)
            self.left = len(queue)  # what was not acknowledged is back by now
        self._print_table(title)

    def _work(self, job: mqlite.Message) -> None:
        tenant = job.body
        with job:
            with self._lock:
                self.waits[tenant].append(time.time() - job.enqueued_at.timestamp())
                self._busy[tenant] += 1
                self.most[tenant] = max(self.most[tenant], self._busy[tenant])
            time.sleep(SECONDS)
            with self._lock:
                self._busy[tenant] -= 1

    def _print_table(self, title: str) -> None:
        print(f"{title}\ntenant   jobs   first    last   mean wait    max wait  at once")
        for tenant, places in self.places.items():
            waits = self.waits[tenant]
            print(
                f"{tenant:6}{len(places):7}{min(places):8}{max(places):8}"
                f"{fmean(waits) * 1000:9.0f} ms{max(waits) * 1000:9.0f} ms{self.most[tenant]:9}"
            )
        print(flush=True)

    def all_done(self) -> bool:
        """Whether each tenant's jobs were done, and none is left."""
        return self.left == 0 and all(len(self.waits[tenant]) == count for tenant, count in self.jobs.items())

    def quiet(self) -> list[int]:
        """The places of all jobs of the quiet tenants."""
        return [place for tenant in QUIET for place in self.places[tenant]]


def check(what: str, holds: bool) -> bool:
    """Print what is promised, and whether it holds."""
    print(f"{'yes' if holds else 'NO'}: {what}")
    return holds


def main() -> int:
    """The three runs, and the exit code."""
    parser = argparse.ArgumentParser(description="A noisy tenant among quiet ones.")
    parser.add_argument("--jobs", type=int, default=2000, help="jobs of the noisy tenant (default: %(default)s)")
    noisy_jobs = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as directory:
        unfair = Run("fair=False", f"{directory}/unfair", noisy_jobs, fair=False, limits=FREE)
        fair = Run("fair=True", f"{directory}/fair", noisy_jobs, fair=True, limits=FREE)
        limits = {"noisy": 2, **FREE}
        limited = Run('fair=True, limits={"noisy": 2}', f"{directory}/limited", noisy_jobs, fair=True, limits=limits)

    turns = QUIET_JOBS * (len(QUIET) + 1)
    results = [
        check("each job was done once", all(run.all_done() for run in (unfair, fair, limited))),
        check(f"unfair: the quiet tenants waited for all {noisy_jobs} noisy jobs", min(unfair.quiet()) > noisy_jobs),
        check(f"fair: all jobs of the quiet tenants were among the first {turns}", max(fair.quiet()) <= turns),
        check(f"limited: they were among the first {turns}, too", max(limited.quiet()) <= turns),
        check("limited: never more than 2 threads worked for the noisy tenant", limited.most["noisy"] <= 2),
    ]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
