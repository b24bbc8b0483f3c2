"""Rejecting: all that was chosen, or nothing; what is decided stays as it is."""

from __future__ import annotations

import pytest

from flux.core.errors import BrokerError, ConfigurationError, Fault, FluxError
from flux.core.ports import TopicPartition
from flux.operate.dlq.filters import Filter
from flux.operate.dlq.replay_progress import DeadLetterState, read_progress
from unit.support.operate_support import DEAD, OperateKit, dead_letter, only, places


def states(yard: OperateKit, count: int) -> list[str]:
    found = read_progress(yard.admin, yard.policy)
    assert found is not None
    return [found[0].state_of(dead_letter(offset=offset)).value for offset in range(count)]


def test_those_that_match_are_rejected_and_stay_in_the_topic() -> None:
    yard = OperateKit()
    yard.bury({"error": "A"}, {"error": "B"}, {"error": "A"})
    result = yard.reject(only(error="A"))
    assert (result.rejected, result.decided, result.missing) == ([(0, 0), (0, 2)], 0, 0)
    assert states(yard, 3) == ["rejected", "open", "rejected"]
    assert len(yard.broker.records(DEAD)) == 3


def test_what_is_decided_is_counted_and_stays() -> None:
    yard = OperateKit()
    yard.bury({}, {}, {})
    yard.replay(criteria=places((0, 0)))
    yard.reject(places((0, 1)))
    result = yard.reject(Filter())
    assert (result.rejected, result.decided) == ([(0, 2)], 2)
    assert states(yard, 3) == ["replayed", "rejected", "rejected"]


def test_a_trial_marks_nothing() -> None:
    yard = OperateKit()
    yard.bury({})
    assert yard.reject(Filter(), dry=True).rejected == [(0, 0)]
    assert read_progress(yard.admin, yard.policy) == {}


def test_one_that_is_interrupted_rejects_nothing() -> None:
    yard = OperateKit()
    yard.bury({}, {})
    assert yard.reject(Filter(), should_stop=lambda: True).rejected == []
    assert read_progress(yard.admin, yard.policy) == {}


def test_a_place_without_a_dead_letter_is_counted_or_refused() -> None:
    yard = OperateKit()
    yard.bury({}, {})
    yard.broker.delete_records(TopicPartition(DEAD, 0), 1)
    result = yard.reject(places((0, 0), (0, 1)))
    assert (result.rejected, result.missing) == ([(0, 1)], 1)
    with pytest.raises(ConfigurationError, match="there is no dead letter at 0:2"):
        yard.reject(places((0, 2)))


def test_more_than_the_commit_holds_are_refused_and_none_is_rejected() -> None:
    yard = OperateKit()
    yard.policy = type(yard.policy)(yard.policy.stages, max_metadata=60)
    yard.bury(*[{"error": "A" if number % 2 else "B"} for number in range(400)])
    with pytest.raises(FluxError, match="200 dead letters of a partition"):
        yard.reject(only(error="A"))
    assert read_progress(yard.admin, yard.policy) == {}


def test_a_replay_at_the_same_time_is_noticed() -> None:
    yard = OperateKit()
    yard.bury({"error": "A"}, {"error": "B"})

    def meanwhile(count: int) -> None:
        yard.replay()

    with pytest.raises(BrokerError, match="something else, such as another replay"):
        yard.reject(only(error="A"), on_progress=meanwhile)
    assert states(yard, 2) == ["replayed", "replayed"]


def test_a_login_that_may_not_see_the_group_gets_no_states(monkeypatch: pytest.MonkeyPatch) -> None:
    yard = OperateKit()

    def refuse(*_: object) -> None:
        raise BrokerError("no", Fault.DENIED)

    monkeypatch.setattr(type(yard.admin), "members", refuse)
    assert read_progress(yard.admin, yard.policy) is None


def test_the_states_are_three() -> None:
    assert [state.value for state in DeadLetterState] == ["open", "replayed", "rejected"]
