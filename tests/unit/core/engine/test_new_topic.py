"""A topic that was created just now may be unknown to some brokers for a moment."""

from __future__ import annotations

from flux.core.engine.new_topic import SPREAD, TopicPropagation
from flux.core.errors import BrokerError, Fault

UNKNOWN = BrokerError("unknown", Fault.UNKNOWN_TOPIC)


def test_an_unknown_topic_is_tolerated_for_a_moment_from_the_first_report() -> None:
    topic = TopicPropagation()
    assert topic.over(0.0) is None
    topic.unknown(UNKNOWN, 5.0)
    assert topic.over(5.0) is None
    last = BrokerError("still unknown", Fault.UNKNOWN_TOPIC)
    topic.unknown(last, 5.0 + SPREAD / 2)
    assert topic.over(5.0 + SPREAD - 0.1) is None
    assert topic.over(5.0 + SPREAD) is last


def test_a_topic_that_was_assigned_is_known() -> None:
    topic = TopicPropagation()
    topic.unknown(UNKNOWN, 0.0)
    topic.known()
    assert topic.over(SPREAD) is None


def test_a_clock_set_back_does_not_make_it_tolerated_for_longer() -> None:
    topic = TopicPropagation()
    topic.unknown(UNKNOWN, 100.0)
    assert topic.over(50.0) is UNKNOWN
