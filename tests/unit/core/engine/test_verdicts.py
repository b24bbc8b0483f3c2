"""What the end of a call means."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from flux.core.engine.verdicts import (
    EXPIRED,
    NEXT,
    PAUSE,
    PROCESS,
    REJECTED,
    STOP,
    TOMBSTONE,
    UNDECODABLE,
    BatchFailure,
    Expired,
    Move,
    Pause,
    Reject,
    Retry,
    Rules,
    Skipped,
    Tombstone,
    Undecodable,
    Verdict,
    failures_of,
)
from unit.support.engine_support import message, record


class Base(Exception): ...


class Middle(Base): ...


class Leaf(Middle): ...


@pytest.mark.parametrize(
    ("retry_on", "reject_on", "verdict"),
    [
        ((Exception,), (), NEXT),
        ((Exception,), (Middle,), REJECTED),
        ((Middle,), (Base,), NEXT),
        ((Base,), (Middle,), REJECTED),
        ((Leaf,), (Leaf,), REJECTED),
        ((ValueError,), (), REJECTED),
        ((), (), REJECTED),
        ((object,), (), NEXT),
    ],
)
def test_the_nearest_class_wins_and_ties_and_no_match_reject(
    retry_on: tuple[type[BaseException], ...], reject_on: tuple[type[BaseException], ...], verdict: object
) -> None:
    assert Rules(retry_on, reject_on).verdict(Leaf()) is verdict


def test_with_two_bases_the_order_of_the_mro_decides() -> None:
    class Both(ValueError, KeyError): ...

    assert Rules((ValueError,), (KeyError,)).verdict(Both()) is NEXT
    assert Rules((KeyError,), (ValueError,)).verdict(Both()) is REJECTED


@pytest.mark.parametrize(
    "error",
    [MemoryError(), SystemExit(), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()],
)
def test_a_failure_of_the_process_is_never_the_records(error: BaseException) -> None:
    every = Rules((BaseException, type(error)), (type(error),), process=(*PROCESS, asyncio.CancelledError))
    assert every.verdict(error) is STOP
    assert every.verdict(BaseExceptionGroup("many", [BaseExceptionGroup("more", [ValueError(), error])])) is STOP


class Panic(BaseException):
    """As pyo3's PanicException, and gevent's Timeout."""


@pytest.mark.parametrize(
    ("lists", "verdict"),
    [
        ({"reject_on": (Panic,)}, REJECTED),
        ({"retry_on": (Exception, Panic)}, NEXT),
        ({"pause_on": (Panic,)}, PAUSE),
        ({"retry_on": (BaseException,)}, NEXT),
        ({}, STOP),
        ({"retry_on": ()}, STOP),
    ],
)
def test_what_is_no_exception_class_counts_where_it_is_named(lists: dict[str, Any], verdict: object) -> None:
    assert Rules(**lists).verdict(Panic()) is verdict


def test_an_exception_that_answers_nothing_is_judged_by_its_bases() -> None:
    class Silent(type):
        """Claims to be equal to everything, and answers nothing."""

        def __eq__(cls, other: object) -> bool:
            raise RuntimeError("no comparison")

        def __hash__(cls) -> int:
            raise RuntimeError("no hash")

        def __getattribute__(cls, name: str) -> Any:
            raise RuntimeError("no attributes")

    class Hostile(Exception, metaclass=Silent):
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError("no attributes")

    assert Rules().verdict(Hostile()) is NEXT
    assert Rules(reject_on=(Hostile,)).verdict(Hostile()) is REJECTED


def test_a_wait_that_cannot_be_had_is_none() -> None:
    class Raises(Retry):
        @property
        def after(self) -> float:
            raise RuntimeError

        @after.setter
        def after(self, seconds: float | None) -> None: ...

    assert Rules().verdict(Raises()) is NEXT


def test_what_a_call_asks_for_comes_before_the_rules() -> None:
    never = Rules((), (Exception,))
    assert never.verdict(Retry()) is NEXT
    assert never.verdict(Retry(after=3)) == Verdict(Move.NEXT, "error", 3.0)
    assert never.verdict(Retry(after=0)) == Verdict(Move.NEXT, "error", 0.0)
    always = Rules((Exception,))
    assert always.verdict(Reject("no")) is REJECTED
    assert always.verdict(Undecodable()) is UNDECODABLE
    assert always.verdict(Tombstone()) is TOMBSTONE


@pytest.mark.parametrize("after", [-1, float("nan"), -0.001])
def test_a_wait_that_is_no_wait_is_refused_where_it_is_raised(after: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        Retry(after=after)


@pytest.mark.parametrize("wait", [600, 1.5, timedelta(minutes=10)])
def test_a_wait_that_is_not_named_is_no_reason(wait: Any) -> None:
    with pytest.raises(TypeError, match=r"Retry\(.*\): a wait is named: Retry\(after="):
        Retry(wait)


def test_a_retry_whose_subclass_forgot_to_call_ours_waits_as_its_stage_does() -> None:
    class Hasty(Retry):
        def __init__(self) -> None:
            pass

    assert Rules().verdict(Hasty()).move is Move.NEXT


@pytest.mark.parametrize("after", ["soon", -5, float("nan"), None])
def test_a_wait_set_later_to_nonsense_counts_as_none(after: object) -> None:
    error = Retry()
    error.after = after  # type: ignore[assignment]
    assert Rules().verdict(error) is NEXT


@pytest.mark.parametrize(("seconds", "after"), [(5, 5.0), (0, 0.0), (None, None)])
def test_a_pause_may_say_how_long(seconds: float | None, after: float | None) -> None:
    assert Rules().verdict(Pause(seconds)) == Verdict(Move.PAUSE, after=after)


@pytest.mark.parametrize("seconds", ["soon", -5, float("nan"), float("inf")])
def test_a_pause_set_later_to_nonsense_counts_as_none(seconds: object) -> None:
    error = Pause()
    error.seconds = seconds  # type: ignore[assignment]
    assert Rules().verdict(error) is PAUSE


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_a_pause_that_is_none_is_refused_where_it_is_raised(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        Pause(seconds)


def test_a_record_that_expired_is_a_dead_letter() -> None:
    assert Rules().verdict(Expired()) is EXPIRED


FIRST, SECOND = message(record(0)), message(record(1))


def test_a_batch_fails_as_a_whole_or_with_the_messages_that_it_names() -> None:
    named = {FIRST: ValueError()}
    assert failures_of([FIRST, SECOND], BatchFailure(named)) == named
    error = KeyError()
    assert failures_of([FIRST, SECOND], error) == {FIRST: error, SECOND: error}


def test_a_batch_that_names_a_message_of_another_fails_as_a_whole() -> None:
    error = BatchFailure({SECOND: ValueError()})
    assert failures_of([FIRST], error) == {FIRST: error}


def test_a_batch_failure_whose_dictionary_was_broken_fails_the_whole_batch() -> None:
    error = BatchFailure({FIRST: ValueError()})
    error.failures = None  # type: ignore[assignment]
    assert failures_of([FIRST, SECOND], error) == {FIRST: error, SECOND: error}


def test_a_batch_failure_names_messages_and_exceptions() -> None:
    with pytest.raises(ValueError, match="name the messages"):
        BatchFailure({})
    for named in ({"x": ValueError()}, {FIRST: "x"}):
        with pytest.raises(TypeError, match="give message -> exception"):
            BatchFailure(named)  # type: ignore[arg-type]


def test_a_type_has_the_same_verdict_each_time() -> None:
    rules = Rules(reject_on=(ValueError,))
    assert [rules.verdict(ValueError()), rules.verdict(ValueError("again"))] == [REJECTED, REJECTED]


def test_its_reason_is_its_text() -> None:
    assert [str(error) for error in (Reject(), Reject("no"))] == ["rejected", "no"]
    assert [str(error) for error in (Retry(), Retry("later", after=1))] == ["retry", "later"]
    assert [str(error) for error in (Pause(), Pause(1, "down"))] == ["paused", "down"]
    assert str(BatchFailure({FIRST: ValueError(), SECOND: ValueError()})) == "2 record(s) failed"


def test_a_refused_batch_failure_names_what_it_was_given() -> None:
    with pytest.raises(
        ValueError, match=r"^BatchFailure\(\{\}\): name the messages that failed, each with its exception$"
    ):
        BatchFailure({})
    with pytest.raises(TypeError, match=r"^BatchFailure\(\{str: int\}\): give message -> exception$"):
        BatchFailure({"x": 1})  # type: ignore[dict-item]


def test_a_batch_may_name_all_of_its_messages() -> None:
    named: dict[Any, BaseException] = {FIRST: ValueError(), SECOND: KeyError()}
    assert failures_of([FIRST, SECOND], BatchFailure(named)) == named


def test_the_same_type_is_judged_once() -> None:
    class Counted(Rules):
        judged = 0

        def _verdict(self, error: BaseException) -> Verdict:
            Counted.judged += 1
            return super()._verdict(error)

    rules = Counted()
    assert [rules.verdict(ValueError()) for _ in range(3)] == [NEXT] * 3
    assert Counted.judged == 1


def test_a_skipped_record_is_dead_and_counts_no_attempt() -> None:
    verdict = Rules(retry_on=(Skipped,)).verdict(Skipped("why"))
    assert (verdict.move, verdict.reason, verdict.attempted) == (Move.DEAD, "skipped", False)
