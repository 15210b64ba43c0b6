"""What is known of a message that was given back, and is gone: a process may be killed between the two commits."""

from __future__ import annotations

import pytest

import mqlite
from mqlite.engine.aftermath import Aftermath


def test_a_place_that_was_given_back_and_is_gone_is_no_problem_and_goes_with_the_next_look(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with mqlite.open(path) as broker:
        topic = broker.topic("t", retention="limits")
        subscription = topic.subscribe("s")
        topic.publish("old")
        subscription.receive()[0].nack()
        claims, number = broker._store.engine.claims, subscription._state.id
        with monkeypatch.context() as killed:
            killed.setattr(Aftermath, "_drop", lambda *what: None)  # as if it was, behind the commit of the log
            subscription.seek("latest")
        with claims.read() as c:
            assert c.anything_returned(number)
        assert broker.check() == []
        with pytest.raises(mqlite.Empty):
            subscription.receive(timeout=0)
        with claims.read() as c:
            assert not c.anything_returned(number)
        topic.publish("new")
        assert subscription.get(timeout=0) == "new"
        assert broker.check() == []
