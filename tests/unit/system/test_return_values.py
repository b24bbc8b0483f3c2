"""Work that nobody did does not count as done: what calls, middleware, hooks, setup and close return is looked at."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

import flux
from flux.core.engine.verdicts import NotAwaited, SubtaskCancelled
from flux.core.errors import BrokerError, Fault
from flux.system.return_values import check_returned, is_async
from flux.testing import Kit
from unit.support.peers_support import Peer, wait_for

ran: list[int] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> Iterator[None]:
    """Python's own complaint about a coroutine that nobody awaited would be a second one, and a warning that no test
    of an application can tell from its own."""
    ran.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


async def go(given: Any) -> None:
    ran.append(1)


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    """As a decorator that knows nothing of functools.wraps."""
    return lambda *args: function(*args)


def tasks(call: Callable[[Any], Any], **settings: Any) -> type[flux.Task]:
    class Billing(flux.Task):
        topic, group_id, retries, wait = "orders", "billing", 1, 1

    Billing.call = lambda self, message: call(message)  # type: ignore[method-assign]
    for name, value in settings.items():
        setattr(Billing, name, value)
    return Billing


def batches(call: Callable[[Any], Any], **settings: Any) -> type[flux.BatchTask]:
    class Storing(flux.BatchTask):
        topic, group_id, retries, wait, max_wait = "orders", "billing", 1, 1, 0.0

    Storing.call = lambda self, messages: call(messages)  # type: ignore[method-assign]
    for name, value in settings.items():
        setattr(Storing, name, value)
    return Storing


# ---- what can be seen at the start


class Async:
    async def __call__(self, message: Any) -> None:
        ran.append(1)


def a_generator(self: Any, message: Any) -> Iterator[None]:
    yield


async def an_async_generator(self: Any, message: Any) -> Any:
    yield


async def a_coroutine(self: Any, message: Any) -> None: ...


@pytest.mark.parametrize(
    ("attributes", "complaint"),
    [
        ({"call": a_generator}, "contains a yield"),
        ({"call": an_async_generator}, "contains a yield"),
        ({"call": functools.partialmethod(a_generator)}, "contains a yield"),
        ({"call": traced(a_coroutine)}, "Billing.call is no coroutine function, but wraps one"),
        ({"call": lambda self: None}, r"Billing.call must take \(message\), not \(\)"),
        ({"call": lambda self, message, more: None}, r"Billing.call must take \(message\), not \(message, more\)"),
        ({"call": 5}, r"Billing.call must take \(message\): 5 cannot be called"),
        ({"setup": lambda self: (yield)}, "Billing.setup contains a yield"),
        ({"setup": lambda self, more: None}, r"Billing.setup must take \(\)"),
        (
            {"setup": lambda self: go(1), "close": go},
            r"Billing.close is a coroutine function, which is never awaited because call is none: make both async def",
        ),
        ({"deserializer": lambda self, value: None}, "Billing.deserializer takes two arguments, as a method does"),
        ({"deserializer": "json"}, "deserializer = 'json': give a function, such as flux.serde.json_deserializer"),
        ({"deserializer": 5}, "deserializer = 5: give a function"),
        ({"deserializer": go}, "Billing.deserializer is a coroutine function"),
        ({"error_headers": go}, "error_headers is a coroutine function"),
        ({"serializer": 5}, "serializer = 5: give a function, such as flux.serde.json_serializer"),
        ({"middleware": [lambda message, call_next: (yield)]}, "contains a yield"),
        ({"middleware": [traced(a_coroutine)]}, "wraps one"),
    ],
)
def test_what_could_never_do_its_work_is_refused_at_the_start(attributes: dict[str, Any], complaint: str) -> None:
    task = type(
        "Billing", (flux.Task,), {"topic": "orders", "group_id": "g", "call": lambda self, m: None} | attributes
    )
    with pytest.raises(flux.ConfigurationError, match=complaint):
        flux.Worker(task, adapter=Peer().adapter)


@pytest.mark.parametrize("function", [lambda: None, a_generator, traced(go), lambda message, more: None])
def test_a_function_that_is_no_call_is_refused_where_it_is_made_a_task(function: Any) -> None:
    with pytest.raises(flux.ConfigurationError, match=r"@flux\.task: "):
        flux.task(topic="orders", group_id="g")(function)


class AsyncHook(flux.Hooks):
    async def on_start(self, where: flux.StageInfo, message: flux.Message) -> None:  # type: ignore[override]
        ...


class YieldingHook(flux.Hooks):
    def on_success(self, where: flux.StageInfo, message: flux.Message, seconds: float) -> Any:
        yield


class BareAround(flux.Hooks):
    def around(self, where: flux.StageInfo, message: flux.Message) -> Any:
        yield


@pytest.mark.parametrize(
    ("hook", "complaint"),
    [
        (AsyncHook(), "AsyncHook.on_start is a coroutine function, which is never awaited"),
        (YieldingHook(), "YieldingHook.on_success only makes a generator: take the yield out"),
        (BareAround(), "BareAround.around only makes a generator: decorate it with contextlib.contextmanager"),
    ],
)
def test_a_hook_that_could_never_do_its_work_is_refused_at_the_start(hook: flux.Hooks, complaint: str) -> None:
    with pytest.raises(flux.ConfigurationError, match=complaint):
        flux.Worker(tasks(lambda message: None, hooks=[hook]), adapter=Peer().adapter)


def test_an_on_error_that_could_never_do_its_work_is_refused(flux_kit: Kit) -> None:
    class Orders(flux.Producer):
        topic = "orders"

        @classmethod
        async def on_error(cls, error: flux.DeliveryError) -> None:  # type: ignore[override]
            ...

    with pytest.raises(flux.ConfigurationError, match="on_error is a coroutine function"):
        Orders.produce(b"x")


@pytest.mark.parametrize("function", [Async(), functools.partial(go), functools.partial(Async()), go])
def test_what_gives_coroutines_is_awaited_however_it_is_made(flux_kit: Kit, function: Any) -> None:
    assert is_async(function)
    flux_kit.produce("orders", "x")
    assert flux_kit.run(flux.task(topic="orders", group_id="g")(function)).done == 1
    assert ran == [1]


def test_a_wrapper_may_give_the_call_more_than_it_is_given(flux_kit: Kit) -> None:
    def with_session(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(self: Any, message: Any) -> Any:
            return function(self, message, "session")

        return wrapper

    @with_session
    def call(self: Any, message: Any, session: str) -> None:
        ran.append(len(session))

    task = type("Billing", (flux.Task,), {"topic": "orders", "group_id": "g", "call": call})
    flux_kit.produce("orders", "x")
    assert flux_kit.run(task).done == 1
    assert ran == [7]


# ---- what is seen when it returns


class Awaitable:
    def __await__(self) -> Iterator[None]:
        yield


LAZY: dict[str, Callable[[Any], Any]] = {
    "a coroutine": lambda given: go(given),
    "a decorated coroutine function": plainly(go),
    "a generator": lambda given: (float(each) for each in "123"),
    "an async generator": lambda given: an_async_generator(None, given),
    "a map": lambda given: map(float, [1]),
    "a future": lambda given: Future(),
    "an awaitable": lambda given: Awaitable(),
}
lazy = pytest.mark.parametrize("call", LAZY.values(), ids=LAZY.keys())


def as_async(call: Callable[[Any], Any]) -> Callable[..., Any]:
    async def call_async(self: Any, given: Any) -> Any:
        return call(given)

    return call_async


@pytest.mark.parametrize("made", [tasks, batches])
@pytest.mark.parametrize("asynchronous", [False, True])
@lazy
def test_a_call_that_returns_work_to_be_done_has_failed(
    flux_kit: Kit, call: Callable[[Any], Any], made: Any, asynchronous: bool
) -> None:
    task = made(call)
    if asynchronous:
        task.call = as_async(call)
    flux_kit.produce("orders", "x")
    done = flux_kit.run(task)
    assert (done.done, done.failed, done.retried) == (0, 1, 1)
    assert re.search("was not awaited|was not waited for|is never iterated", str(flux_kit.failures[0].error))
    assert type(flux_kit.failures[0].error) is NotAwaited
    assert ran == []


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_worker_takes_it_for_a_failure_too(asynchronous: bool) -> None:
    peer = Peer()

    class Billing(flux.Task):
        topic, group_id, retries = "t", "g", 0

        def call(self, message: Any) -> Any:
            return go(message)

    if asynchronous:
        Billing.call = as_async(go)  # type: ignore[method-assign]
    for stage in Billing.policy().stages:
        peer.broker.create_topic(stage.topic, 1)
    peer.write(b"x")
    with peer.working(Billing):
        wait_for(lambda: peer.values("t-g-dlq"), "the dead letter")
    assert ran == []


@pytest.mark.parametrize("returned", [None, 5, "text", b"", [1], {"a": 1}, object(), iter([1]), open, Awaitable])
def test_a_call_may_return_what_stands_for_nothing_to_be_done(flux_kit: Kit, returned: Any) -> None:
    flux_kit.produce("orders", "x")
    assert flux_kit.run(tasks(lambda message: returned)).done == 1


def test_a_call_may_return_what_it_has_sent(flux_kit: Kit) -> None:
    class Bills(flux.Producer):
        topic = "bills"

    flux_kit.produce("orders", "x")
    assert flux_kit.run(tasks(lambda message: Bills.send(b"bill"))).done == 1
    assert flux_kit.topic("bills").values == [b"bill"]


def test_what_answers_nothing_about_itself_can_be_returned() -> None:
    class Silent(type):
        def __getattribute__(cls, name: str) -> Any:
            raise RuntimeError(name)

        __hash__ = None  # type: ignore[assignment]

    class Returned(metaclass=Silent):
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

    check_returned("call", Returned())


def test_a_success_is_not_told_of_work_that_was_not_done(flux_kit: Kit) -> None:
    heard: list[str] = []

    class Hearing(flux.Hooks):
        def on_success(self, where: flux.StageInfo, message: flux.Message, seconds: float) -> None:
            heard.append("success")

        def on_failure(
            self, where: flux.StageInfo, message: flux.Message, error: BaseException, seconds: float | None
        ) -> None:
            heard.append("failure")

    for made in (tasks, batches):
        flux_kit.produce("orders", "x")
        flux_kit.run(made(go, hooks=[Hearing()], group_id=made.__name__), stages="0")
    assert heard == ["failure", "failure", "failure"]


# ---- middleware


async def forgets_to_await(given: Any, call_next: Any) -> None:
    call_next(given)


async def returns_unawaited(given: Any, call_next: Any) -> Any:
    return call_next(given)


async def leaves_it_to_a_task(given: Any, call_next: Any) -> None:
    forgotten.append(asyncio.create_task(call_next(given)))


async def leaves_it_running(given: Any, call_next: Any) -> None:
    forgotten.append(asyncio.create_task(call_next(given)))
    await asyncio.sleep(0)


async def raises_first(given: Any, call_next: Any) -> None:
    call_next(given)
    raise ValueError("before it was awaited")


forgotten: list[asyncio.Task[Any]] = []


async def slow(given: Any) -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    ran.append(1)


@pytest.mark.parametrize(
    "middleware", [forgets_to_await, returns_unawaited, leaves_it_to_a_task, leaves_it_running, raises_first]
)
@pytest.mark.parametrize("made", [tasks, batches])
def test_middleware_that_does_not_await_the_call_has_failed(flux_kit: Kit, made: Any, middleware: Any) -> None:
    async def call(self: Any, given: Any) -> None:
        await slow(given)

    task = made(None, middleware=[middleware])
    task.call = call
    flux_kit.produce("orders", "x")
    done = flux_kit.run(task)
    assert (done.done, done.failed) == (0, 1)
    assert ran == []


async def awaits(given: Any, call_next: Any) -> None:
    await call_next(given)


async def gathers(given: Any, call_next: Any) -> None:
    await asyncio.gather(call_next(given), asyncio.sleep(0))


async def waits_for_it(given: Any, call_next: Any) -> None:
    await asyncio.wait_for(call_next(given), 10)


async def tries_twice(given: Any, call_next: Any) -> None:
    try:
        await call_next(given)
    finally:
        await call_next(given)


def passes_it_on(given: Any, call_next: Any) -> Any:
    return call_next(given)


@pytest.mark.parametrize("middleware", [awaits, gathers, waits_for_it, tries_twice, passes_it_on])
def test_middleware_may_await_the_call_as_it_likes(flux_kit: Kit, middleware: Any) -> None:
    async def call(self: Any, given: Any) -> None:
        await slow(given)

    task = tasks(go, middleware=[middleware])
    task.call = call  # type: ignore[method-assign]
    flux_kit.produce("orders", "x")
    assert flux_kit.run(task).done == 1
    assert set(ran) == {1}


def test_middleware_hides_no_work_that_a_call_returns(flux_kit: Kit) -> None:
    def swallows(message: Any, call_next: Any) -> None:
        call_next(message)

    flux_kit.produce("orders", "x")
    assert flux_kit.run(tasks(go, middleware=[swallows]), stages="0").failed == 1
    assert ran == []


# ---- hooks, deserializers, setup and close


def test_work_that_a_hook_returns_is_named_once(flux_kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    class Returning(flux.Hooks):
        def on_start(self, where: flux.StageInfo, message: flux.Message) -> Any:
            return go(message)

    for _ in range(3):
        flux_kit.produce("orders", "x")
    assert flux_kit.run(tasks(lambda message: None, hooks=[Returning()])).done == 3
    assert caplog.text.count("flux.NotAwaited: on_start returned a coroutine that was not awaited: further") == 1


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_hook_cannot_swallow_an_exit(flux_kit: Kit, stop: type[BaseException]) -> None:
    class Stopping(flux.Hooks):
        def on_start(self, where: flux.StageInfo, message: flux.Message) -> None:
            raise stop

    flux_kit.produce("orders", "x")
    with pytest.raises(stop):
        flux_kit.run(tasks(lambda message: None, hooks=[Stopping()]))


def test_a_panic_in_a_hook_changes_nothing(flux_kit: Kit) -> None:
    class Panic(BaseException): ...

    class Panicking(flux.Hooks):
        def on_start(self, where: flux.StageInfo, message: flux.Message) -> None:
            raise Panic

        @contextmanager
        def around(self, where: flux.StageInfo, message: flux.Message) -> Iterator[None]:
            yield
            raise Panic

    flux_kit.produce("orders", "x")
    assert flux_kit.run(tasks(lambda message: None, hooks=[Panicking()])).done == 1


def test_a_value_that_is_a_coroutine_is_undecodable(flux_kit: Kit) -> None:
    task = tasks(lambda message: None, deserializer=lambda data: go(data))
    flux_kit.produce("orders", "x")
    flux_kit.run(task)
    assert flux_kit.dead_letters(task).one().header("flux-reason") == "undecodable"


@pytest.mark.parametrize("call", [LAZY["a coroutine"], LAZY["a generator"]])
def test_setup_that_returns_work_to_be_done_ends_the_worker(flux_kit: Kit, call: Callable[[Any], Any]) -> None:
    flux_kit.produce("orders", "x")
    with pytest.raises(flux.ConfigurationError, match=r"Billing\.setup returned a"):
        flux_kit.run(tasks(lambda message: None, setup=lambda self: call(None)))
    assert flux_kit.run(tasks(lambda message: None)).done == 1


def test_setup_and_close_of_a_call_that_is_awaited_are_awaited_however_they_are_made(flux_kit: Kit) -> None:
    task = tasks(go, setup=lambda self: go(1), close=lambda self: go(2))
    task.call = as_async(lambda message: None)  # type: ignore[method-assign]
    flux_kit.produce("orders", "x")
    assert flux_kit.run(task).done == 1
    assert ran == [1, 1]


# ---- cancellations


async def leaks() -> None:
    inner = asyncio.create_task(asyncio.sleep(10))
    await asyncio.sleep(0)
    inner.cancel()
    await inner


@pytest.mark.parametrize("made", [tasks, batches])
@pytest.mark.parametrize("settings", [{}, {"timeout": 5.0}, {"middleware": [awaits]}, {"hooks": [flux.Hooks()]}])
def test_a_cancellation_that_leaks_from_a_subtask_is_the_calls_failure(
    flux_kit: Kit, made: Any, settings: dict[str, Any]
) -> None:
    heard: list[type] = []

    class Hearing(flux.Hooks):
        def on_failure(
            self, where: flux.StageInfo, message: flux.Message, error: BaseException, seconds: float | None
        ) -> None:
            heard.append(type(error))

    async def call(self: Any, given: Any) -> None:
        await leaks()

    if "hooks" in settings:
        settings = {"hooks": [Hearing()]}
    task = made(None, **settings)
    task.call = call
    flux_kit.produce("orders", "x")
    assert flux_kit.run(task).failed == 1
    assert type(flux_kit.failures[0].error) is SubtaskCancelled
    assert heard in ([], [SubtaskCancelled])
    assert bool(heard) == ("hooks" in settings)


def test_a_cancellation_among_what_a_batch_names_is_that_records_failure(flux_kit: Kit) -> None:
    async def call(self: Any, messages: Any) -> None:
        results = await asyncio.gather(*(leaks() for _ in messages), return_exceptions=True)
        raise flux.BatchFailure(dict(zip(messages, results, strict=True)))  # type: ignore[arg-type]

    task = batches(go)
    task.call = call  # type: ignore[method-assign]
    flux_kit.produce("orders", "x")
    assert flux_kit.run(task).failed == 1


def in_a_loop_of_its_own(message: Any) -> None:
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(leaks())
    finally:
        loop.close()


def in_an_executor(message: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        gate = threading.Event()
        pool.submit(gate.wait)
        waiting = pool.submit(int)
        waiting.cancel()
        gate.set()
        waiting.result()


@pytest.mark.parametrize("call", [in_a_loop_of_its_own, in_an_executor])
def test_in_a_thread_nobody_cancels_a_call(flux_kit: Kit, call: Callable[[Any], None]) -> None:
    flux_kit.produce("orders", "x")
    assert flux_kit.run(tasks(call)).failed == 1


@pytest.mark.parametrize("call", [leaks, None])
def test_a_worker_goes_on_behind_a_cancellation_that_leaks(call: Any) -> None:
    peer = Peer()

    async def leaking(message: flux.Message) -> None:
        if message.value == b"bad":
            await leaks()

    def leaking_in_a_thread(message: flux.Message) -> None:
        if message.value == b"bad":
            in_a_loop_of_its_own(message)

    task = peer.task(leaking if call else leaking_in_a_thread, retries=0)
    peer.write(b"bad", b"good")
    with peer.working(task):
        wait_for(lambda: peer.values("t-g-dlq"), "the dead letter")
        wait_for(lambda: peer.position() == 2, "the position behind both")


def test_a_call_that_is_cancelled_itself_is_the_processs_affair(flux_kit: Kit) -> None:
    async def call(self: Any, message: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    billing = tasks(go)
    billing.call = call  # type: ignore[method-assign]
    flux_kit.produce("orders", "x")
    with pytest.raises(asyncio.CancelledError):
        flux_kit.run(billing)


# ---- callers that die


def breaking(where: str) -> Any:
    """A bug of flux, as a caller meets it."""

    def broken(*given: Any, **named: Any) -> Any:
        raise AssertionError(where)

    return broken


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("bug", ["call_results.failure_of", "coordinator.verdicts.Verdicts.noted"])
def test_a_caller_that_dies_ends_the_worker_loudly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, asynchronous: bool, bug: str
) -> None:
    peer = Peer()

    def call(message: flux.Message) -> None:
        raise ValueError("fails")

    async def call_async(message: flux.Message) -> None:
        raise ValueError("fails")

    task = peer.task(call_async if asynchronous else call)
    monkeypatch.setattr(f"flux.consuming.{bug}", breaking("a bug of flux"))
    peer.write(b"x", b"y")
    with caplog.at_level(logging.ERROR), peer.working(task, code=1) as running:
        wait_for(lambda: running.ended, "the end of the worker")
    assert "the process failed: AssertionError: a bug of flux" in caplog.text
    assert "never retrieved" not in caplog.text
    assert peer.position() == 0


@pytest.mark.parametrize("bug", ["coordinator.Coordinator.take_any", "procedures.Procedures.write"])
def test_a_callback_that_dies_in_the_event_loop_ends_the_worker_loudly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, bug: str
) -> None:
    peer = Peer()

    async def call(message: flux.Message) -> None:
        raise ValueError("fails")

    task = peer.task(call)
    monkeypatch.setattr(f"flux.consuming.coordinator.{bug}", breaking("a bug of flux"))
    peer.write(b"x")
    with caplog.at_level(logging.ERROR), peer.working(task, code=1) as running:
        wait_for(lambda: running.ended, "the end of the worker")
    assert "a bug of flux" in caplog.text


def test_a_call_whose_task_somebody_else_cancels_ends_the_worker() -> None:
    peer = Peer()

    async def call(message: flux.Message) -> None:
        for each in asyncio.all_tasks():
            if each.get_name() == "flux-t":
                each.cancel()
        await asyncio.sleep(0)

    task = peer.task(call)
    peer.write(b"x")
    with peer.working(task, code=1) as running:
        wait_for(lambda: running.ended, "the end of the worker")
    assert peer.position() == 0


def test_an_acknowledgement_whose_call_cannot_be_settled_ends_the_worker_loudly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    peer = Peer()
    peer.broker.create_topic("bills")

    class Bills(flux.Producer):
        topic = "bills"
        adapter = peer.adapter

    task = peer.task(lambda message: Bills.produce(b"bill"))
    monkeypatch.setattr("flux.consuming.coordinator.verdicts.Products._settled", breaking("a bug of flux"))
    peer.write(b"x")
    with caplog.at_level(logging.ERROR), peer.working(task, code=1) as running:
        wait_for(lambda: running.ended, "the end of the worker")
    assert "the process failed: AssertionError: a bug of flux" in caplog.text
    assert peer.position() == 0
    Bills.close()


def test_a_panic_where_an_acknowledgement_is_heard_loses_no_other(
    flux_kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    class Panic(BaseException): ...

    class Orders(flux.Producer):
        topic = "orders"

        @classmethod
        def on_error(cls, error: flux.DeliveryError) -> None:
            raise Panic

    denied = BrokerError("not allowed", Fault.DENIED)
    flux_kit.broker().fail_writes(lambda topic, partition, record: denied if record.value == b"bad" else None)
    for value in (b"bad", b"good", b"bad"):
        Orders.produce(value)
    with pytest.raises(flux.DeliveryError, match="2 record"):
        Orders.flush()
    assert flux_kit.topic("orders").values == [b"good"]
