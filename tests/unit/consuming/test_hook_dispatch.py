"""What hooks hear, in which order, and that they change nothing."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import pytest

import flux
from flux import config
from flux.consuming.hook_dispatch import AroundCalls
from flux.core.errors import BrokerError, Fault
from flux.core.ports import ProducerRecord, TopicPartition
from flux.testing import Kit, Summary
from unit.support.peers_support import Peer, wait_for

SCOPE: ContextVar[str] = ContextVar("scope", default="")


class Hearing(flux.Hooks):
    """Notes all that it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    @property
    def names(self) -> list[str]:
        return [each[0] for each in self.heard]

    def of(self, name: str) -> list[tuple[Any, ...]]:
        return [each[1:] for each in self.heard if each[0] == name]

    @contextmanager
    def around(self, where: flux.StageInfo, message: flux.Message) -> Iterator[None]:
        self.heard.append(("enter", where, message.offset))
        token = SCOPE.set("inside")
        try:
            yield
        finally:
            SCOPE.reset(token)
            self.heard.append(("leave", where, message.offset))

    def on_start(self, where: flux.StageInfo, message: flux.Message) -> None:
        self.heard.append(("start", where, message.value))

    def on_success(self, where: flux.StageInfo, message: flux.Message, seconds: float) -> None:
        self.heard.append(("success", where, message.value, seconds))

    def on_failure(
        self, where: flux.StageInfo, message: flux.Message, error: BaseException, seconds: float | None
    ) -> None:
        self.heard.append(("failure", where, error, seconds))

    def on_retry(self, where: flux.StageInfo, message: flux.Message, stage: int, wait: float) -> None:
        self.heard.append(("retry", where, stage, wait))

    def on_dead_letter(self, where: flux.StageInfo, message: flux.Message, reason: str, error: str) -> None:
        self.heard.append(("dead", where, reason, error))

    def on_commit(self, where: flux.StageInfo, offsets: Any, error: Exception | None) -> None:
        self.heard.append(("commit", where, offsets, error))

    def on_assigned(self, where: flux.StageInfo, partitions: Any) -> None:
        self.heard.append(("assigned", where, partitions))

    def on_revoked(self, where: flux.StageInfo, partitions: Any) -> None:
        self.heard.append(("revoked", where, partitions))

    def on_lost(self, where: flux.StageInfo, partitions: Any) -> None:
        self.heard.append(("lost", where, partitions))


class Orders(flux.Producer):
    topic = "orders"


class Bills(flux.Producer):
    topic = "bills"


def billing(hooks: Any, asynchronous: bool = False, **settings: Any) -> flux.Task:
    def work(message: flux.Message) -> None:
        if message.value == b"reject":
            raise flux.Reject("no such customer")
        if message.value == b"bad":
            raise ValueError("bad")
        if message.value == b"bill":
            Bills.produce(b"bill")

    async def work_async(message: flux.Message) -> None:
        await asyncio.sleep(0)
        work(message)

    settings = {"retries": 1, "wait": 10} | settings
    return flux.task(topic="orders", group_id="billing", hooks=hooks, **settings)(work_async if asynchronous else work)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_call_that_returns_is_heard_around_at_start_and_as_a_success(flux_kit: Kit, asynchronous: bool) -> None:
    hearing = Hearing()
    Orders.produce(b"good")
    flux_kit.run(task := billing([hearing], asynchronous))
    mine = [each[0] for each in hearing.heard if each[1].stage == 0]
    if mine[1] == "commit":  # of where the partition begins
        del mine[1]
    assert mine == ["assigned", "enter", "start", "success", "leave", "commit", "revoked"]
    [(where, value, seconds)] = hearing.of("success")
    assert where == flux.StageInfo(type(task).__name__, 0, "orders", "billing")
    assert value == b"good"
    assert 0 <= seconds < 10
    *_, last = [rest for place, *rest in hearing.of("commit") if place.stage == 0]
    assert last == [{TopicPartition("orders", 0): 1}, None]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_way_of_a_record_to_the_dead_letters_is_heard(flux_kit: Kit, asynchronous: bool) -> None:
    hearing = Hearing()
    Orders.produce(b"bad")
    flux_kit.run_to_the_end(billing([hearing], asynchronous))
    assert [str(error) for _, error, _ in hearing.of("failure")] == ["bad", "bad"]
    [(first, stage, wait)] = hearing.of("retry")
    assert (first.stage, stage, wait) == (0, 1, 10)
    [(second, reason, text)] = hearing.of("dead")
    assert (second.stage, second.topic, reason, text) == (1, "orders-billing-try-1", "exhausted", "ValueError: bad")
    assert not hearing.of("success")


def test_what_the_deserializer_refuses_is_a_failure(flux_kit: Kit) -> None:
    hearing = Hearing()
    Orders.produce(b"no number")
    flux_kit.run(billing([hearing], deserializer=int))
    [(_, error, seconds)] = hearing.of("failure")
    assert isinstance(error.__cause__, ValueError)
    assert seconds is not None
    [(_, reason, _)] = hearing.of("dead")
    assert reason == "undecodable"


def test_the_value_is_not_deserialized_at_the_start_and_is_at_the_end(flux_kit: Kit) -> None:
    hearing = Hearing()
    Orders.produce(b"7")
    flux_kit.run(billing([hearing], deserializer=int))
    assert hearing.of("start")[0][1] == b"7"
    assert hearing.of("success")[0][1] == 7


def test_what_a_call_produced_and_was_not_delivered_is_a_failure_without_a_duration(flux_kit: Kit) -> None:
    hearing = Hearing()
    Orders.produce(b"bill")
    denied = BrokerError("not allowed", Fault.DENIED)
    flux_kit.broker().fail_writes(lambda topic, partition, record: denied if topic == "bills" else None)
    assert flux_kit.run(billing([hearing])).retried == 1
    assert len(hearing.of("success")) == 1
    [(_, error, seconds)] = hearing.of("failure")
    assert isinstance(error, flux.DeliveryError)
    assert seconds is None


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_is_around_a_call_is_there_inside_it(flux_kit: Kit, asynchronous: bool) -> None:
    seen = []

    def work(message: flux.Message) -> None:
        seen.append(SCOPE.get())

    async def work_async(message: flux.Message) -> None:
        work(message)

    task = flux.task(topic="orders", group_id="g", hooks=[Hearing()])(work_async if asynchronous else work)
    Orders.produce(b"x")
    flux_kit.run(task)
    assert seen == ["inside"]
    assert SCOPE.get() == ""


def raising(*given: Any) -> Any:
    raise OSError("the monitoring is away")


RAISING: Any = raising


class Broken(flux.Hooks):
    """Raises whenever it can."""

    def around(self, where: flux.StageInfo, message: flux.Message) -> AbstractContextManager[None]:
        raise OSError("around")

    on_start = on_success = on_failure = on_retry = on_dead_letter = on_commit = RAISING
    on_assigned = on_revoked = on_lost = RAISING


class Leaving(flux.Hooks):
    """What it enters raises at the end, or swallows what passes."""

    def __init__(self, swallow: bool) -> None:
        self._swallow = swallow

    @contextmanager
    def around(self, where: flux.StageInfo, message: flux.Message) -> Iterator[None]:
        try:
            yield
        except ValueError:
            if not self._swallow:
                raise OSError("at the end") from None


class BrokenAround(AroundCalls):
    """Raises at that edge of a call."""

    def __init__(self, at: str) -> None:
        self._at = at

    def _raise(self, where: str) -> None:
        if where == self._at:
            raise ZeroDivisionError

    def enter(self, place: Any, message: flux.Message) -> str:
        self._raise("enter")
        return "entered"

    def leave(self, entered: str) -> None:
        assert entered == "entered"
        self._raise("leave")

    def leave_failed(self, entered: str, error: BaseException) -> None:
        assert entered == "entered"
        self._raise("failed")


@pytest.mark.parametrize("hooks", [[Broken()], [Leaving(True)], [Leaving(False)], [Broken(), Leaving(True), Broken()]])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_hooks_that_raise_change_nothing(flux_kit: Kit, hooks: list[flux.Hooks], asynchronous: bool) -> None:
    hearing = Hearing()
    for value in (b"good", b"bad", b"reject"):
        Orders.produce(value)
    done = flux_kit.run_to_the_end(billing([*hooks, hearing], asynchronous))
    assert done == Summary(done=1, failed=3, retried=1, dead=2)
    assert len(hearing.of("success")) == 1
    assert len(hearing.of("failure")) == 3
    assert hearing.names.count("enter") == hearing.names.count("leave") == 4


def test_a_hook_that_raises_is_logged_once_per_kind(flux_kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(flux.Hooks):
        def on_start(self, where: flux.StageInfo, message: flux.Message) -> None:
            raise OSError("away") if message.offset % 2 else ValueError("bug")

    for _ in range(6):
        Orders.produce(b"good")
    with caplog.at_level(logging.WARNING, "flux.worker"):
        flux_kit.run(billing([Failing()]))
    lines = [record for record in caplog.records if "Failing.on_start" in record.getMessage()]
    assert sorted(line.getMessage().splitlines()[-1] for line in lines) == ["OSError: away", "ValueError: bug"]
    assert all("in on_start" in line.getMessage() for line in lines)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("at", ["enter", "leave", "failed"])
def test_a_hook_of_flux_that_raises_is_logged_once_and_changes_nothing(
    flux_kit: Kit, caplog: pytest.LogCaptureFixture, at: str, asynchronous: bool
) -> None:
    for value in (b"good", b"bad", b"reject") * 2:
        flux_kit.produce("orders", value)
    done = flux_kit.run_to_the_end(billing([BrokenAround(at)], asynchronous))
    assert done == Summary(done=2, failed=6, retried=2, dead=4)
    [line] = [record.getMessage() for record in caplog.records if "BrokenAround" in record.getMessage()]
    assert "BrokenAround.around raised ZeroDivisionError" in line


def test_a_hook_of_flux_whose_around_is_overridden_is_heard_by_that(flux_kit: Kit) -> None:
    class Own(BrokenAround):
        def around(self, where: flux.StageInfo, message: flux.Message) -> AbstractContextManager[None]:
            entered.append(message.value)
            return nullcontext()

    entered: list[Any] = []
    flux_kit.produce("orders", b"good")
    flux_kit.run(billing([Own("enter")]))
    assert entered == [b"good"]


def test_a_call_whose_process_fails_is_no_failure(flux_kit: Kit) -> None:
    hearing = Hearing()

    def work(message: flux.Message) -> None:
        raise MemoryError

    Orders.produce(b"x")
    with pytest.raises(MemoryError):
        flux_kit.run(flux.task(topic="orders", group_id="g", hooks=[hearing])(work))
    assert not hearing.of("failure")
    assert hearing.names.count("leave") == 1


def test_process_wide_hooks_come_first_and_stay_for_others(flux_kit: Kit) -> None:
    order: list[str] = []

    class Named(flux.Hooks):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_start(self, where: flux.StageInfo, message: flux.Message) -> None:
            order.append(self.name)

    flux.configure(hooks=[Named("all")])
    flux.configure(producer=flux.ProducerOptions())
    Orders.produce(b"x")
    flux_kit.run(billing([Named("mine")]))
    assert order == ["all", "mine"]


def test_a_handler_that_nobody_sees_is_not_wrapped() -> None:
    class Dead(flux.Hooks):
        def on_dead_letter(self, where: flux.StageInfo, message: flux.Message, reason: str, error: str) -> None: ...

    peer = Peer()
    task = peer.task(print, hooks=[Dead()])
    [job] = flux.Worker(task, adapter=peer.adapter).jobs
    job.prepare(None, False)
    assert job.handler == job.task.call


class Misspelt(flux.Hooks):
    def on_sucess(self) -> None: ...


@pytest.mark.parametrize(
    ("hooks", "says"),
    [
        ([Hearing], "the class Hearing: make an instance"),
        ([object()], "instances of subclasses of flux.Hooks, not object"),
        (Hearing(), "must be a list of flux.Hooks, not Hearing"),
        ([Misspelt()], "Misspelt.on_sucess is no hook"),
    ],
)
def test_what_would_never_be_called_is_refused(hooks: Any, says: str) -> None:
    with pytest.raises(flux.ConfigurationError, match=says):
        flux.configure(hooks=hooks)
    assert config.current.hooks == ()
    with pytest.raises(flux.ConfigurationError, match=says):
        flux.Worker(billing(hooks), adapter=Peer().adapter)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_running_worker_tells_them_all(asynchronous: bool) -> None:
    hearing, peer, threads = Hearing(), Peer(), set()

    def work(message: flux.Message) -> None:
        threads.add(threading.get_ident())
        if message.value == b"bad":
            raise ValueError("bad")

    async def work_async(message: flux.Message) -> None:
        work(message)

    task = peer.task(work_async if asynchronous else work, hooks=[hearing])
    peer.write(*[ProducerRecord(b"good")] * 20, b"bad")
    with peer.working(task):
        wait_for(lambda: hearing.of("dead"), "the dead letter")
    assert len(hearing.of("start")) == 22
    assert len(hearing.of("success")) == 20
    assert [where.stage for where, _, _ in hearing.of("failure")] == [0, 1]
    assert {where.stage for where, _ in hearing.of("assigned")} == {0, 1}
    assert {where.stage for where, _ in hearing.of("revoked")} == {0, 1}
    assert max(positions.get(TopicPartition("t", 0), 0) for _, positions, _ in hearing.of("commit")) == 21


def test_a_commit_that_fails_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    hearing, peer = Hearing(), Peer()
    real = peer.adapter.consumer

    def consumer(*args: Any) -> Any:
        client: Any = real(*args)
        client.commit = lambda positions, done: done(BrokerError("not now", Fault.UNAVAILABLE))
        return client

    monkeypatch.setattr(peer.adapter, "consumer", consumer)
    task = peer.task(lambda message: None, retries=0, hooks=[hearing])
    peer.write(b"x")
    with peer.working(task):
        wait_for(lambda: hearing.of("commit"), "the commit")
    assert str(hearing.of("commit")[0][2]) == "not now"


def test_the_last_commit_is_heard_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    hearing, peer = Hearing(), Peer()
    real = peer.adapter.consumer

    def commit_now(*args: Any) -> None:
        raise BrokerError("not allowed", Fault.DENIED)

    def consumer(*args: Any) -> Any:
        client: Any = real(*args)
        client.commit_now = commit_now
        return client

    monkeypatch.setattr(peer.adapter, "consumer", consumer)
    task = peer.task(lambda message: None, retries=0, hooks=[hearing], offset_commit_interval=3600)
    peer.write(b"x")
    with peer.working(task, code=3):
        wait_for(lambda: hearing.of("success"), "the call")
    assert ({TopicPartition("t", 0): 1}, "not allowed") in [(at, str(error)) for _, at, error in hearing.of("commit")]


def test_lost_partitions_are_heard_and_named_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hearing, peer, listeners = Hearing(), Peer(), []
    real = peer.adapter.consumer

    def consumer(settings: Any, listener: Any) -> Any:
        listeners.append(listener)
        return real(settings, listener)

    monkeypatch.setattr(peer.adapter, "consumer", consumer)
    with peer.working(peer.task(lambda message: None, retries=0, hooks=[hearing])):
        wait_for(lambda: hearing.of("assigned"), "the assignment")
        listeners[0].lost([TopicPartition("t", 0)])
        wait_for(lambda: "has lost" in caplog.text, "the line")
    assert [partitions for _, partitions in hearing.of("lost")] == [(TopicPartition("t", 0),)]
    [line] = [record for record in caplog.records if "has lost t[0]:" in record.getMessage()]
    assert (vars(line)["task"], vars(line)["topic"], vars(line)["partition"]) == ("<lambda>", "t", 0)


# ---- outages


class Pausing(Hearing):
    def on_pause(self, task: str, seconds: float, error: BaseException) -> None:
        self.heard.append(("pause", task, seconds, error))

    def on_resume(self, task: str, seconds: float) -> None:
        self.heard.append(("resume", task, seconds))

    @contextmanager
    def around(self, where: flux.StageInfo, message: flux.Message) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.heard.append(("left with", error))
            raise


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("error", [flux.Pause(3, "maintenance"), ConnectionError("no route")])
def test_a_call_that_finds_an_outage_is_no_failure_and_leaves_its_scope_with_a_pause(
    flux_kit: Kit, asynchronous: bool, error: Exception
) -> None:
    hearing, tries = Pausing(), iter([error, error])

    def call(message: flux.Message) -> None:
        found = next(tries, None)
        if found is not None:
            raise found

    async def call_async(message: flux.Message) -> None:
        call(message)

    chosen: Any = call_async if asynchronous else call
    task = flux.task(topic="orders", group_id="billing", pause_on=(OSError,), hooks=[hearing])(chosen)
    Orders.produce(b"x")
    flux_kit.run_to_the_end(task)
    assert [each[0] for each in hearing.heard if each[0] in ("left with", "pause", "resume", "success")] == [
        "left with", "pause", "left with", "pause", "success", "resume",
    ]  # fmt: skip
    assert not hearing.of("failure")
    for (left,) in hearing.of("left with"):
        assert isinstance(left, flux.Pause)
        assert error in (left, left.__cause__)
    assert [found for _, _, found in hearing.of("pause")] == [error, error]
    [(name, seconds)] = hearing.of("resume")
    assert (name, seconds > 1.5) == (task.__name__, True)


class Naming(Hearing):
    def on_pause_name(self, task: str, name: str, seconds: float, error: BaseException) -> None:
        self.heard.append(("pause", task, name, seconds, str(error)))

    def on_resume_name(self, task: str, name: str, seconds: float) -> None:
        self.heard.append(("resume", task, name, seconds))


def test_an_outage_of_one_name_and_its_end_are_notified_with_the_name(flux_kit: Kit) -> None:
    hearing, tries = Naming(), iter([1, 2])

    def call(message: flux.Message) -> None:
        if message.key == b"acme" and next(tries, None):
            raise ValueError("503")

    rate = flux.FailureRate(1, of=1, by=lambda message: message.key)
    task = flux.task(topic="orders", group_id="billing", pause_when=rate, hooks=[hearing])(call)
    Orders.produce(b"x", key="acme")
    Orders.produce(b"x", key="other")
    flux_kit.run_to_the_end(task)
    why = "1 of the last 1 calls failed, the last with ValueError: 503"
    paused = [(name, seconds >= 0.9, error) for _, name, seconds, error in hearing.of("pause")]
    assert paused == [("acme", True, why)] * 2
    [(whose, name, seconds)] = hearing.of("resume")
    assert (whose, name, seconds > 2.5) == (task.__name__, "acme", True)


# ---- batches


class Batched(Hearing):
    @contextmanager
    def around_batch(self, where: flux.StageInfo, messages: Any) -> Iterator[None]:
        self.heard.append(("enter batch", where, [message.value for message in messages]))
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.heard.append(("leave batch", where, error))

    def on_batch(self, where: flux.StageInfo, messages: Any, seconds: float) -> None:
        self.heard.append(("batch", where, len(messages), seconds))


def batching(hooks: Any, asynchronous: bool = False) -> type[flux.BatchTask]:
    class Loading(flux.BatchTask):
        topic, group_id, retries, wait = "orders", "billing", 1, 10
        pause_on = (OSError,)
        tries = 0

        def call(self, messages: Any) -> None:
            self.tries += 1
            bad = {message: ValueError("bad") for message in messages if message.value == b"bad"}
            if bad:
                raise flux.BatchFailure(bad)
            if messages[0].value == b"reject":
                raise flux.Reject("no")
            if messages[0].value == b"away" and self.tries == 1:
                raise ConnectionError("no route")

    class LoadingAsync(Loading):
        async def call(self, messages: Any) -> None:  # type: ignore[override]
            await asyncio.sleep(0)
            super().call(messages)

    found: Any = LoadingAsync if asynchronous else Loading
    found.hooks = hooks
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_batch_is_heard_as_one_call_and_as_one_of_each_message(flux_kit: Kit, asynchronous: bool) -> None:
    hearing = Batched()
    for value in (b"a", b"bad", b"c"):
        Orders.produce(value)
    flux_kit.run(batching([hearing], asynchronous))
    mine = [each[0] for each in hearing.heard if each[1].stage == 0 and each[0] not in ("assigned", "commit")]
    assert mine[:-1] == [
        "enter batch", "start", "start", "start", "success", "failure", "success", "batch", "leave batch", "retry",
    ]  # fmt: skip
    [(_, values)] = hearing.of("enter batch")
    assert values == [b"a", b"bad", b"c"]
    [(_, error)] = hearing.of("leave batch")
    assert isinstance(error, flux.BatchFailure)
    [(where, size, seconds)] = hearing.of("batch")
    assert (where.stage, size) == (0, 3)
    assert {each[-1] for name in ("success", "failure") for each in hearing.of(name)} == {seconds}


def test_hooks_that_know_nothing_of_batches_are_around_each_message(flux_kit: Kit) -> None:
    hearing = Hearing()
    Orders.produce(b"a")
    Orders.produce(b"b")
    flux_kit.run(batching([hearing]))
    mine = [each[0] for each in hearing.heard if each[0] in ("enter", "start", "success", "leave")]
    assert mine == ["enter", "enter", "start", "start", "success", "leave", "success", "leave"]


def test_a_batch_that_finds_an_outage_is_no_failure_and_is_not_counted(flux_kit: Kit) -> None:
    hearing = Batched()
    Orders.produce(b"away")
    Orders.produce(b"b")
    flux_kit.run_to_the_end(batching([hearing]))
    [(_, first), (_, second)] = hearing.of("leave batch")
    assert isinstance(first, flux.Pause)
    assert isinstance(first.__cause__, ConnectionError)
    assert second is None
    assert not hearing.of("failure")
    assert [size for _, size, _ in hearing.of("batch")] == [2]


def test_a_batch_that_is_rejected_fails_with_each_message(flux_kit: Kit) -> None:
    hearing = Batched()
    Orders.produce(b"reject")
    Orders.produce(b"b")
    flux_kit.run(batching([hearing]))
    [(_, error)] = hearing.of("leave batch")
    assert isinstance(error, flux.Reject)
    assert [error for _, error, _ in hearing.of("failure")] == [error, error]
    assert [size for _, size, _ in hearing.of("batch")] == [2]


def test_a_batch_that_names_a_message_of_another_fails_as_a_whole(flux_kit: Kit) -> None:
    hearing, kept = Batched(), []

    class Confused(flux.BatchTask):
        topic, group_id, retries, max_batch = "orders", "billing", 0, 1
        hooks = [hearing]

        def call(self, messages: Any) -> None:
            kept.append(messages[0])
            raise flux.BatchFailure({kept[0]: ValueError("bad")})

    Orders.produce(b"a")
    Orders.produce(b"b")
    flux_kit.run(Confused)
    assert [type(error) for _, error, _ in hearing.of("failure")] == [ValueError, flux.BatchFailure]
    assert not hearing.of("success")


class Counting(flux.Hooks):
    def __init__(self) -> None:
        self.reports: list[Any] = []

    def on_calls(self, where: flux.StageInfo, report: Any) -> None:
        self.reports.append((where.stage, report))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_calls_that_one_caller_made_in_a_row_are_one_report(flux_kit: Kit, asynchronous: bool) -> None:
    def call(message: flux.Message) -> None:
        if message.value == b"bad" and message.stage == 0:
            raise ValueError("bad")

    async def call_async(message: flux.Message) -> None:
        call(message)

    counting = Counting()
    given = call_async if asynchronous else call
    task = flux.task(topic="orders", group_id="g", retries=1, wait=5, hooks=[counting])(given)
    now = int(flux_kit.clock.now() * 1000)
    for value in (b"1", b"bad", b"3"):
        flux_kit.produce("orders", value, timestamp=now - 2000)
    flux_kit.run_to_the_end(task)
    (stage, first), (later, second) = counting.reports
    assert (stage, first.records, len(first.seconds), dict(first.failures)) == (0, 3, 3, {"ValueError": 1})
    assert first.late == pytest.approx([2.0, 2.0, 2.0], abs=0.5)
    assert all(0 <= seconds < 10 for seconds in first.seconds)
    assert (later, second.records, dict(second.failures), second.batch) == (1, 1, {}, False)
    assert second.late == pytest.approx([0.0], abs=0.5)


def test_a_call_that_finds_an_outage_is_none_of_those_that_are_counted(flux_kit: Kit) -> None:
    away = [True]

    def call(message: flux.Message) -> None:
        if away.pop() if away else False:
            raise flux.Pause(1)

    counting = Counting()
    flux_kit.produce("orders", b"x")
    flux_kit.run_to_the_end(flux.task(topic="orders", group_id="g", hooks=[counting])(call))
    assert [len(report.seconds) for _, report in counting.reports] == [0, 1]
    assert not any(report.failures for _, report in counting.reports)
