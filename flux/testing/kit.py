"""The kit: runs an application's tasks and producers in one thread, on an in-memory broker, with a clock that the test
moves."""

from __future__ import annotations

import itertools
import json as json_module
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from flux import config
from flux.adapters.memory import Broker, MemoryAdapter
from flux.config import AdapterChoice
from flux.core.control.commands import Action
from flux.core.errors import ConfigurationError, FluxError
from flux.core.policy import Policy
from flux.core.ports import ProducerRecord, ProducerSettings
from flux.core.validation import Seconds, check_whole
from flux.core.validation import seconds as plain_seconds
from flux.operate.commands import rate_of
from flux.operate.dlq.reject import reject
from flux.operate.dlq.replay import Replay
from flux.operate.dlq.replay_plan import ReplayOptions, plan_replay
from flux.producer import Producer
from flux.producing.encoding import HeadersLike, encode, encode_headers
from flux.producing.registry import PRODUCERS
from flux.task import Task
from flux.testing import arguments as given
from flux.testing.arguments import AnyTask, AnyTopic
from flux.testing.clock import Clock
from flux.testing.clusters import Clusters
from flux.testing.commands import Commands, stage_of
from flux.testing.machine import Machine, Stuck
from flux.testing.records import ANYTHING, Records, StoredRecord, describe
from flux.testing.waiting import WaitingRecord, waiting_records
from flux.testing.working import HandlerFailure, Life, Summary, Working, in_all, perform, perform_async
from flux.worker import Worker

_numbers = itertools.count(1)


class Kit:
    """Made by `flux.testing.kit` or the fixture `flux_kit`. Used by one thread; other threads may produce.

    `clock`: its time. `failures`: exceptions of calls, in order.
    """

    def __init__(self, clusters: Clusters, machine: Machine) -> None:
        self._clusters = clusters
        self._machine = machine
        self.clock = Clock(machine)
        self.failures: list[HandlerFailure] = []
        self._commands = Commands(machine)
        self._provided: list[tuple[AnyTask, dict[str, Any]]] = []

    # ---- running

    def run(self, *tasks: AnyTask, stages: str | None = None, at_most: int = 100_000) -> Summary:
        """Processes all records that are due, in this thread, until none is left; missing topics are created. Coroutine
        functions run in an event loop of this run. The clock moves only for retries in place, a rate limit and batches
        that are not full. The run ends at a pause, and when all that is left waits for paused names; the next one tries
        again.

        `stages`: as for `flux.Worker`. A call that raises is handled as in production, and added to `failures`;
        MemoryError, KeyboardInterrupt, SystemExit and other exceptions that are no Exception leave `run`, and the next
        run delivers the record again. Raises ConfigurationError, BrokerError, and Stuck when there is no progress, or
        after `at_most` calls.
        """
        return perform(self._lives(tasks, stages, at_most, to_the_end=False))

    def run_to_the_end(self, *tasks: AnyTask, stages: str | None = None, at_most: int = 100_000) -> Summary:
        """`run` until no record waits, except behind a dead letter that holds its key (`on_dead`): whenever all others
        wait, the clock moves to the next due time, or to the next attempt in a pause."""
        return perform(self._lives(tasks, stages, at_most, to_the_end=True))

    async def arun(self, *tasks: AnyTask, stages: str | None = None, at_most: int = 100_000) -> Summary:
        """`run` in the running event loop, for tests that are coroutines."""
        return await perform_async(self._lives(tasks, stages, at_most, to_the_end=False))

    async def arun_to_the_end(self, *tasks: AnyTask, stages: str | None = None, at_most: int = 100_000) -> Summary:
        """`run_to_the_end` in the running event loop."""
        return await perform_async(self._lives(tasks, stages, at_most, to_the_end=True))

    def provide(self, task: AnyTask, **attributes: Any) -> None:
        """From now on, runs of the task give it these attributes in place of entering its `resources`; `setup` and
        `close` are called as always. Raises ConfigurationError for a task without `resources`."""
        given.check_task(task)
        cls = task if isinstance(task, type) else type(task)
        if cls.resources is Task.resources:
            raise ConfigurationError(f"{cls.__name__} has no resources")
        self._provided.append((task, attributes))

    def _lives(self, tasks: tuple[AnyTask, ...], stages: str | None, at_most: int, to_the_end: bool) -> Life:
        """One, and another one after each `restart`."""
        check_whole("at_most", at_most, 1)
        summaries: list[Summary] = []
        while len(summaries) < at_most:
            working = self._working(tasks, stages, at_most, to_the_end)
            summaries.append((yield from working.life()))
            if not working.commanded.restarts:
                return in_all(summaries)
        raise Stuck(f"more than {at_most} restarts in one run")

    def _working(self, tasks: tuple[AnyTask, ...], stages: str | None, at_most: int, to_the_end: bool) -> Working:
        jobs = Worker(*tasks, stages=stages, system=self._machine).jobs
        for job in jobs:
            for task, attributes in self._provided:
                if job.task is task or (isinstance(task, type) and isinstance(job.task, task)):
                    job.resources.replaced = {**(job.resources.replaced or {}), **attributes}
        commanded, partitions = self._commands.run(jobs), self._clusters.partitions
        return Working(self._machine, jobs, commanded, partitions, self.failures, stages, to_the_end, at_most)

    # ---- dead letters

    def replay(self, task: AnyTask, *dead_letters: StoredRecord) -> int:
        """As `flux dlq replay`: the next run calls these dead letters again, by default all open ones. Returns how
        many. Raises FluxError."""
        adapter, policy = self._task(task)
        plan = plan_replay(adapter.admin(), policy, ReplayOptions(given.chosen(dead_letters), again=bool(dead_letters)))
        result = Replay(plan, adapter, adapter.admin(), system=self._machine).run()
        if result.failed:
            raise FluxError(result.stopped)
        return result.replayed

    def reject(self, task: AnyTask, *dead_letters: StoredRecord) -> int:
        """As `flux dlq reject`: these are no longer open, by default all. Returns how many. Raises FluxError."""
        adapter, policy = self._task(task)
        found = reject(adapter, adapter.admin(), policy, given.chosen(dead_letters), system=self._machine)
        return len(found.rejected)

    # ---- commands, as of operators: for the runs from now on, and at once for one that is going on

    def pause(self, task: AnyTask, *, stage: int | None = None, seconds: Seconds | None = None, why: str = "") -> None:
        """As `flux pause`: the task, or one stage, starts no calls for so many seconds; None: until `resume`."""
        self._command(task, Action.PAUSE, stage=stage, seconds=plain_seconds(seconds), why=why)

    def resume(self, task: AnyTask, *, stage: int | None = None) -> None:
        """As `flux resume`."""
        self._command(task, Action.RESUME, stage=stage)

    def set_rate(self, task: AnyTask, rate: float | str, *, seconds: Seconds | None = None) -> None:
        """As `flux set-rate`: calls a second, "none" or "default"."""
        of = rate_of(given.rate_text(rate))
        self._command(task, Action.SET_RATE, rate=of, seconds=plain_seconds(seconds))

    def skip(self, task: AnyTask, record: StoredRecord, *, why: str = "") -> None:
        """As `flux skip`: this record of a topic of the task becomes a dead letter without a call."""
        _, policy = self._task(task)
        partition, offset = given.place_of(record)
        stage = stage_of(policy, record.topic)
        self._command(task, Action.SKIP, stage=stage, why=why, partition=partition, offset=offset)

    def restart(self, task: AnyTask) -> None:
        """As `flux restart`, in a call: the run stops its tasks gracefully, and starts them anew."""
        self._command(task, Action.RESTART)

    def _command(self, task: AnyTask, action: Action, **fields: object) -> None:
        adapter, policy = self._task(task)
        self._commands.give(adapter.cluster, policy, action, **fields)

    # ---- producing

    def produce(
        self,
        topic: AnyTopic,
        value: Any = None,
        *,
        json: Any = ANYTHING,
        key: str | bytes | None = None,
        headers: HeadersLike = (),
        partition: int | None = None,
        timestamp: int | None = None,
        adapter: AdapterChoice = None,
    ) -> StoredRecord:
        """Writes a record as another program would. `value`: bytes, str or None; or `json`: a value to encode.
        `timestamp`: milliseconds since the epoch, by default now. Raises BrokerError, ConfigurationError."""
        name, cluster = self._place(topic, adapter)
        given.check_partition(partition)
        data = encode(value, "value") if json is ANYTHING else json_module.dumps(json).encode()
        record = ProducerRecord(data, encode(key, "key"), encode_headers(headers), partition, timestamp)
        ends: list[tuple[Exception | None, Any]] = []
        writer = cluster.producer(ProducerSettings())
        writer.write(name, [record], lambda error, written: ends.append((error, written)))
        writer.close(0)
        ((error, stored),) = ends
        if error is not None:
            raise error
        return StoredRecord.of(stored)

    # ---- reading topics

    def topic(self, topic: AnyTopic, *, adapter: AdapterChoice = None) -> Records:
        """The records of a topic; producers are flushed first. `topic`: a name, a producer or a task. `adapter`: the
        cluster of the name; None: the process's."""
        PRODUCERS.deliver_all()
        name, cluster = self._place(topic, adapter)
        return self._read(name, cluster.broker)

    def dead_letters(self, task: AnyTask) -> Records:
        """The dead letters of a task."""
        adapter, policy = self._task(task)
        return self.topic(policy.stages[policy.stages.dead].topic, adapter=adapter)

    def waiting(self, task: AnyTask) -> list[WaitingRecord]:
        """Records that wait in the retry topics of a task, in due order, without those that were replaced or
        cancelled."""
        adapter, policy = self._task(task)
        stages = [policy.stages[number] for number in range(1, policy.stages.dead)]
        now = self._machine.now()
        found = [each for stage in stages for each in waiting_records(stage, adapter.broker, now)]
        return sorted(found, key=lambda each: (each.due or 0.0, each.stage))

    def assert_produced(
        self,
        topic: AnyTopic,
        *,
        key: Any = ANYTHING,
        value: Any = ANYTHING,
        json: Any = ANYTHING,
        headers: Any = ANYTHING,
        count: int | None = None,
        adapter: AdapterChoice = None,
    ) -> Records:
        """Returns the matching records of a topic. Raises AssertionError, which shows the topic, if there are none, or
        not exactly `count`. `key`, `value`: bytes, str or None; `json`: the decoded value; `headers`: a subset of its
        headers."""
        __tracebackhide__ = True
        all_records = self.topic(topic, adapter=adapter)
        found = all_records.matching(key=key, value=value, json=json, headers=headers)
        if len(found) == count or (count is None and found):
            return found
        wanted = "a record" if count is None else f"{count} record(s)"
        criteria = describe(key=key, value=value, json=json, headers=headers)
        raise AssertionError(
            f"expected {wanted}{criteria}, found {len(found)}: {all_records!r}{self._elsewhere(all_records)}"
        )

    def _elsewhere(self, records: Records) -> str:
        """What may explain a missing record."""
        lines = [f"\n  {failure!r}" for failure in self.failures[-5:]]
        explained = f"\nthe last calls that raised:{''.join(lines)}" if lines else ""
        if not records:
            names = sorted({name for each in self._clusters.all() for name in _topics_with_records(each)})
            explained += f"\ntopics with records: {', '.join(names) or 'none'}"
        return explained

    # ---- the broker

    def broker(self, of: AnyTask | type[Producer] | Producer | AdapterChoice = None) -> Broker:
        """The in-memory broker of a task, a producer or an adapter, for its topics, committed offsets, outages and
        faults; None: the process's."""
        return self._adapter(of.adapter if given.has_topic(of) else of).broker  # type: ignore[arg-type]

    def _adapter(self, choice: AdapterChoice) -> MemoryAdapter:
        adapter = config.resolve_adapter(choice)
        assert isinstance(adapter, MemoryAdapter)
        return adapter

    def _task(self, task: AnyTask) -> tuple[MemoryAdapter, Policy]:
        given.check_task(task)
        return self._adapter(task.adapter), task.policy()

    def _place(self, topic: AnyTopic, adapter: AdapterChoice) -> tuple[str, MemoryAdapter]:
        own = topic.adapter if given.has_topic(topic) else None
        return given.topic_name(topic), self._adapter(own if adapter is None else adapter)

    def _read(self, name: str, broker: Broker) -> Records:
        return Records(f"topic {name}", map(StoredRecord.of, broker.records(name)))


@contextmanager
def kit(*, partitions: int = 1, seed: int = 0, start: float | datetime | None = None) -> Iterator[Kit]:
    """A context in which every task and producer uses in-memory brokers: one for the process's cluster, whatever is
    configured, and one for each other cluster that a task or a producer names. Nothing connects to a network.

    `partitions`: of topics that a write or a run creates. `seed`: for the random part of waits. `start`: the clock's
    time, in seconds since the epoch or as a datetime; None: now, in whole seconds. Records that producers have buffered
    before are delivered first; settings that are changed meanwhile are restored at the end.
    """
    machine = Machine(given.start_of(start), given.seed_of(seed))
    clusters = Clusters(f"flux-testing-{next(_numbers)}", machine, partitions)
    before = PRODUCERS.system
    PRODUCERS.start_over(machine)
    try:
        with config.substituting(clusters.substitute):
            yield Kit(clusters, machine)
    finally:
        clusters.recover()
        PRODUCERS.start_over(before)
        clusters.forget()


def _topics_with_records(adapter: MemoryAdapter) -> list[str]:
    names = adapter.admin().topic_names(0)
    return [name for name in names if adapter.broker.records(name)]
