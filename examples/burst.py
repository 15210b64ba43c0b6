"""Peak shaving: a burst of ten times the service rate against a bounded queue, and Little's law.

    python examples/burst.py [--burst REQUESTS]

Clients send requests: a few, then a burst, then a few again. Another process serves them, four at
once, each in the same time. The queue between the two is bounded. It is run twice: with
overflow="block" a put waits while the queue is full, so that the clients are slowed down and nothing
is refused; with overflow="reject" put raises Full at once, and the client goes without.

A few times a second it prints the arrivals and services per second, how many requests are in the
system (waiting or being served), and how long those were there that have left since the line
before; and it says when the queue passes its high and its low watermark. At the end, for each run,

    Little's law: L = lambda * W, the mean number in the system = arrival rate * mean time in the system

where L is what the queue answers when it is asked again and again, and lambda and W come from the
clients' and the workers' clocks, request by request. The residual is by how many percent the two
sides differ. The exit code is 0 if every accepted request was served, the queue kept its bound, and
each watermark was passed once.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from statistics import fmean

import mqlite

WORKERS = 4
SERVICE = 0.02  # seconds for each request
RATE = WORKERS / SERVICE  # requests per second that can be served at most
CLIENTS = 8

Requests = mqlite.Queue[str]
Served = mqlite.Queue[list[float]]  # [id of the request, when it was done]


def work(requests: Requests, served: Served) -> None:
    """The worker process: serves requests until the queue is shut down and empty."""

    def serve(message: mqlite.Message) -> None:
        with message:
            time.sleep(SERVICE)
        report.put([message.id, time.monotonic()])

    with (
        served.producer() as report,
        requests.consumer(prefetch=WORKERS) as consumer,  # holds no more requests than there are threads
        ThreadPoolExecutor(WORKERS) as threads,
    ):
        for message in consumer:
            threads.submit(serve, message)


def arrivals(burst: int) -> list[float]:
    """When each request is due, in seconds from the start."""
    times = [0.0]
    for count, rate in ((burst // 10, RATE / 2), (burst, 10 * RATE), (burst // 10, RATE / 2)):
        times += [times[-1] + number / rate for number in range(1, count + 1)]
    return times[1:]


class Clients:
    """Threads that send requests when they are due."""

    def __init__(self, requests: Requests, burst: int) -> None:
        self.accepted: dict[int, float] = {}  # id of each request in the queue -> since when it is there
        self.put_seconds: list[float] = []  # how long each put took, the refused ones too
        self._requests = requests
        self._start = time.monotonic()
        self._thread = threading.Thread(target=self._send_all, args=(arrivals(burst),))
        self._thread.start()

    def _send_all(self, times: list[float]) -> None:
        with ThreadPoolExecutor(CLIENTS) as threads:
            for due in times:
                threads.submit(self._send, due)
        self._requests.shutdown()  # no more will come

    def _send(self, due: float) -> None:
        time.sleep(max(0.0, self._start + due - time.monotonic()))
        began = time.monotonic()
        try:
            request = self._requests.put("please")
        except mqlite.Full:
            self.put_seconds.append(time.monotonic() - began)
        else:
            self.accepted[request] = time.monotonic()
            self.put_seconds.append(self.accepted[request] - began)

    @property
    def are_sending(self) -> bool:
        """Whether more is to come."""
        return self._thread.is_alive()


class Monitor:
    """Looks at the system from outside, and prints a line now and then."""

    def __init__(self, requests: Requests, served: Served, clients: Clients) -> None:
        self.levels: list[tuple[float, int]] = []  # (time, how many are in the system), often
        self.done: dict[int, float] = {}  # id of each request that was served -> when
        self._requests = requests
        self._served = served
        self._clients = clients
        self._printed_at = time.monotonic()
        self._arrived = 0

    def watch(self) -> None:
        """Until all was sent and served."""
        print("   time  arrivals/s  services/s  in system  mean time")
        self._look()
        while self._clients.are_sending or self.levels[-1][1] > 0:
            time.sleep(0.005)
            self._look()
            if time.monotonic() > self._printed_at + 0.25:
                self._print_line()

    def _look(self) -> None:
        stats = self._requests.stats()
        self.levels.append((time.monotonic(), stats.ready + stats.claimed))

    def _print_line(self) -> None:
        now, arrived, served = time.monotonic(), len(self._clients.accepted), self.collect()
        seconds = now - self._printed_at
        times = self.times_of(served)
        mean_time = fmean(times) if times else 0.0
        print(
            f"{now - self.levels[0][0]:6.2f}s{(arrived - self._arrived) / seconds:12.0f}{len(served) / seconds:12.0f}"
            f"{self.levels[-1][1]:11}{mean_time * 1000:8.0f} ms",
            flush=True,
        )
        self._printed_at, self._arrived = now, arrived

    def collect(self) -> list[int]:
        """What the workers have reported since the last time: ids."""
        try:
            reports = self._served.receive(100_000, timeout=0)
        except mqlite.Empty:
            return []
        self._served.ack_many(reports)
        self.done.update(report.body for report in reports)
        return [report.body[0] for report in reports]

    def times_of(self, ids: list[int]) -> list[float]:
        """How long each of these requests was in the system."""
        accepted = self._clients.accepted
        return [self.done[request] - accepted[request] for request in ids if request in accepted]


def run(overflow: str, path: str, burst: int) -> bool:
    """One burst. Whether all went well."""
    bound = burst // 3
    requests: Requests = mqlite.Queue("requests", path, maxsize=bound, overflow=overflow)
    served: Served = mqlite.Queue("served", path)
    worker = multiprocessing.get_context("spawn").Process(target=work, args=(requests, served), daemon=True)
    worker.start()
    requests.put("are you there?")
    served.get(timeout=60)  # the worker is up

    passed: list[str] = []
    calm = threading.Event()

    def on_high(level: int) -> None:
        passed.append("high")
        print(f"        high watermark: {level} in the system", flush=True)

    def on_low(level: int) -> None:
        passed.append("low")
        print(f"        low watermark: {level} in the system", flush=True)
        calm.set()

    print(f"\noverflow={overflow!r}, maxsize={bound}: {RATE:.0f}/s can be served at best,", end=" ")
    print(f"the clients offer {RATE / 2:.0f}/s, then {10 * RATE:.0f}/s, then {RATE / 2:.0f}/s", flush=True)
    with requests.watermarks(bound * 8 // 10, bound * 2 // 10, on_high=on_high, on_low=on_low):
        clients = Clients(requests, burst)
        monitor = Monitor(requests, served, clients)
        monitor.watch()
        calm.wait(timeout=10)
    worker.join()  # all its reports are there
    monitor.collect()

    summarise(clients, monitor)
    peak = max(level for _, level in monitor.levels)
    return monitor.done.keys() == clients.accepted.keys() and peak <= bound and passed == ["high", "low"]


def summarise(clients: Clients, monitor: Monitor) -> None:
    """What became of the requests, and Little's law."""
    accepted, refused = len(clients.accepted), len(clients.put_seconds) - len(clients.accepted)
    seconds = monitor.levels[-1][0] - monitor.levels[0][0]
    arrival_rate = accepted / seconds
    mean_time = fmean(monitor.times_of(list(monitor.done)))
    area = sum((after - before) * (m + n) / 2 for (before, m), (after, n) in pairwise(monitor.levels))
    length = area / seconds
    print(f"{accepted} accepted, {refused} refused, {len(monitor.done)} served")
    print(f"at most {max(level for _, level in monitor.levels)} in the system", end=", ")
    print(f"the slowest put took {max(clients.put_seconds) * 1000:.0f} ms")
    print(f"lambda * W = {arrival_rate:.1f}/s * {mean_time:.4f} s = {arrival_rate * mean_time:.2f}")
    print(f"L = {length:.2f}, residual {(length / (arrival_rate * mean_time) - 1) * 100:+.2f} %")


def main() -> int:
    """Both runs, and the exit code."""
    parser = argparse.ArgumentParser(description="A burst of requests against a bounded queue.")
    parser.add_argument(
        "--burst", type=int, default=450, help="requests in the burst, 30 or more (default: %(default)s)"
    )
    burst = parser.parse_args().burst
    with tempfile.TemporaryDirectory() as directory:
        results = [run(overflow, f"{directory}/{overflow}", burst) for overflow in ("block", "reject")]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
