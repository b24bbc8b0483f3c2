"""The environment of a check: one adapter, with its own topics, groups and clients, all closed at the end."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from types import TracebackType
from typing import Any

from flux.core.errors import BrokerError, Fault
from flux.core.ports import (
    BEGINNING,
    AdminPort,
    ConsumerSettings,
    NewTopic,
    PollResult,
    ProducerPort,
    ProducerRecord,
    ProducerSettings,
    ReaderPort,
    Record,
    TopicPartition,
    TransactionPort,
    TransactionSettings,
)
from flux.testing.contract.members import ContractMember, LoopMember, SeenEvents, ThreadMember

End = tuple[BrokerError | None, Record]
Check = Callable[["Bench"], None]
TopicFactory = Callable[[str, int, Mapping[str, str]], object]
Transact = Callable[[str, Sequence[bytes], bool], object]
Grow = Callable[[str, int], object]


class Contract(dict[str, Check]):
    """Checks by name. Used as a decorator."""

    def __call__(self, check: Check) -> Check:
        self[check.__name__] = check
        return check

    def transactional(self, check: Check) -> Check:
        """A check that does nothing where the adapter has no transactional producer."""

        @wraps(check)
        def check_transactions(bench: Bench) -> None:
            if hasattr(bench.adapter, "transactions"):
                check(bench)

        return self(check_transactions)


class Bench:
    """`adapter` is an `Adapter` or an `AsyncAdapter`. `topic_factory(name, partitions, config)` creates a topic instead
    of the adapter's admin. `impatient` is a second adapter for the same cluster whose consumers lose their partitions a
    few seconds after their last poll. `transact(topic, values, commits)` writes records to partition 0 in a
    transaction, and commits or aborts it. `grow(topic, partitions)` adds partitions up to that number; the adapter's
    clients must see them within seconds. Checks that need one of these do nothing without it. `seconds`: the limit for
    each step."""

    def __init__(
        self,
        adapter: Any,
        *,
        topic_factory: TopicFactory | None = None,
        impatient: Any = None,
        transact: Transact | None = None,
        grow: Grow | None = None,
        seconds: float = 30.0,
    ) -> None:
        self.adapter = adapter
        self.impatient = impatient
        self.transact = transact
        self.grow = grow
        self.seconds = seconds
        self.admin: AdminPort = adapter.admin()
        self._topic_factory = topic_factory or self._make_topic
        self._producer: ProducerPort | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: list[Callable[[], object]] = [self.admin.close]

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for close in reversed(self._closing):
            try:
                close()
            except Exception:
                if error is None:
                    raise
        if self._loop is not None:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    # -- the cluster

    def name(self) -> str:
        return f"contract-{secrets.token_hex(6)}"

    def topic(self, partitions: int = 1, **config: object) -> str:
        """A new topic's name; config as max_message_bytes=1000."""
        name = self.name()
        self._topic_factory(name, partitions, {key.replace("_", "."): str(value) for key, value in config.items()})
        self.until(lambda: (info := self.admin.topics([name], self.seconds)[name]) and info.partitions == partitions)
        return name

    def _make_topic(self, name: str, partitions: int, config: Mapping[str, str]) -> None:
        self.admin.create_topics([NewTopic(name, partitions, 1, config)], self.seconds)

    # -- clients

    def producer(self, **settings: Any) -> ProducerPort:
        made: ProducerPort = self.adapter.producer(ProducerSettings(**settings))
        self._closing.append(lambda: made.close(0))
        return made

    def transactions(self, name: str | None = None, **settings: Any) -> TransactionPort:
        """A transactional producer that has started; of the id `name`, or one of its own."""
        made: TransactionPort = self.adapter.transactions(TransactionSettings(name or self.name(), **settings))
        self._closing.append(made.close)
        made.start(self.seconds)
        return made

    @contextmanager
    def transaction(self, name: str | None = None, **settings: Any) -> Iterator[TransactionPort]:
        """One that has begun a transaction, and is closed at the end."""
        made = self.transactions(name, **settings)
        made.begin()
        yield made
        made.close()

    def write(self, topic: str, records: Sequence[ProducerRecord]) -> list[End]:
        """The acknowledgements, in their order."""
        if self._producer is None:
            self._producer = self.producer()
        ends: list[End] = []
        taken = self._producer.write(topic, records, lambda error, record: ends.append((error, record)))
        assert taken == len(records), f"{taken} of {len(records)} records taken"
        assert self._producer.flush(self.seconds) == 0
        assert len(ends) == len(records), f"{len(ends)} acknowledgements for {len(records)} records"
        return ends

    def written(self, topic: str, records: Sequence[ProducerRecord]) -> list[Record]:
        ends = self.write(topic, records)
        assert [error for error, _ in ends if error] == []
        return [record for _, record in ends]

    def member(
        self,
        topic: str,
        group: str | None = None,
        start: int | None = BEGINNING,
        adapter: Any = None,
        suffix: str = "",
    ) -> ContractMember:
        events = SeenEvents(start, self.seconds)
        adapter = adapter or self.adapter
        settings = ConsumerSettings(topic, group or self.name(), instance_suffix=suffix)
        made: ContractMember
        if hasattr(adapter, "async_consumer"):
            self._loop = self._loop or asyncio.new_event_loop()
            made = LoopMember(adapter, settings, events, self._loop)
        else:
            made = ThreadMember(adapter, settings, events)
        self._closing.append(made.close)
        return made

    def reader(self, starts: Mapping[TopicPartition, int]) -> ReaderPort:
        made: ReaderPort = self.adapter.reader(starts)
        self._closing.append(made.close)
        return made

    # -- waiting

    def until(self, enough: Callable[[], object], doing: Callable[[], object] = lambda: time.sleep(0.02)) -> None:
        deadline = time.monotonic() + self.seconds
        while not enough():
            assert time.monotonic() < deadline, f"not within {self.seconds:g} s"
            doing()

    def polled(self, members: Iterable[ContractMember], enough: Callable[[PollResult], object]) -> PollResult:
        """Polls the members until `enough`, and returns all results; updates `worked` of each."""
        whole = PollResult()
        everybody = list(members)

        def poll() -> None:
            for member in everybody:
                polled = member.poll()
                for batch in polled.batches:
                    assert batch.records, "an empty batch"
                    assert batch.partition in member.events.owned, f"{batch.partition} is not this member's"
                    member.events.worked[batch.partition] = batch.records[-1].offset() + 1
                whole.batches.extend(polled.batches)
                whole.out_of_range.extend(polled.out_of_range)
                whole.reached.update(polled.reached)

        self.until(lambda: enough(whole), poll)
        return whole

    def take(self, member: ContractMember, count: int) -> list[Record]:
        return records_of(self.polled([member], lambda whole: len(records_of(whole)) >= count))

    def joined(self, topic: str, group: str | None = None) -> ContractMember:
        """A member that has taken a record of the topic's partition 0."""
        self.written(topic, [ProducerRecord(b"work", None, (), 0)])
        member = self.member(topic, group)
        self.take(member, 1)
        return member

    def join(self, *members: ContractMember) -> None:
        """Polls until each has an assignment. A record that arrives meanwhile is an error."""
        whole = self.polled(members, lambda _: all(member.events.owned for member in members))
        assert brings_nothing(whole), f"records came: {whole}"

    def nothing_comes(self, member: ContractMember, polls: int = 5) -> None:
        for _ in range(polls):
            polled = member.poll(500, 0.1)
            assert brings_nothing(polled), f"something came: {polled}"


def brings_nothing(polled: PollResult) -> bool:
    """Whether a poll has neither records nor errors; it may report ends."""
    return not (polled.batches or polled.out_of_range)


def records_of(polled: PollResult) -> list[Record]:
    return [record for batch in polled.batches for record in batch.records]


def values(records: Iterable[Record]) -> list[bytes | None]:
    return [record.value() for record in records]


def at(topic: str, *numbers: int) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for number in numbers]


def error_of(call: Callable[[], object]) -> BrokerError:
    """The BrokerError that `call` must raise."""
    try:
        result = call()
    except BrokerError as error:
        return error
    raise AssertionError(f"no BrokerError, but {result!r}")


def fault_of(call: Callable[[], object]) -> Fault:
    """The fault of the BrokerError that `call` must raise."""
    return error_of(call).fault
