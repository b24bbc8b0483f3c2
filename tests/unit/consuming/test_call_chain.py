"""What stands around a call: middleware, the deserializer, the age, the time limit; of one record and of batches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flux.consuming.awaited import calls as awaited_calls
from flux.consuming.blocking import calls as blocking_calls
from flux.consuming.call_chain import (
    check_middleware,
    decoding,
    expiring,
    limited,
    prepared,
    surrounded,
)
from flux.consuming.call_results import failure_of
from flux.consuming.call_timing import SlowCalls
from flux.consuming.task_runtime import TaskRuntime
from flux.core.engine.batches import OpenBatch
from flux.core.engine.verdicts import BatchFailure, Expired, Pause, Reject, Retry, Tombstone, Undecodable
from flux.core.errors import ConfigurationError
from flux.core.message import Message
from unit.support.engine_support import T0, message, policy, record


def of(offset: int, value: bytes = b"v", **fields: Any) -> Message:
    return message(record(offset, value=value, **fields))


def as_async(function: Callable[[Any], Any]) -> Callable[[Any], Awaitable[Any]]:
    async def call(given: Any) -> Any:
        await asyncio.sleep(0)
        return function(given)

    return call


# ---- middleware


def test_middleware_is_entered_in_order_and_left_in_reverse() -> None:
    passed: list[str] = []

    def named(name: str) -> Callable[[Any, Any], Any]:
        def around(given: Any, call_next: Any) -> Any:
            passed.append(f"{name} in")
            result = call_next(given)
            passed.append(f"{name} out")
            return result

        return around

    surrounded(lambda given: passed.append("call"), [named("first"), named("second")])(of(0))
    assert passed == ["first in", "second in", "call", "second out", "first out"]


def test_without_middleware_the_handler_is_the_call_itself() -> None:
    def call(given: Any) -> None: ...

    assert surrounded(call, ()) is call
    assert prepared(call, ()) is call
    assert blocking_calls.prepared_batch(call, ()) is call


def test_middleware_may_end_a_call_without_making_it() -> None:
    calls: list[Any] = []
    surrounded(calls.append, [lambda given, call_next: None])(of(0))
    assert calls == []


def refusing(given: Any, call_next: Any) -> Any: ...


async def waiting(given: Any, call_next: Any) -> Any: ...


class Around:
    def __call__(self, given: Any, call_next: Any) -> Any: ...


@pytest.mark.parametrize(
    ("middleware", "awaited", "complaint"),
    [
        ("log", False, "must be a list"),
        (refusing, False, "must be a list"),
        ([None], False, "must take \\(message, call_next\\)"),
        ([lambda given: None], False, "must take \\(message, call_next\\)"),
        ([waiting], False, "is a coroutine function, and the call is not"),
    ],
)
def test_middleware_that_could_never_be_called_is_refused(middleware: object, awaited: bool, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        check_middleware("Billing", middleware, awaited)


def test_functions_objects_and_partials_are_middleware() -> None:
    given = [refusing, Around(), partial(refusing)]
    assert check_middleware("Billing", given, False) == tuple(given)
    assert check_middleware("Billing", [waiting], True) == (waiting,)


# ---- one record


def test_a_message_is_decoded_before_the_call() -> None:
    seen: list[Any] = []
    prepared(lambda given: seen.append(given.value), [decoding(lambda data: data and data.decode())])(of(0, b"text"))
    assert seen == ["text"]


def test_what_cannot_be_decoded_is_not_called_and_says_why() -> None:
    calls: list[Any] = []

    def refuse(data: bytes | None) -> Any:
        raise ValueError("not JSON")

    with pytest.raises(Undecodable, match="ValueError: not JSON") as raised:
        prepared(calls.append, [decoding(refuse)])(of(0))
    assert isinstance(raised.value.__cause__, ValueError)
    assert calls == []


def test_a_failure_to_decode_shows_the_users_frames_and_none_of_flux() -> None:
    def prices(data: bytes | None) -> int:
        return int(data or b"")

    with pytest.raises(Undecodable) as raised:
        prepared(lambda message: None, [decoding(prices)])(of(0))
    trace = failure_of(raised.value).trace
    assert "in prices" in trace
    assert "/flux/consuming/" not in trace


@pytest.mark.parametrize("check", [Expired(), Tombstone()])
def test_flux_s_own_checks_have_no_traceback(check: Exception) -> None:
    with pytest.raises(type(check)) as raised:
        raise check
    assert failure_of(raised.value).trace == ""


@pytest.mark.parametrize("known", [Reject("no"), Retry(after=3), Pause(5), Tombstone(), MemoryError()])
def test_a_deserializer_may_say_what_is_to_become_of_the_record(known: Exception) -> None:
    def refuse(data: bytes | None) -> Any:
        raise known

    with pytest.raises(type(known)) as raised:
        prepared(lambda given: None, [decoding(refuse)])(of(0))
    assert raised.value is known


def test_work_that_is_too_old_is_not_called() -> None:
    now = [T0 + 100.0]
    calls: list[Any] = []
    call = prepared(calls.append, [expiring(100, lambda: now[0])])
    call(of(0))
    now[0] += 0.01
    with pytest.raises(Expired, match="older than give_up_after = 100 s"):
        call(of(1))
    assert [each.offset for each in calls] == [0]


# ---- batches

OLD, YOUNG = int((T0 - 200) * 1000), int(T0 * 1000)


def batched(handler: Callable[[Any], Any], awaited: bool) -> Callable[[Sequence[Message]], None]:
    steps = [expiring(100, lambda: T0), decoding(_decode)]
    call: Any = blocking_calls.prepared_batch(handler, steps)
    if awaited:
        call = awaited_calls.prepared_batch(as_async(handler), steps)

    def run(messages: Sequence[Message]) -> None:
        if awaited:
            asyncio.run(call(messages))
        else:
            call(messages)

    return run


def _decode(data: bytes | None) -> Any:
    if data == b"bad":
        raise ValueError("not JSON")
    return (data or b"").decode()


def mixed() -> list[Message]:
    return [of(0, b"a"), of(1, b"b", timestamp=OLD), of(2, b"bad"), of(3, b"c")]


def kinds(failed: BatchFailure) -> dict[int, type]:
    return {each.offset: type(error) for each, error in failed.failures.items()}


both = pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])


@both
def test_of_a_batch_the_good_ones_are_called_and_the_others_fail_alone(awaited: bool) -> None:
    called: list[Any] = []
    with pytest.raises(BatchFailure) as raised:
        batched(lambda messages: called.append([each.value for each in messages]), awaited)(mixed())
    assert called == [["a", "c"]]
    assert kinds(raised.value) == {1: Expired, 2: Undecodable}


@both
def test_a_batch_with_none_to_call_is_not_called(awaited: bool) -> None:
    called: list[Any] = []
    with pytest.raises(BatchFailure) as raised:
        batched(called.append, awaited)(mixed()[1:3])
    assert called == []
    assert kinds(raised.value) == {1: Expired, 2: Undecodable}


@both
def test_what_the_call_says_of_some_is_told_with_the_others(awaited: bool) -> None:
    def call(messages: Sequence[Message]) -> None:
        raise BatchFailure({messages[1]: Retry()})

    with pytest.raises(BatchFailure) as raised:
        batched(call, awaited)(mixed())
    assert kinds(raised.value) == {1: Expired, 2: Undecodable, 3: Retry}


@both
@pytest.mark.parametrize("foreign", [False, True])
def test_what_the_call_says_of_all_leaves_the_others_their_own_reason(awaited: bool, foreign: bool) -> None:
    def call(messages: Sequence[Message]) -> None:
        raise BatchFailure({of(99): ValueError()}) if foreign else ValueError("all")

    with pytest.raises(BatchFailure) as raised:
        batched(call, awaited)(mixed())
    own = BatchFailure if foreign else ValueError
    assert kinds(raised.value) == {0: own, 1: Expired, 2: Undecodable, 3: own}


@both
def test_a_failure_of_the_process_is_that_of_all_that_were_called(awaited: bool) -> None:
    def call(messages: Sequence[Message]) -> None:
        raise MemoryError

    with pytest.raises(BatchFailure) as raised:
        batched(call, awaited)(mixed())
    assert kinds(raised.value) == {0: MemoryError, 1: Expired, 2: Undecodable, 3: MemoryError}


@pytest.mark.parametrize("failures", [{}, {"a": ValueError()}, {of(0): "bad"}])
def test_failed_names_messages_with_their_exceptions(failures: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="BatchFailure"):
        BatchFailure(failures)


# ---- time limits


def test_a_call_is_cancelled_at_its_limit_and_fails() -> None:
    ended: list[str] = []

    async def call(given: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    with pytest.raises(TimeoutError, match=r"the call took longer than timeout = 0\.01 s"):
        asyncio.run(limited(call, 0.01)(of(0)))
    assert ended == ["cancelled"]


def test_a_timeout_of_the_calls_own_stays_as_it_is() -> None:
    async def call(given: Any) -> None:
        raise TimeoutError("the database")

    with pytest.raises(TimeoutError, match="the database"):
        asyncio.run(limited(call, 60)(of(0)))


def test_a_stop_that_cancels_a_call_is_no_timeout() -> None:
    async def main() -> None:
        task = asyncio.create_task(cast(Any, limited(lambda given: asyncio.Event().wait(), 60)(of(0))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_time_limit_leaves_what_was_refused_before_the_call_its_own_reason() -> None:
    async def call(messages: Sequence[Message]) -> None:
        await asyncio.Event().wait()

    job = TaskRuntime(
        name="Billing",
        task=cast(Any, SimpleNamespace(call=call)),
        policy=policy(batch=OpenBatch(), timeout=0.01, give_up_after=100),
        adapter=cast(Any, None),
        system=cast(Any, SimpleNamespace(now=lambda: T0)),
        decoder=_decode,
    )
    with pytest.raises(BatchFailure) as raised:
        asyncio.run(job.handler(mixed()))
    assert kinds(raised.value) == {0: TimeoutError, 1: Expired, 2: Undecodable, 3: TimeoutError}


def test_a_call_that_blocks_beyond_its_limit_is_named_once_with_its_thread() -> None:
    now = [T0]
    slow_calls = SlowCalls(5, lambda: now[0])
    found = []

    def call(given: Any) -> None:
        now[0] += 5
        assert slow_calls.found(now[0]) == []
        now[0] += 0.1
        found.extend(slow_calls.found(now[0]))
        assert slow_calls.found(now[0] + 100) == []

    slow_calls.watching(call)(of(3))
    [late] = found
    assert (late.message.offset, late.thread, late.began) == (3, threading.get_ident(), T0)
    assert slow_calls.found(now[0] + 100) == []


def test_a_batch_that_blocks_is_named_by_its_first_record() -> None:
    slow_calls = SlowCalls(5, lambda: T0)
    found: list[Any] = []
    slow_calls.watching(lambda messages: found.extend(slow_calls.found(T0 + 6)))([of(3), of(4)])
    assert [late.message.offset for late in found] == [3]


def test_a_call_that_raises_is_not_named_afterwards() -> None:
    slow_calls = SlowCalls(5, lambda: T0)

    def call(given: Any) -> None:
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        slow_calls.watching(call)(of(0))
    assert slow_calls.found(T0 + 100) == []
