"""Telemetry: the last value of each sensor, averages over windows, and a last will when a sensor dies.

    python examples/sensors.py [DIRECTORY] [--readings COUNT]

Four sensors, each a process, publish what they measure with the routing key sensor.N.temperature. Three of them stop
when they have sent their readings. One is killed with SIGKILL in the middle of its work. Who listens:

    averages    every reading; the mean of each 25 of one sensor. The readings of a window are acknowledged together,
                when it is complete, so that a crash in between would only give them back
    alarms      sensor.*.status, but only what is of the type "offline": the last wills. A sensor leaves one when it
                begins and withdraws it when it ends, so that of the killed sensor alone comes, and once
    dashboard   made when all is over. Readings are published with retain=True, so that it has the last value of
                each sensor at once, and nothing older

At the end the windows are compared with the totals that the sensors themselves have kept, the dashboard and the alarms
with what became of the sensors. The exit code is 0 if they agree.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections import defaultdict
from itertools import count
from statistics import fmean
from typing import Any

import mqlite

SENSORS = (1, 2, 3, 4)
DOOMED = 2  # the sensor that is killed
WINDOW = 25  # readings

Reading = dict[str, Any]


def measure(sensor: int, number: int) -> int:
    """A temperature, in hundredths of a degree: whole numbers, of which sums are exact."""
    return 1500 + 100 * sensor + number * 37 % 251


def sense(telemetry: mqlite.Topic[Reading], sensor: int, readings: int | None) -> None:
    """A sensor process. readings: None = until it is killed."""
    status, total = f"sensor.{sensor}.status", 0
    with telemetry.will({"sensor": sensor}, status, type="offline", retain=True):
        telemetry.publish({"sensor": sensor}, status, type="online", retain=True)
        for number in range(1, readings + 1) if readings else count(1):
            value = measure(sensor, number)
            total += value
            body = {"sensor": sensor, "number": number, "value": value, "total": total}
            telemetry.publish(body, f"sensor.{sensor}.temperature", retain=True)
            time.sleep(0.001)
    telemetry.publish({"sensor": sensor}, status, type="finished", retain=True)


class Windows:
    """Tumbling windows over the readings of a subscription: each reading is in one of them."""

    def __init__(self, readings: mqlite.Subscription) -> None:
        self.closed: dict[tuple[int, int], list[int]] = {}  # (sensor, window) -> values
        self.last: dict[int, Reading] = {}  # the newest reading of each sensor
        self.gaps = 0
        self._readings = readings
        self._open: dict[tuple[int, int], list[mqlite.Message]] = defaultdict(list)

    def take(self, timeout: float) -> bool:
        """What is there, up to 100 readings; whether there was any."""
        try:
            messages = self._readings.receive(100, timeout)
        except mqlite.Empty:
            return False
        for message in messages:
            reading = message.body
            before = self.last.get(reading["sensor"], {"number": 0})
            self.gaps += reading["number"] != before["number"] + 1
            self.last[reading["sensor"]] = reading
            window = reading["sensor"], (reading["number"] - 1) // WINDOW
            self._open[window].append(message)
            if reading["number"] % WINDOW == 0:
                self._close(window)
        return True

    def _close(self, window: tuple[int, int]) -> None:
        messages = self._open.pop(window)
        self.closed[window] = [message.body["value"] for message in messages]
        self._readings.ack_many(messages)  # in one commit

    def close_all(self) -> None:
        """No more will come: close also those that are not full."""
        for window in list(self._open):
            self._close(window)

    def total(self, sensor: int) -> int:
        """The sum of all values of a sensor."""
        return sum(sum(values) for (of, _), values in self.closed.items() if of == sensor)

    def print_table(self) -> None:
        """The mean of each window, in degrees."""
        for sensor in SENSORS:
            means = [fmean(values) / 100 for (of, _), values in self.closed.items() if of == sensor]
            print(f"sensor {sensor}: {' '.join(f'{mean:5.2f}' for mean in means)}")


def check(what: str, holds: bool) -> bool:
    """Print what is promised, and whether it holds."""
    print(f"{'yes' if holds else 'NO'}: {what}")
    return holds


def run(path: str, readings: int, start_method: str | None) -> bool:
    """Start the sensors, kill one, compare."""
    context: Any = multiprocessing.get_context(start_method)
    with mqlite.Topic[Reading]("telemetry", path) as telemetry:
        if telemetry.stats().published:
            sys.exit(f"{path} has the telemetry of an earlier run: name another directory")
        windows = Windows(telemetry.subscribe("averages", "sensor.*.temperature"))
        alarms = telemetry.subscribe("alarms", "sensor.*.status", filter={"type": "offline"})
        sensors = {
            sensor: context.Process(
                target=sense, args=(telemetry, sensor, None if sensor == DOOMED else readings), daemon=True
            )
            for sensor in SENSORS
        }
        for process in sensors.values():
            process.start()

        while windows.last.get(DOOMED, {"number": 0})["number"] < max(1, readings // 2):
            windows.take(timeout=60)
        sensors[DOOMED].kill()
        [will] = alarms.receive(timeout=60)  # no need to look for the dead: it comes by itself
        will.ack()
        print(f"sensor {will.body['sensor']} was killed, and is offline")
        for process in sensors.values():
            process.join()
        while windows.take(timeout=0):
            pass
        windows.close_all()
        windows.print_table()

        with telemetry.subscribe(pattern="sensor.*.temperature", durable=False) as dashboard:
            shown = {message.body["sensor"]: message.body for message in dashboard.receive(100, timeout=0)}
            older = len(dashboard)
        states = {message.body["sensor"]: message.type for message in telemetry.retained("sensor.*.status")}
        for sensor, reading in sorted(shown.items()):
            print(f"dashboard: sensor {sensor} is {states[sensor]}, last reading {reading['value'] / 100:.2f}")
        finished = dict.fromkeys(SENSORS, "finished")
        return all(
            [
                check("no reading is missing, none came twice", windows.gaps == 0),
                check(
                    "the windows add up to what each sensor says it sent",
                    {n: windows.total(n) for n in SENSORS} == {n: windows.last[n]["total"] for n in SENSORS},
                ),
                check(
                    "the sensors that were not killed sent all",
                    all(windows.last[n]["number"] == readings for n in SENSORS if n != DOOMED),
                ),
                check("the dashboard has the last reading of each sensor, and no other", shown == windows.last),
                check("only the killed sensor is offline", states == {**finished, DOOMED: "offline"}),
                check("its will came once, and no other", will.body["sensor"] == DOOMED and alarms.stats().lag == 0),
                check("the dashboard left nothing behind", telemetry.subscriptions() == ["averages", "alarms"]),
                check("the store is in order", older == 0 and telemetry.check() == []),
            ]
        )


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description="Telemetry with last values, windows and last wills.")
    parser.add_argument("directory", nargs="?", help="where the store is made (default: temporary)")
    parser.add_argument("--readings", type=int, default=100, help="of each sensor (default: %(default)s)")
    parser.add_argument("--start-method", choices=multiprocessing.get_all_start_methods(), help="of the processes")
    options = parser.parse_args()
    if options.directory is not None:
        return 0 if run(options.directory, options.readings, options.start_method) else 1
    with tempfile.TemporaryDirectory() as directory:
        return 0 if run(directory, options.readings, options.start_method) else 1


if __name__ == "__main__":
    sys.exit(main())
