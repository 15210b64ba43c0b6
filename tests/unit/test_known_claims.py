"""What a process knows of the claims without reading them is what it would read."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import mqlite
from mqlite.claims import Kind, Returned, Row, Shut, Waiting
from mqlite.claims.shared import SharedClaims

QUEUES = (1, 2)
RANKS = (3, 4)
OWNER = 77


class _Claimant:
    """Changes claims in all ways, the short ones most often, as processes do that share them."""

    def __init__(self, claims: SharedClaims, seed: int) -> None:
        self.claims = claims
        self.chance = random.Random(seed)
        self.last = dict.fromkeys(((queue, rank) for queue in QUEUES for rank in RANKS), 0)
        self.held: dict[int, dict[int, Row]] = {queue: {} for queue in QUEUES}
        self.short = 0

    def step(self) -> None:
        chance = self.chance
        queue = chance.choice(QUEUES)
        with self.claims.lock, self.claims.guard, self.claims.write() as c:
            kind = chance.choice(["claim"] * 6 + ["drop"] * 5 + ["give back", "take back", "deadline", "wait", "leave", "shut", "look", "start"])
            if kind == "claim":
                self._claim(c, queue)
            elif kind == "drop" and self.held[queue]:
                count = chance.randint(1, len(self.held[queue]))
                gone = chance.sample(sorted(self.held[queue]), count)
                assert c.drop_settled(queue, gone) == count
                for position in gone:
                    del self.held[queue][position]
            elif kind == "give back" and self.held[queue]:
                position = chance.choice(sorted(self.held[queue]))
                del self.held[queue][position]
                c.give_back(queue, position, Returned(0, 1))
            elif kind == "take back":
                for position, _ in list(c.returned(queue)):
                    c.take_returned(queue, position)
            elif kind == "deadline":
                c.note_deadline(queue, chance.randint(0, 9))
            elif kind == "wait":
                c.register(queue, Kind.MESSAGE, Waiting(5, OWNER, 0))
            elif kind == "leave":
                c.leave(queue, Kind.MESSAGE, 5, OWNER)
            elif kind == "shut":
                c.set_shut(queue, Shut.DRAINING)
                c.forget_shutdowns()
            elif kind == "start" and self.held[queue]:
                position = chance.choice(sorted(self.held[queue]))
                row = self.held[queue][position] = self.held[queue][position]._replace(deadline_ns=chance.randint(1, 9))
                c.replace(queue, position, row)
            elif kind == "look":
                c.anybody()

    def _claim(self, c: Any, queue: int) -> None:
        line = c.line(queue, c.generation())
        rank = self.chance.choice(RANKS)
        if line is None or c.clear_cursor(queue, line, rank) is None:
            return
        self.short += 1
        count = self.chance.choice([1, 1, 1, 5])
        positions = [rank << 64 | self.last[queue, rank] + n for n in range(1, count + 1)]
        self.last[queue, rank] += count
        rows = [Row(c.token, OWNER, 0, 1, 0, 1)] * count
        assert c.has_room_for(count)
        c.claim_in_line(queue, line, positions, [(rows[0], count)])
        self.held[queue].update(zip(positions, rows, strict=True))


def _compare(claims: SharedClaims) -> bool:
    known = claims._known
    if known.transaction != claims.last_commit():
        return False
    with claims.read() as c:
        if known.generation >= 0:
            assert c.generation() == known.generation
        assert not (known.nobody_waits and c.anybody())
        for queue, line in known.lines.items():
            assert c.shut(queue) is Shut.OPEN
            assert not list(c.returned(queue))
            assert line.claimed == c.claimed(queue) == len(list(c.rows(queue)))
            assert line.deadline_ns == c.deadline_ns(queue)
            for rank, position in line.cursors.items():
                assert c.cursor(queue, rank) == position
                assert all(at <= position for _, at, _ in c.rows(queue) if at >> 64 == rank)
    return True


def test_what_is_known_after_any_sequence_of_commits_is_what_is_stored(tmp_path: Path) -> None:
    claims = SharedClaims(str(tmp_path / "claims.mdb"), memoryview(bytearray(4096)).cast("Q"))
    claims.open()
    claimant = _Claimant(claims, seed=20)
    compared = 0
    for _ in range(1500):
        claimant.step()
        compared += _compare(claims)
    with claims.read() as c:
        for queue in QUEUES:
            assert {position: row for _, position, row in c.rows(queue)} == claimant.held[queue]
    assert claimant.short > 300
    assert compared > 300
    claims.environment.close()


def test_a_row_is_known_to_be_as_it_was_made_until_a_commit_of_another_kind(tmp_path: Path) -> None:
    claims = SharedClaims(str(tmp_path / "claims.mdb"), memoryview(bytearray(4096)).cast("Q"))
    claims.open()
    made = []
    for seq in range(3):
        with claims.lock, claims.guard, claims.write() as c:
            line = c.line(1, 0)
            if seq == 0:  # the first cursor is made the long way
                c.advance(1, 3 << 64)
                continue
            assert c.clear_cursor(1, line, 3) is not None
            c.claim_in_line(1, line, [3 << 64 | seq], [(Row(c.token, OWNER, 0, 1, 0, 1), 1)])
            made.append(c.commit)
    assert made[0] < claims.last_commit()
    assert all(map(claims.is_undisturbed, made))
    with claims.lock, claims.guard, claims.write() as c:
        c.give_back(1, 3 << 64 | 1, Returned(0, 1))
    assert not any(map(claims.is_undisturbed, made))
    claims.environment.close()


def test_a_transaction_that_is_not_committed_leaves_nothing_known_that_is_not_so(tmp_path: Path) -> None:
    claims = SharedClaims(str(tmp_path / "claims.mdb"), memoryview(bytearray(4096)).cast("Q"))
    claims.open()
    with claims.lock, claims.guard, claims.write() as c:
        c.advance(1, 3 << 64)
    try:
        with claims.lock, claims.guard, claims.write() as c:
            line = c.line(1, 0)
            c.clear_cursor(1, line, 3)
            c.claim_in_line(1, line, [3 << 64 | 1], [(Row(c.token, OWNER, 0, 1, 0, 1), 1)])
            raise ValueError
    except ValueError:
        pass
    with claims.lock, claims.guard, claims.write() as c:
        line = c.line(1, 0)
        assert line is not None
        assert line.claimed == 0
        assert c.clear_cursor(1, line, 3) == 3 << 64
    claims.environment.close()


def test_while_nobody_is_watched_nothing_is_known_of_a_line(tmp_path: Path) -> None:
    """A process that has just joined has not looked whether holders are dead: what they held comes first."""
    with mqlite.Queue("q", tmp_path / "app.mq") as queue:
        claims = queue._engine.claims
        with claims.lock, claims.guard, claims.write() as c:
            assert c.line(queue._state.id, -1) is None
            assert c.line(queue._state.id, queue._engine.presence.generation) is not None
