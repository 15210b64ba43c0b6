"""What the recorded programs do to a store, by its public API, and a model that knows each state on the way.

An operation is one commit, so that the states of a store can be numbered: state n is that after operation n.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import Any

import attrs

import mqlite

MAX_STORE_BYTES = 16 << 20
HOUR = 3600.0
QUEUES = ("a", "b")
SUBSCRIPTIONS = {"t/all": "#", "t/some": "x.*"}
LANES = (*QUEUES, *SUBSCRIPTIONS)
DECLARED = ("a", "b", "t", *SUBSCRIPTIONS)
SIZES = (20, 100, 700, 1900, 3000, 9000)
#: Histories whose seeds begin so are mostly of plain messages, one at a time, with a backlog.
PASSING = "passing"
#: If they have this in them, too, some messages are claimed by rows, which brings what is in the front to the tree.
ROWS = "rows"
KEYS = tuple(f"key {number}" for number in range(12))

PROBE = b"what is the next id?"

#: What an operation is and what it needs, such as ("ack", "a", 2).
Operation = tuple[Any, ...]


@attrs.define
class Lane:
    """A queue or subscription. ready: in delivery order; delayed: whose time never comes here; dead: in order.

    All by (-priority, place): (id, body); the place is the number of the last record that was stored of it.
    """

    ready: dict[tuple[int, int], tuple[int, bytes]] = attrs.Factory(dict)
    delayed: dict[tuple[int, int], tuple[int, bytes]] = attrs.Factory(dict)
    dead: dict[tuple[int, int], tuple[int, bytes]] = attrs.Factory(dict)

    def copy(self) -> Lane:
        return Lane(dict(self.ready), dict(self.delayed), dict(self.dead))

    def heads(self, count: int = 1) -> list[tuple[int, int]]:
        """The places of the next messages."""
        return sorted(self.ready)[:count]


@attrs.define
class Model:
    """The contents of a store."""

    seed: str
    lanes: dict[str, Lane] = attrs.Factory(dict)
    topic: bool = False
    rows: dict[str, bytes] = attrs.Factory(dict)
    table: bool = False
    #: The number of the last record that was stored.
    last: int = 0

    def copy(self) -> Model:
        lanes = {name: lane.copy() for name, lane in self.lanes.items()}
        return Model(self.seed, lanes, self.topic, dict(self.rows), self.table, self.last)

    def contents(self) -> dict[str, Any]:
        """In the form of `contents_of`."""
        return {
            "queues": [name for name in QUEUES if name in self.lanes],
            "topics": ["t"] if self.topic else [],
            "lanes": {
                name: (
                    [(number, -place[0], body) for place, (number, body) in sorted(lane.ready.items())],
                    len(lane.delayed),
                    [(number, -place[0], body) for place, (number, body) in sorted(lane.dead.items())],
                )
                for name, lane in self.lanes.items()
            },
            "rows": sorted(self.rows.items()),
        }

    def has_as_many(self, contents: dict[str, Any]) -> bool:
        """Whether lanes have as many messages as in these contents: most states are told apart by that, and nothing is sorted."""
        counts = {name: (len(ready), delayed, len(dead)) for name, (ready, delayed, dead) in contents["lanes"].items()}
        return counts == {name: (len(lane.ready), len(lane.delayed), len(lane.dead)) for name, lane in self.lanes.items()}

    def body(self, size: int) -> bytes:
        """The next new one."""
        return random.Random(f"{self.seed} {self.last}").randbytes(size)

    def _put(self, lane: str, body: bytes, priority: int = 0, delayed: bool = False) -> int:
        self.last += 1
        found = self.lanes[lane]
        (found.delayed if delayed else found.ready)[-priority, self.last] = (self.last, body)
        return self.last

    def apply(self, operation: Operation) -> None:
        """Do it here."""
        match operation:
            case ("declare", "t"):
                self.topic = True
            case ("declare", name):
                self.lanes[name] = Lane()
            case ("put", lane, sizes, priority, delayed):
                for body in self.bodies(sizes):
                    self._put(lane, body, priority, delayed)
            case ("probe",):
                self._put("a", PROBE)
            case ("ack", lane, count):
                for place in self.lanes[lane].heads(count):
                    del self.lanes[lane].ready[place]
            case ("nack", lane):
                [place] = self.lanes[lane].heads()
                self.last += 1
                self.lanes[lane].delayed[place[0], self.last] = self.lanes[lane].ready.pop(place)
            case ("reject", lane):
                [place] = self.lanes[lane].heads()
                self.last += 1
                self.lanes[lane].dead[place[0], self.last] = self.lanes[lane].ready.pop(place)
            case ("forget", lane):
                del self.lanes[lane].dead[min(self.lanes[lane].dead)]
            case ("cancel", lane, number):
                found = self.lanes[lane].delayed
                [place] = [place for place, message in found.items() if message[0] == number]
                del found[place]
            case ("hasten", lane, number):  # it is not due here and never was: it gets a new place
                found = self.lanes[lane].delayed
                [place] = [place for place, message in found.items() if message[0] == number]
                self.last += 1
                self.lanes[lane].ready[place[0], self.last] = found.pop(place)
            case ("set", key, size):
                body = self.body(size)
                self.last += 1
                self.rows[key] = body
            case ("delete", key):
                self.last += 1
                del self.rows[key]
            case ("publish", key, size):
                body = self.body(size)
                self.last += 1
                for name in SUBSCRIPTIONS:
                    if name == "t/all" or key.startswith("x."):
                        self.lanes[name].ready[0, self.last] = (self.last, body)
            case ("transact", taken, put, keys, sizes):
                bodies = self.bodies(sizes)
                for lane in taken:
                    [place] = self.lanes[lane].heads()
                    del self.lanes[lane].ready[place]
                if keys:
                    self.last += 1
                for key in keys:
                    self.rows[key] = bodies[0]
                for lane in put:
                    self._put(lane, bodies[-1])
            case _:
                raise AssertionError(operation)

    def bodies(self, sizes: tuple[int, ...]) -> list[bytes]:
        whole = self.body(sum(sizes))
        starts = [sum(sizes[:place]) for place in range(len(sizes))]
        return [whole[start : start + size] for start, size in zip(starts, sizes, strict=True)]

    def next_operation(self, rnd: random.Random) -> Operation:
        """Something that can be done to these contents and changes them."""
        for name in DECLARED:
            if name not in self.lanes and not (name == "t" and self.topic):
                return ("declare", name)
        lane = self.lanes[name := rnd.choice(LANES)]
        queue = self.lanes[q := rnd.choice(QUEUES)]
        full = len(lane.ready) > rnd.randint(5, 25)
        size, key = rnd.choice(SIZES), rnd.choice(KEYS)
        if self.seed.startswith(PASSING) and rnd.random() < 0.9:
            if queue.ready and rnd.random() < (0.6 if len(queue.ready) > 25 else 0.4):
                return ("ack", q, rnd.choice((1, 1, 1, 3)) if ROWS in self.seed else 1)
            return ("put", q, (rnd.choice(SIZES[:4]),), rnd.randint(0, 1), False)
        possible: list[tuple[float, Operation]] = [
            (2, ("put", q, (size,), rnd.randint(0, 2), rnd.random() < 0.2)),
            (1, ("put", q, tuple(rnd.choices(SIZES, k=rnd.randint(2, 5))), 0, False)),
            (2, ("publish", rnd.choice(("x.one", "y.two")), size)),
            (1, ("set", key, size)),
        ]
        if lane.ready:
            possible.append((8 if full else 2, ("ack", name, rnd.choice((1, 1, 3)))))
        if queue.ready:
            possible += [(0.7, ("nack", q)), (0.7, ("reject", q))]
            possible.append((1, ("transact", (q,), rnd.choice(((), ("b",), QUEUES)), rnd.sample(KEYS, rnd.randint(0, 3)), (size, 50))))
        if queue.dead:
            possible.append((1, ("forget", q)))
        if queue.delayed:
            possible.append((1, ("cancel", q, rnd.choice(sorted(queue.delayed.values()))[0])))
        if key in self.rows:
            possible.append((1, ("delete", key)))
        return rnd.choices([operation for _, operation in possible], [weight for weight, _ in possible])[0]


def history(seed: str, count: int) -> tuple[list[Operation], list[Model]]:
    """Operations 1 to count (in places 0 to count - 1), and the models of states 0 to count."""
    rnd, model = random.Random(seed), Model(seed)
    operations, models = [], [model.copy()]
    for _ in range(count):
        operations.append(model.next_operation(rnd))
        model.apply(operations[-1])
        models.append(model.copy())
    return operations, models


def more_operations(model: Model, seed: str, count: int) -> Iterator[tuple[Operation, Model]]:
    """What comes next, each with the model before it; `model` itself is carried along."""
    rnd = random.Random(seed)
    for _ in range(count):
        operation, before = model.next_operation(rnd), model.copy()
        model.apply(operation)
        yield operation, before


def lineage(seed: str, count: int, revivals: list[tuple[int, str, int]]) -> list[Model]:
    """The models of states 0 to count; after each revival (state, seed, n): of that state, then after a probe, if there
    is a queue to put it into, and n operations more.
    """
    _, models = history(seed, count)
    for state, seed, more in revivals:
        model = models[state].copy()
        models = [model.copy()]
        if "a" in model.lanes:
            model.apply(("probe",))
            models.append(model.copy())
        for operation, before in more_operations(model, seed, more):
            after = before.copy()
            after.apply(operation)
            models.append(after)
    return models


class Store:
    """An open store, to which operations are done by the public API."""

    def __init__(self, path: str, **options: Any) -> None:
        self.broker = mqlite.open(path, **{"max_store_bytes": MAX_STORE_BYTES, **options})
        self._lanes: dict[str, Any] = {}

    def lane(self, name: str) -> Any:
        """The queue or subscription of that name."""
        if name not in self._lanes:
            topic, _, subscription = name.rpartition("/")
            if topic:
                self._lanes[name] = self.broker.topic(topic).subscribe(subscription, pattern=SUBSCRIPTIONS[name])
            else:
                self._lanes[name] = self.broker.queue(name)
        return self._lanes[name]

    def do(self, operation: Operation, before: Model) -> None:
        """Do it; `before`: what is expected here. A result that is not as expected is an AssertionError."""
        after = before.copy()
        after.apply(operation)
        match operation:
            case ("declare", "t"):
                self.broker.topic("t")
            case ("declare", name):
                self.lane(name)
            case ("put", lane, sizes, priority, delayed):
                bodies = before.bodies(sizes)
                ids = list(range(before.last + 1, after.last + 1))
                if len(bodies) == 1:
                    options = {"delay": HOUR} if delayed else {}  # nothing that is not said, or it does not pass by
                    _expect(ids, [self.lane(lane).put(bodies[0], priority=priority, **options)])
                else:
                    _expect(ids, self.lane(lane).put_many(bodies, priority=priority))
            case ("ack", lane, 1) if before.seed.startswith(PASSING) and before.last % 2:
                _expect(before.lanes[lane].ready[before.lanes[lane].heads()[0]][1], self.lane(lane).get(timeout=0))
            case ("ack", lane, 1) if before.seed.startswith(PASSING) and ROWS in before.seed and before.last % 4 == 0:
                first, *others = self._taken(lane, 2, before)
                for message in others:
                    message.release()
                first.ack()
            case ("ack", lane, count):
                messages = self._taken(lane, count, before)
                if len(messages) == 1:
                    messages[0].ack()
                else:
                    self.lane(lane).ack_many(messages)
            case ("nack", lane):
                self._taken(lane, 1, before)[0].nack(delay=HOUR, error="not now")
            case ("reject", lane):
                self._taken(lane, 1, before)[0].reject("unwanted")
            case ("forget", lane):
                [message] = self.lane(lane).dead.receive(timeout=0)
                dead = before.lanes[lane].dead
                _expect(dead[min(dead)], (message.id, message.body))
                message.ack()
            case ("cancel", lane, number):
                _expect(True, self.lane(lane).cancel(number))
            case ("hasten", lane, number):
                _expect(True, self.lane(lane).update(number, delay=0))
            case ("set", key, size):
                self.broker.table("rows")[key] = before.body(size)
            case ("delete", key):
                del self.broker.table("rows")[key]
            case ("publish", key, size):
                _expect(after.last, self.broker.topic("t").publish(before.body(size), routing_key=key))
            case ("transact", taken, put, keys, sizes):
                bodies = before.bodies(sizes)
                messages = [self._taken(lane, 1, before)[0] for lane in taken]
                with self.broker.transaction() as tx:
                    for key in keys:
                        tx.table("rows")[key] = bodies[0]
                    for lane in put:
                        self.lane(lane).put(bodies[-1], tx=tx)
                    for message in messages:
                        message.ack(tx=tx)
            case _:
                raise AssertionError(operation)

    def _taken(self, lane: str, count: int, before: Model) -> list[mqlite.Message]:
        places = before.lanes[lane].heads(count)
        messages = self.lane(lane).receive(count, timeout=0)
        _expect([before.lanes[lane].ready[place] for place in places], [(m.id, m.body) for m in messages])
        return list(messages)

    def contents(self) -> dict[str, Any]:
        """What can be seen. Nothing is changed."""
        queues, topics = self.broker.queues(), self.broker.topics()
        names = [*queues]
        for topic in topics:
            names += [f"{topic}/{name}" for name in self.broker.topic(topic).subscriptions()]
        lanes = {}
        for name in names:
            lane = self.lane(name)
            ready = [(m.id, m.priority, m.body) for m in lane.browse()]
            dead = [(m.id, m.priority, m.body) for m in lane.dead.browse()] if name in queues else []
            stats = lane.stats()
            if (stats.ready, stats.claimed, stats.dead) != (len(ready), 0, len(dead)):
                raise AssertionError(f"{name}: {len(ready)} ready, {len(dead)} dead, but {stats}")
            lanes[name] = (ready, stats.delayed, dead)
        rows = sorted(self.broker.table("rows").items()) if "rows" in self.broker.tables() else []
        return {"queues": queues, "topics": topics, "lanes": lanes, "rows": rows}

    def recognise(self, models: list[Model]) -> tuple[int, Model]:
        """Which state this is; then a probe is put, if there is a queue for it, and the model after it is returned.

        States that look alike are told from each other by the next id. Raises AssertionError where it is none of them.
        """
        found = self.contents()
        alike = [number for number, model in enumerate(models) if model.has_as_many(found) and model.contents() == found]
        if not alike:
            raise AssertionError("the contents are those of no state")
        model = models[alike[0]].copy()
        if "a" in model.lanes:
            given = self.lane("a").put(PROBE)
            alike = [number for number in alike if models[number].last + 1 == given]
            if not alike:
                raise AssertionError(f"the next id is {given}, as in no state of these contents")
            model = models[alike[0]].copy()
            model.apply(("probe",))
        return alike[0], model

    def sync(self) -> None:
        """All that has returned survives a power cut."""
        if hasattr(self.broker, "sync"):
            self.broker.sync()

    def close(self) -> None:
        self.broker.close()


def digest_of(contents: dict[str, Any]) -> str:
    """What contents can be compared by across processes."""
    return hashlib.sha256(repr(contents).encode()).hexdigest()


def _expect(wanted: object, found: object) -> None:
    if wanted != found:
        raise AssertionError(f"{found!r:.500} where it should be {wanted!r:.500}")
