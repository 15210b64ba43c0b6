"""A log as a topic: an archiver that misses no line, an alerter that gets only what matters, and an auditor who comes late.

    python examples/logs.py [DIRECTORY] [--log FILE] [--lines COUNT]

The lines are those of this machine's package log; where it has none, every `class`, `def` and `import` of the
standard library makes one. They are published with the routing key HOST.PROGRAM.LEVEL and with headers, to a topic
that keeps them (retention="limits"). Three subscriptions, each with its own copy of the stream:

    archive   everything, in order; a process of its own writes it to a file
    alerts    WARNING and worse, without a kind that nobody wants to be woken for; a process of its own passes it on
              to the queue "pager"
    audit     made when all is over, and starts with the earliest line: it reads what the topic has kept

What a subscription does not want is not given to it at all, and a slow one does not hold up the others. At the end the
file, the pager and the audit are compared with a plain loop over the lines. The exit code is 0 if they agree.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import re
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import mqlite

SEVERITY = {"DEBUG": 10, "INFO": 20, "WARNING": 30}
LEVELS = {"remove": "WARNING", "purge": "WARNING", "half-configured": "WARNING", "half-installed": "WARNING"}
LEVELS |= {"unpacked": "DEBUG", "startup": "DEBUG", "class": "WARNING", "import": "DEBUG", "from": "DEBUG"}
IGNORED = "half-installed"  # each package is, for a moment
HOST = re.sub(r"\W", "-", platform.node()) or "localhost"  # one word: a dot would begin another

Alerts = mqlite.Queue[str]


class Line(NamedTuple):
    """One line of the log."""

    program: str
    kind: str  # what happened
    text: str

    @property
    def level(self) -> str:
        return LEVELS.get(self.kind, "INFO")

    @property
    def routing_key(self) -> str:
        return f"{HOST}.{self.program}.{self.level}"

    @property
    def matters(self) -> bool:
        """What the alerter's filter should let pass, said in Python."""
        return SEVERITY[self.level] >= SEVERITY["WARNING"] and self.kind != IGNORED


def package_log(file: Path) -> Iterator[Line]:
    """2025-06-24 14:36:25 status half-configured libc-bin:amd64 2.36"""
    for text in file.read_text(errors="replace").splitlines():
        found = re.match(r"\S+ \S+ (?:status )?([\w-]+)", text)
        if found:
            yield Line("dpkg", found[1], text)


def library_log() -> Iterator[Line]:
    """As if the standard library had said what it defines."""
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for text in file.read_text(errors="replace").splitlines():
            found = re.match(r"\s*(class|def|import|from) \w", text)
            if found:
                yield Line(file.stem, found[1], text.strip())


def publish(log: mqlite.Topic[str], lines: list[Line]) -> None:
    """One commit for the lines that come one after the other and differ in their texts only."""
    for (key, kind), run in groupby(lines, lambda line: (line.routing_key, line.kind)):
        severity = SEVERITY[key.rpartition(".")[2]]
        log.publish_many([line.text for line in run], key, type=kind, headers={"severity": severity})


def archive(everything: mqlite.Subscription, file: Path) -> None:
    """The archiver process. Written, then acknowledged: it may be killed in between, and then a line comes again, with
    the same id; it never goes missing.
    """
    with file.open("a", encoding="utf-8") as out:
        while True:
            try:
                messages = everything.receive(100)  # what is there, up to 100
            except mqlite.ShutDown:  # no more will come, and all was read
                return
            out.writelines(f"{message.id} {message.routing_key} {message.body}\n" for message in messages)
            out.flush()
            everything.ack_many(messages)


def alert(alerts: mqlite.Subscription, pager: Alerts) -> None:
    """The alerter process. It never sees what its filter refuses."""
    with alerts.consumer(prefetch=16) as consumer:
        for message in consumer:
            with message:  # acknowledged at the end of the block
                pager.put(message.body, dedup_id=str(message.id))  # once, also if this is done again


def read_all(subscription: mqlite.Subscription) -> list[mqlite.Message]:
    """What a subscription has, to the end."""
    found: list[mqlite.Message] = []
    while True:
        try:
            messages = subscription.receive(100, timeout=0)
        except mqlite.Empty:
            return found
        subscription.ack_many(messages)
        found += messages


def check(what: str, holds: bool) -> bool:
    """Print what is promised, and whether it holds."""
    print(f"{'yes' if holds else 'NO'}: {what}")
    return holds


def run(directory: Path, lines: list[Line], start_method: str | None) -> bool:
    """Publish, read, compare."""
    context: Any = multiprocessing.get_context(start_method)
    with mqlite.open(directory / "log.mq") as broker:
        log = broker.topic("log", retention="limits", max_messages=1_000_000, max_age=30 * 86400)
        if log.stats().published:
            sys.exit(f"{directory} has the log of an earlier run: name another directory")
        everything = log.subscribe("archive")
        alerts = log.subscribe(
            "alerts", f"{HOST}.*.*", filter={"severity": (">=", SEVERITY["WARNING"]), "type": ("!=", IGNORED)}
        )
        pager: Alerts = broker.queue("pager")
        file = directory / "archive.log"
        processes = [
            context.Process(target=archive, args=(everything, file), daemon=True),
            context.Process(target=alert, args=(alerts, pager), daemon=True),
        ]
        for process in processes:
            process.start()
        publish(log, lines)
        for subscription in (everything, alerts):
            subscription.shutdown()  # its readers go on to the end, and then leave
        for process in processes:
            process.join()

        audit = log.subscribe("audit", start="earliest")
        replay = read_all(audit)
        middle = replay[len(replay) // 2].id
        audit.seek(middle)  # once more, from there on
        again = read_all(audit)

        levels = Counter(line.level for line in lines)
        print(f"{len(lines)} lines published: {', '.join(f'{count} {level}' for level, count in levels.items())}")
        print(f"{len(pager)} alerts, the first: {next((alert.body for alert in pager.browse()), None)}")
        print(f"the topic keeps {log.stats().retained} lines, {log.stats().bytes} bytes")
        wanted = [(line.routing_key, line.text) for line in lines]
        archived = [line.split(" ", 2) for line in file.read_text(encoding="utf-8").splitlines()]
        return all(
            [
                check("every line was archived once, in order", [(key, text) for _, key, text in archived] == wanted),
                check(
                    "the alerts are those that a plain loop finds",
                    [message.body for message in pager.browse()] == [line.text for line in lines if line.matters],
                ),
                check(
                    "the replay is what was archived, with the same ids",
                    [[str(message.id), message.routing_key, message.body] for message in replay] == archived,
                ),
                check(
                    "sought back to the middle, the rest is the same again",
                    [message.id for message in again] == [message.id for message in replay if message.id >= middle],
                ),
                check("everybody has settled everything", all(each.lag == 0 for each in lags(broker))),
                check("the store is in order", broker.check() == []),
            ]
        )


def lags(broker: mqlite.Broker) -> list[mqlite.SubscriptionStats]:
    """How far behind each subscription is."""
    log = broker.topic("log")
    return [log.subscription(name).stats() for name in log.subscriptions()]


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description="A log as a topic.")
    parser.add_argument("directory", nargs="?", help="where the store and the archive are made (default: temporary)")
    parser.add_argument("--log", type=Path, default=Path("/var/log/dpkg.log"), help="the log (default: %(default)s)")
    parser.add_argument("--lines", type=int, default=1000, help="its first lines (default: %(default)s)")
    parser.add_argument("--start-method", choices=multiprocessing.get_all_start_methods(), help="of the processes")
    options = parser.parse_args()
    try:
        lines = list(islice(package_log(options.log), options.lines))
    except OSError:
        lines = []
    lines = lines or list(islice(library_log(), options.lines))
    if options.directory is not None:
        Path(options.directory).mkdir(parents=True, exist_ok=True)
        return 0 if run(Path(options.directory), lines, options.start_method) else 1
    with tempfile.TemporaryDirectory() as directory:
        return 0 if run(Path(directory), lines, options.start_method) else 1


if __name__ == "__main__":
    sys.exit(main())
