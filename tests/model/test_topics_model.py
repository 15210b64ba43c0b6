"""Whatever is done to topics, and whoever dies, each subscription has what a plain list would."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from model.steps import BOUNDED
from model.topic_machine import TopicsBesideLists, TopicsOnDiskBesideLists

import mqlite


@pytest.mark.timeout(600)  # when it fails: hypothesis simplifies for up to 300 seconds
def test_topics_in_memory_do_what_lists_would() -> None:
    run_state_machine_as_test(TopicsBesideLists, settings=settings(BOUNDED, max_examples=60))


@pytest.mark.timeout(600)
def test_topics_on_disk_do_what_lists_would_through_closing_kills_and_crashes() -> None:
    run_state_machine_as_test(TopicsOnDiskBesideLists, settings=settings(BOUNDED, max_examples=12))


# ---------------------------------------------------------------------- what it found
def test_a_pattern_without_words_matches_the_routing_key_without_words_only() -> None:
    topic = mqlite.Topic[Any]("t")
    sub = topic.subscribe("s", "")
    topic.publish(1, "a")
    topic.publish(2)
    assert sub.pattern == ""
    assert [message.body for message in sub.browse()] == [2]
    topic.close()


def test_what_a_replay_has_not_reached_is_kept_for_it_though_a_compacted_topic_is_trimmed() -> None:
    topic = mqlite.Topic[Any]("t", retention="limits", compact=True, max_messages=1)
    topic.publish(1, "a")
    sub = topic.subscribe("s", start="earliest")
    topic.publish(2, "b")
    assert [message.body for message in sub.browse()] == [1, 2]
    topic.close()


def test_a_subscription_that_was_still_replayed_to_can_be_removed(path: str) -> None:
    with mqlite.Topic[Any]("t", path, retention="limits", max_messages=1) as topic:
        topic.publish(1)
        topic.subscribe("s", start="earliest")
        topic.publish(2)
        assert topic.unsubscribe("s")
        assert topic.stats().stored == 1
        assert topic.check() == []


def test_a_seek_ahead_lets_go_what_was_kept_for_the_replay() -> None:
    topic = mqlite.Topic[Any]("t", retention="limits", max_messages=1)
    topic.publish(1)
    sub = topic.subscribe("s", start="earliest")
    topic.publish(2)
    sub.seek("latest")
    assert topic.stats().stored == 1
    assert topic.check() == []
    topic.close()


def test_a_message_that_is_rejected_replayed_and_rejected_again_is_two_dead_letters() -> None:
    topic = mqlite.Topic[Any]("t", retention="limits")
    sub = topic.subscribe("s")
    topic.publish(1)
    for _ in range(2):
        sub.receive(timeout=0)[0].reject()
        sub.seek("earliest")
    assert [message.body for message in sub.dead.browse()] == [1, 1]
    assert topic.check() == []
    assert sub.redrive() == 2
    assert topic.check() == []
    topic.close()
