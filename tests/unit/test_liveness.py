"""Who lives, told by the kernel: two views of one folder stand for two processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mqlite.system.liveness import Liveness


@pytest.fixture(params=["pipes", "files"])
def view(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Liveness]]:
    """Makes views, where named pipes can be made and where they cannot."""
    if request.param == "files":

        def refused(*_: Any, **__: Any) -> None:
            raise PermissionError("no pipes here")

        monkeypatch.setattr(os, "mkfifo", refused)
    views: list[Liveness] = []

    def make() -> Liveness:
        views.append(Liveness(str(tmp_path)))
        return views[-1]

    yield make
    for made in views:
        made.forget()


def test_who_joined_lives(view: Callable[[], Liveness]) -> None:
    me, other = view(), view()
    owner = me.join()
    assert other.is_alive(owner)


def test_who_never_joined_does_not_live(view: Callable[[], Liveness]) -> None:
    assert not view().is_alive(5)


def test_ids_do_not_repeat(view: Callable[[], Liveness]) -> None:
    assert len({view().join() for _ in range(20)}) == 20


def test_who_left_does_not_live_and_leaves_no_file(view: Callable[[], Liveness], tmp_path: Path) -> None:
    me, other = view(), view()
    owner = me.join()
    me.leave(owner)
    assert (other.is_alive(owner), os.listdir(tmp_path)) == (False, [])


def test_who_lost_all_descriptors_is_dead(view: Callable[[], Liveness]) -> None:
    me, other = view(), view()
    owner = me.join()
    me.forget()  # what the kernel does when a process dies
    assert not other.is_alive(owner)


def test_looking_at_the_dead_does_not_revive_them(view: Callable[[], Liveness]) -> None:
    me, other = view(), view()
    owner = me.join()
    me.forget()
    assert [other.is_alive(owner) for _ in range(3)] == [False] * 3


def test_a_death_is_seen_by_those_who_watch(view: Callable[[], Liveness]) -> None:
    me, other = view(), view()
    owner = me.join()
    other.watch([owner])
    before = other.any_died()
    me.forget()
    assert (before, other.any_died()) == (False, True)


def test_a_death_before_the_watch_is_seen_too(view: Callable[[], Liveness]) -> None:
    me, other = view(), view()
    owner = me.join()
    me.forget()
    other.watch([owner])
    assert other.any_died()


def test_who_is_not_watched_any_more_is_not_reported(view: Callable[[], Liveness]) -> None:
    me, other = view(), view()
    owner = me.join()
    other.watch([owner])
    other.watch([])
    me.forget()
    assert not other.any_died()


def test_a_buried_owner_is_not_reported_again(view: Callable[[], Liveness], tmp_path: Path) -> None:
    me, other = view(), view()
    owner = me.join()
    other.watch([owner])
    me.forget()
    other.bury(owner)
    assert (other.any_died(), os.listdir(tmp_path)) == (False, [])


def test_burying_twice_is_no_error(view: Callable[[], Liveness]) -> None:
    other = view()
    other.bury(5)
    other.bury(5)


def test_nobody_watched_means_nobody_died(view: Callable[[], Liveness]) -> None:
    other = view()
    assert (other.any_died(), other.unseen, other.descriptors()) == (False, False, [])


def test_a_living_pipe_can_be_polled_and_a_file_cannot(view: Callable[[], Liveness], request: pytest.FixtureRequest) -> None:
    me, other = view(), view()
    other.watch([me.join()])
    pipes = request.node.callspec.params["view"] == "pipes"
    assert (len(other.descriptors()), other.unseen) == ((1, False) if pipes else (0, True))


def test_no_descriptor_is_left_open(view: Callable[[], Liveness]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    me, other = view(), view()
    owner = me.join()
    other.watch([owner])
    other.is_alive(owner)
    me.forget()
    other.bury(owner)
    other.forget()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_thousand_views_of_one_owner_agree(view: Callable[[], Liveness]) -> None:
    me, other = view(), view()
    owner = me.join()
    assert all(other.is_alive(owner) for _ in range(1000))
