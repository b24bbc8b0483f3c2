"""Commands to a running worker: what it does, what it answers, and what holds for one that starts later."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import flux
from flux.core import flux_headers
from flux.core.control.commands import ENVIRONMENT, TOPIC, Action, CommandAnswer, WorkerCommand, answers_topic
from flux.core.engine import Engine
from flux.core.errors import ConfigurationError
from flux.core.ports import Permissions, ProducerRecord, TopicPartition
from flux.processes.control import WorkerControl
from unit.support.peers_support import DENIED, Peer, Running, wait_for

ANSWERS = answers_topic(TOPIC)
P0 = TopicPartition("t", 0)
_ids = itertools.count(1)


class Commanded(Peer):
    """A peer whose worker takes commands."""

    def __init__(self, partitions: int = 1) -> None:
        super().__init__(partitions)
        self.called: list[bytes] = []
        self.go = threading.Event()
        self.go.set()

    @contextmanager
    def commanded(self, task: Any, code: int = 0) -> Iterator[Running]:
        with self.working(task, code, control=True) as running:
            wait_for(lambda: running.worker.ready, "the start")
            yield running

    def handler(self, asynchronous: bool = False) -> Callable[[flux.Message], Any]:
        def call(message: flux.Message) -> None:
            self.called.append(message.value)
            assert self.go.wait(60)
            if message.value.startswith(b"bad"):
                raise ValueError("bad")

        async def call_async(message: flux.Message) -> None:
            self.called.append(message.value)
            while not self.go.is_set():
                await asyncio.sleep(0.001)
            if message.value.startswith(b"bad"):
                raise ValueError("bad")

        return call_async if asynchronous else call

    def give(self, action: Action, **more: Any) -> str:
        """Writes a command; returns its id."""
        fields = {"topic": "t", "group": "g", "id": str(next(_ids)), "by": "ada@ops", **more}
        command = WorkerCommand(action=action, **fields)
        self.write(ProducerRecord(command.to_json(), command.key), topic=TOPIC)
        return command.id

    def answers(self, id: str) -> list[CommandAnswer]:
        found = map(CommandAnswer.from_json, self.values(ANSWERS))
        return [each for each in found if each is not None and each.id == id]

    def ask(self, action: Action, **more: Any) -> CommandAnswer:
        """What the one worker answers."""
        id = self.give(action, **more)
        wait_for(lambda: self.answers(id), f"an answer to {action}")
        [answer] = self.answers(id)
        return answer

    @property
    def topics(self) -> set[str]:
        return self.adapter.admin().topic_names(1)

    def paused(self, running: Running) -> list[int]:
        return sorted(engine_of(running).call_limits.held)


def engine_of(running: Running, stage: int = 0) -> Engine:
    [job] = running.worker.jobs
    assert job.coordinator is not None
    return job.coordinator.runtimes[stage].engine


@pytest.fixture
def peer() -> Iterator[Commanded]:
    made = Commanded()
    yield made
    made.go.set()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_paused_task_makes_no_call_until_it_is_resumed(peer: Commanded, asynchronous: bool) -> None:
    with peer.commanded(peer.task(peer.handler(asynchronous))) as running:
        peer.write(b"1")
        wait_for(lambda: peer.position() == 1, "the end of the first call")
        answer = peer.ask(Action.PAUSE, why="audit")
        assert (answer.ok, answer.text, answer.task) == (True, "paused", "call_async" if asynchronous else "call")
        assert peer.paused(running) == [0, 1]
        peer.write(b"2", b"3")
        wait_for(lambda: engine_of(running).read_offsets() == {P0: 3}, "the delivery")
        assert peer.called == [b"1"]
        assert peer.ask(Action.RESUME).text == "resumed"
        wait_for(lambda: peer.called == [b"1", b"2", b"3"], "the calls after the pause")
        assert peer.ask(Action.RESUME).text == "was not paused"


def test_calls_that_run_go_on_and_are_counted_in_the_answer(peer: Commanded) -> None:
    peer.go.clear()
    with peer.commanded(peer.task(peer.handler(), concurrency=1)):
        peer.write(b"1", b"2", b"3")
        wait_for(lambda: peer.called == [b"1"], "the first call")
        assert peer.ask(Action.PAUSE).text == "paused, 1 call(s) still running"
        peer.go.set()
        wait_for(lambda: peer.position() == 1, "the commit of the first record")
        assert peer.called == [b"1"]
        peer.ask(Action.RESUME)
        wait_for(lambda: peer.position() == 3, "the commit of all")


def test_a_pause_for_some_time_ends_by_itself(peer: Commanded) -> None:
    with peer.commanded(peer.task(peer.handler())) as running:
        began = peer.machine.now()
        peer.ask(Action.PAUSE, seconds=4.0)
        peer.write(b"1")
        wait_for(lambda: peer.called == [b"1"], "the end of the pause")
        assert peer.machine.now() - began >= 4.0
        assert peer.paused(running) == []


def test_the_pause_of_a_stage_leaves_the_others(peer: Commanded) -> None:
    with peer.commanded(peer.task(peer.handler())) as running:
        assert peer.ask(Action.PAUSE, stage=1).text == "paused"
        peer.write(b"bad")
        retries = engine_of(running, 1)
        wait_for(lambda: 0 < (retries.next_due or 0) < 1000 * peer.machine.now(), "a retry that is overdue")
        assert peer.called == [b"bad"]
        assert not peer.ask(Action.PAUSE, stage=7).ok
        peer.ask(Action.PAUSE)
        answer = peer.ask(Action.RESUME, stage=1)
        assert (answer.ok, "ada@ops has paused the whole task" in answer.text) == (False, True)
        assert peer.paused(running) == [0, 1]
        peer.ask(Action.RESUME)
        wait_for(lambda: peer.called == [b"bad", b"bad"], "the retry")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_worker_that_starts_while_its_task_is_paused_makes_no_call(
    peer: Commanded, asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    task = peer.task(peer.handler(asynchronous))
    with peer.commanded(task):
        peer.ask(Action.PAUSE, why="audit")
    peer.write(b"1")
    with peer.commanded(task) as running:
        assert peer.paused(running) == [0, 1]
        wait_for(lambda: engine_of(running).read_offsets() == {P0: 1}, "the delivery")
        assert peer.called == []
        peer.ask(Action.RESUME)
        wait_for(lambda: peer.called == [b"1"], "the call")
    assert "stage 0-1: paused by ada@ops (audit) until it is resumed" in caplog.text
    assert "stage 0-1: resumed" in caplog.text


@pytest.mark.parametrize("action", list(Action))
def test_a_worker_that_is_starting_when_the_command_is_given_answers_when_it_obeys(
    peer: Commanded, action: Action
) -> None:
    more = {"stage": 0, "partition": 0, "offset": 0} if action is Action.SKIP else {}
    task = peer.task(peer.handler())
    with peer.commanded(task):
        pass  # makes the topics
    id = peer.give(action, **more)
    with peer.commanded(task):
        wait_for(lambda: peer.answers(id), "the answer")
    [answer] = peer.answers(id)
    assert answer.ok, answer
    assert (answer.text == "has started since") is (action is Action.RESTART)


def test_a_worker_that_starts_long_after_a_command_does_not_answer_it(
    peer: Commanded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux.processes.control.VALID", -1.0)
    task = peer.task(peer.handler())
    with peer.commanded(task):
        pass
    id = peer.give(Action.PAUSE)
    with peer.commanded(task):
        assert peer.ask(Action.SET_RATE, rate=5).ok
    assert peer.answers(id) == []


def test_a_process_whose_clock_says_that_the_time_was_over_says_that_it_did_nothing(peer: Commanded) -> None:
    with peer.commanded(peer.task(peer.handler())) as running:
        for action in (Action.PAUSE, Action.SET_RATE):
            answer = peer.ask(action, seconds=0.0, rate=5.0)
            assert (answer.ok, "by this machine's clock" in answer.text) == (False, True)
        assert peer.paused(running) == []


def test_a_rate_is_set_and_set_back(peer: Commanded, caplog: pytest.LogCaptureFixture) -> None:
    task = peer.task(peer.handler(), rate_limit=1000.0)
    with peer.commanded(task) as running:
        limits = engine_of(running).call_limits
        assert peer.ask(Action.SET_RATE, rate=50.0).text == "makes at most 50 calls a second"
        assert limits.rate_limit.rate == 50.0
        assert peer.ask(Action.SET_RATE, rate=0).text == "calls without a rate limit"
        assert limits.rate_limit.rate is None
        assert peer.ask(Action.SET_RATE, rate=7).ok
    with peer.commanded(task) as running:
        limits = engine_of(running).call_limits
        assert limits.rate_limit.rate == 7.0
        assert peer.ask(Action.SET_RATE, rate=None).text == "makes at most 1000 calls a second"
        assert limits.rate_limit.rate == 1000.0
    assert "makes at most 50 calls a second, as ada@ops has set" in caplog.text


def test_a_restart_ends_the_worker_with_its_own_exit_code_and_once(peer: Commanded) -> None:
    task = peer.task(peer.handler())
    with peer.commanded(task, code=4) as running:
        assert peer.ask(Action.RESTART).text == "restarts"
        wait_for(lambda: running.ended, "the end")
    with peer.commanded(task):
        peer.write(b"1")
        wait_for(lambda: peer.position() == 1, "the work of the new worker")


def test_a_restart_that_comes_late_does_nothing(peer: Commanded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux.processes.controlled_task.VALID", -1.0)
    with peer.commanded(peer.task(peer.handler())):
        answer = peer.ask(Action.RESTART)
        assert (answer.ok, "did nothing" in answer.text) == (False, True)


@pytest.mark.parametrize("batched", [False, True])
def test_a_skipped_record_becomes_a_dead_letter_without_a_call(peer: Commanded, batched: bool) -> None:
    task: Any = peer.task(peer.handler())
    if batched:
        called = peer.called

        class Batched(flux.BatchTask):
            topic, group_id, retries, max_batch = "t", "g", 1, 10

            def call(self, messages: Any) -> None:
                called.extend(message.value for message in messages)

        task = Batched
    with peer.commanded(task) as running:
        peer.ask(Action.PAUSE)
        peer.write(b"1", b"2", b"3")
        wait_for(lambda: engine_of(running).read_offsets() == {P0: 3}, "the delivery")
        answer = peer.ask(Action.SKIP, stage=0, partition=0, offset=1, why="poison")
        assert (answer.ok, answer.text) == (True, "becomes a dead letter without a call when its turn comes")
        peer.ask(Action.RESUME)
        wait_for(lambda: peer.position() == 3, "the commit")
        assert peer.ask(Action.SKIP, stage=0, partition=0, offset=1, why="poison").text == "it is done already"
    assert sorted(peer.called) == [b"1", b"3"]
    [dead] = peer.broker.records("t-g-dlq")
    headers = dict(dead.headers() or ())
    assert headers[flux_headers.REASON] == b"skipped"
    assert headers[flux_headers.ERROR_MESSAGE] == b"poison (skipped by ada@ops)"
    assert (dead.value(), headers[flux_headers.ATTEMPTS]) == (b"2", b"0")


def test_a_record_that_is_called_now_or_belongs_to_another_process_is_left_alone(peer: Commanded) -> None:
    peer.go.clear()
    with peer.commanded(peer.task(peer.handler())):
        peer.write(b"1")
        wait_for(lambda: peer.called, "the call")
        running = peer.ask(Action.SKIP, stage=0, partition=0, offset=0, why="slow")
        assert (running.ok, "its call is running" in running.text) == (False, True)
        assert "does not own the partition" in peer.ask(Action.SKIP, stage=0, partition=5, offset=0, why="slow").text
        peer.go.set()
        wait_for(lambda: peer.position() == 1, "the commit")
    assert peer.values("t-g-dlq") == []


def test_a_record_that_kills_its_process_can_be_skipped_for_the_next_one(peer: Commanded) -> None:
    task = peer.task(peer.handler())
    with peer.commanded(task):
        peer.ask(Action.SKIP, stage=0, partition=0, offset=0, why="kills")
    peer.write(b"1")
    with peer.commanded(task):
        wait_for(lambda: peer.values("t-g-dlq") == [b"1"], "the dead letter")
    assert peer.called == []


def test_what_is_no_command_or_for_another_task_is_passed_over(peer: Commanded) -> None:
    with peer.commanded(peer.task(peer.handler())) as running:
        peer.write(ProducerRecord(b"nonsense", b"key"), ProducerRecord(None, b"key"), topic=TOPIC)
        for other in ({"topic": "u"}, {"group": "h"}):
            peer.give(Action.PAUSE, **other)
        assert peer.ask(Action.SET_RATE, rate=5).ok
        assert peer.paused(running) == []
        assert len(peer.values(ANSWERS)) == 1


def test_a_command_that_fails_by_a_bug_leaves_the_tasks_alone(
    peer: Commanded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("bug")

    with peer.commanded(peer.task(peer.handler())):
        monkeypatch.setattr("flux.processes.controlled_task.ControlledTask.obey", broken)
        peer.give(Action.PAUSE)
        wait_for(lambda: "a command of ada@ops failed" in caplog.text, "the log")
        peer.write(b"1")
        wait_for(lambda: peer.called == [b"1"], "the call")


def test_an_answer_that_cannot_be_written_is_logged_once_with_the_missing_right(
    peer: Commanded, caplog: pytest.LogCaptureFixture
) -> None:
    with peer.commanded(peer.task(peer.handler())) as running:
        peer.broker.fail_writes(lambda topic, partition, record: DENIED if topic == ANSWERS else None)
        peer.give(Action.PAUSE)
        wait_for(lambda: "its answer cannot be written" in caplog.text, "the log")
        peer.give(Action.RESUME)
        wait_for(lambda: peer.paused(running) == [], "the resume")
    lines = [record.getMessage() for record in caplog.records if "its answer cannot be written" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].endswith(f"allow this login WRITE on topic {ANSWERS}")


def test_a_worker_that_may_not_read_the_topic_ends_at_its_start_and_names_the_right(
    peer: Commanded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def permissions(*_: object) -> Permissions:
        return Permissions({TOPIC: frozenset({"DESCRIBE"})}, {}, None)

    monkeypatch.setattr("flux.adapters.memory.admin.MemoryAdmin.permissions", permissions)
    worker = flux.Worker(peer.task(peer.handler()), adapter=peer.adapter, system=peer.machine, control=True)
    with pytest.raises(ConfigurationError, match=f"this login needs READ and DESCRIBE on topic {TOPIC}$"):
        worker.run()
    assert peer.called == []


def test_a_worker_without_control_reads_no_commands(peer: Commanded) -> None:
    with peer.working(peer.task(peer.handler())) as running:
        wait_for(lambda: running.worker.ready, "the start")
        peer.write(b"1")
        wait_for(lambda: peer.called == [b"1"], "the call")
        assert running.worker.jobs[0].skips is None
    assert TOPIC not in peer.topics


def test_the_topic_has_another_name_by_the_environment_and_a_wrong_one_is_refused(
    peer: Commanded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, "acme.commands")
    task = peer.task(peer.handler())
    with peer.commanded(task):
        pass
    assert {"acme.commands", "acme.commands-answers"} <= peer.topics
    monkeypatch.setenv(ENVIRONMENT, "a/b")
    with pytest.raises(ConfigurationError, match="a/b"):
        flux.Worker(task, adapter=peer.adapter, control=True)


def test_a_process_is_named_as_in_its_reports(peer: Commanded) -> None:
    control = WorkerControl(
        flux.Worker(peer.task(peer.handler()), adapter=peer.adapter).jobs, 3, lambda: None, peer.machine
    )
    host, pid, started = control.key.rsplit("/", 2)
    assert (int(started), control.name) == (control.started, f"{host} pid {pid} (process 3)")
