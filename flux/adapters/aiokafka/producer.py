"""A producer by aiokafka, for callers in any thread: they fill a bounded queue, one event loop empties it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from aiokafka.errors import KafkaError

from flux.adapters.aiokafka import codecs
from flux.adapters.aiokafka.errors import translated
from flux.adapters.aiokafka.event_loop_thread import EventLoopThread
from flux.adapters.aiokafka.log import ClientLog, logger
from flux.adapters.aiokafka.partition_sender import RECORD_OVERHEAD, BatchEntry, unwritten
from flux.adapters.aiokafka.sender import Sender
from flux.core.errors import BrokerError, ConfigurationError, Fault
from flux.core.ports import Acknowledged, ProducerRecord, ProducerSettings, Record, System, each_of

_METADATA_AGE = 60.0  # seconds that a partition count is trusted
_ABANDONED = 5.0  # seconds that reporting what was abandoned may take


class AiokafkaProducer:
    """`flux.core.ports.ProducerPort`. Acknowledgements come on the event loop's thread, which must not wait in them.

    One inherited by a child process raises BrokerError (FATAL): the child must make its own.
    """

    def __init__(
        self,
        machine: EventLoopThread,
        client: Mapping[str, Any],
        options: Mapping[str, int],
        settings: ProducerSettings,
        log: ClientLog,
        system: System,
    ) -> None:
        if (lacks := codecs.remedy(settings.compression)) is not None:
            raise ConfigurationError(f"aiokafka lacks the library for compression {settings.compression}: {lacks}")
        machine.start()
        self._machine = machine
        self._settings = settings
        self._log = log
        self._now = system.monotonic
        self._lock = system.condition()
        self._inbox: list[tuple[str, list[BatchEntry]]] = []
        self._posted = False
        self._queued_bytes = 0
        self._unanswered = 0
        self._closed = False
        self._counts: dict[str, tuple[float, int]] = {}  # topic -> when it is old, partitions
        self._sender: Sender | None = None
        self._make_sender = partial(Sender, client, options, settings, self._answered, system)

    def write(
        self, topic: str, records: Sequence[ProducerRecord], acknowledged: Acknowledged | Sequence[Acknowledged]
    ) -> int:
        deadline = self._now() + self._settings.delivery_timeout
        limit = self._settings.max_queue_bytes
        entries: list[BatchEntry] = []
        refused: list[tuple[ProducerRecord, Acknowledged, int]] = []
        self._machine.check()
        with self._lock:
            if self._closed:
                raise BrokerError("the producer is closed", Fault.FATAL)
            taken, queued = 0, self._queued_bytes
            for one, ended in zip(records, each_of(acknowledged, records), strict=True):
                try:
                    size = RECORD_OVERHEAD + len(one[0] or b"") + len(one[1] or b"")
                    if one[2]:
                        size += sum(len(name) + len(value or b"") + 2 for name, value in one[2])
                except (TypeError, ValueError):
                    size = RECORD_OVERHEAD  # none for Kafka: reported in its turn
                if size > limit:
                    refused.append((one, ended, size))
                elif queued + size > limit:
                    break
                else:
                    queued += size
                    entries.append(BatchEntry(one, ended, deadline, size))
                taken += 1
            self._queued_bytes = queued
            self._unanswered += len(entries)
            if entries:
                self._inbox.append((topic, entries))
                if not self._posted:
                    self._machine.post(self._empty_inbox)
                    self._posted = True  # only now: a signal's handler may raise anywhere, and nobody would post again
        for one, ended, size in refused:
            error = BrokerError(f"a record of {size} bytes exceeds max_queue_bytes", Fault.TOO_LARGE)
            _tell(topic, ended, error, unwritten(topic, one.partition, one))
        return taken

    def partitions(self, topic: str, timeout: float) -> int:
        until, count = self._counts.get(topic, (0.0, 0))
        if self._now() < until:
            return count
        doing, needs = f"cannot write to topic {topic}", f"WRITE on topic {topic}"
        try:
            count = self._machine.run(lambda: self._in_loop().partitions(topic), timeout)
        except (KafkaError, BrokerError, TimeoutError) as error:
            raise self._log.judged(translated(error, doing, needs)) from None
        self._counts[topic] = (self._now() + _METADATA_AGE, count)
        return count

    def flush(self, timeout: float) -> int:
        self._machine.check()
        if self._unanswered:
            self._machine.post(self._hurry)
        return self._waited(timeout)

    def close(self, timeout: float) -> int:
        self._machine.check()
        with self._lock:
            if self._closed:
                return 0
            self._closed = True
        left = self.flush(timeout)
        error = BrokerError("the producer was closed before the record was acknowledged", Fault.UNAVAILABLE)
        if self._sender is not None or left:
            try:
                self._machine.run(lambda: self._in_loop().abandon(error), _ABANDONED)
            except TimeoutError:
                self._log.warn("close", "closing the producer takes too long: its connections are left open")
            self._waited(_ABANDONED)
        return left

    def _waited(self, timeout: float) -> int:
        deadline = self._now() + timeout
        with self._lock:
            while self._unanswered and (left := deadline - self._now()) > 0:
                self._lock.wait(left)
            return self._unanswered

    # -- in the event loop

    def _in_loop(self) -> Sender:
        if self._sender is None:
            self._sender = self._make_sender()
        return self._sender

    def _empty_inbox(self) -> None:
        with self._lock:
            inbox, self._inbox = self._inbox, []
            self._posted = False
        sender = self._in_loop()
        for topic, entries in inbox:
            sender.add(topic, entries)

    def _hurry(self) -> None:
        self._empty_inbox()
        self._in_loop().hurry()

    def _answered(self, entries: Sequence[BatchEntry], records: Sequence[Record], error: BrokerError | None) -> None:
        if error is not None:
            error = self._log.judged(error)
            for record in records:  # it may have been deleted, or made anew with other partitions
                self._counts.pop(record.topic(), None)
        size = 0
        for entry, record in zip(entries, records, strict=True):
            size += entry.size
            _tell(record.topic(), entry.acknowledged, error, record)
        with self._lock:
            self._queued_bytes -= size
            self._unanswered -= len(entries)
            self._lock.notify_all()


def _tell(topic: str, acknowledged: Acknowledged, error: BrokerError | None, record: Record) -> None:
    try:
        acknowledged(error, record)
    except Exception:
        logger.exception("the acknowledgement of a record for topic %s was not taken", topic)
