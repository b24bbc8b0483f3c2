"""What the end of a call means."""

from __future__ import annotations

import asyncio

import pytest

from flux.core.outcome import NEXT, REJECTED, STOP, UNDECODABLE, Move, Reject, Retry, Rules, Undecodable


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
    [MemoryError(), SystemExit(), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit(), BaseException()],
)
def test_a_failure_of_the_process_is_never_the_records(error: BaseException) -> None:
    every = Rules((BaseException, type(error)), (type(error),))
    assert every.verdict(error) is STOP
    assert every.verdict(BaseExceptionGroup("many", [KeyboardInterrupt()])) is STOP


def test_what_a_call_asks_for_comes_before_the_rules() -> None:
    never = Rules((), (Exception,))
    assert never.verdict(Retry()) is NEXT
    assert never.verdict(Retry(after=3)).after == 3
    always = Rules((Exception,))
    assert always.verdict(Reject("no")) is REJECTED
    assert always.verdict(Undecodable()) is UNDECODABLE


@pytest.mark.parametrize("after", [-1, float("nan"), -0.001])
def test_a_wait_that_is_no_wait_is_refused_where_it_is_raised(after: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        Retry(after=after)


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
