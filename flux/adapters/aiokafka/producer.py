"""A producer by aiokafka, for callers in any thread: they fill a bounded queue, which one event loop empties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from aiokafka.errors import KafkaError

from flux.adapters.aiokafka import codecs
from flux.adapters.aiokafka.errors import translated
from flux.adapters.aiokafka.event_loop_thread import EventLoopThread
from flux.adapters.aiokafka.log import ClientLog, logger
from flux.adapters.aiokafka.produce_batch import BatchEntry, unwritten
from flux.adapters.aiokafka.sender import Sender
from flux.core.errors import BrokerError, ConfigurationError, Fault
from flux.core.ports import Acknowledged, ProducerRecord, ProducerSettings, Record, System, each_of
from flux.core.producing.written_record import RECORD_OVERHEAD

_METADATA_AGE = 60.0  # seconds that a partition count is trusted
_ABANDONED = 5.0  # seconds that reporting what was abandoned may take


class AiokafkaProducer:
    """`flux.core.ports.ProducerPort`. Acknowledgements are called on the event loop's thread and must not block it.

    One inherited by a child process raises BrokerError (FATAL): the child must make its own.
    """

    def __init__(
        self,
        loop_thread: EventLoopThread,
        client: Mapping[str, Any],
        options: Mapping[str, int],
        settings: ProducerSettings,
        log: ClientLog,
        system: System,
    ) -> None:
        if (lacks := codecs.remedy(settings.compression)) is not None:
            raise ConfigurationError(f"aiokafka lacks the library for compression {settings.compression}: {lacks}")
        loop_thread.start()
        self._loop_thread = loop_thread
        self._settings = settings
        self._log = log
        self._now = system.monotonic
        self._lock = system.condition()
        self._inbox: list[tuple[str, list[BatchEntry]]] = []
        self._posted = False
        self._queued_bytes = 0
        self._unacknowledged = 0
        self._closed = False
        self._counts: dict[str, tuple[float, int]] = {}  # topic -> until when it is trusted, partitions
        self._sender: Sender | None = None
        self._make_sender = partial(Sender, client, options, settings, self._on_acknowledged, system)

    def write(
        self, topic: str, records: Sequence[ProducerRecord], acknowledged: Acknowledged | Sequence[Acknowledged]
    ) -> int:
        deadline = self._now() + self._settings.delivery_timeout
        limit = self._settings.max_queue_bytes
        entries: list[BatchEntry] = []
        refused: list[tuple[ProducerRecord, Acknowledged, int]] = []
        self._loop_thread.check()
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
                    size = RECORD_OVERHEAD  # not for Kafka: refused when the batch is built
                if size > limit:
                    refused.append((one, ended, size))
                elif queued + size > limit:
                    break
                else:
                    queued += size
                    entries.append(BatchEntry(one, ended, deadline, size))
                taken += 1
            self._queued_bytes = queued
            self._unacknowledged += len(entries)
            if entries:
                self._inbox.append((topic, entries))
                if not self._posted:
                    self._loop_thread.post(self._empty_inbox)
                    self._posted = True  # only now: if a signal handler raised before, nothing would be posted again
        for one, acknowledge, size in refused:
            error = BrokerError(f"a record of {size} bytes exceeds max_queue_bytes", Fault.TOO_LARGE)
            _acknowledge(topic, acknowledge, error, unwritten(topic, one.partition, one))
        return taken

    def partitions(self, topic: str, timeout: float) -> int:
        until, count = self._counts.get(topic, (0.0, 0))
        if self._now() < until:
            return count
        doing, needs = f"cannot write to topic {topic}", f"WRITE on topic {topic}"
        try:
            count = self._loop_thread.run(lambda: self._sender_in_loop().partitions(topic), timeout)
        except (KafkaError, BrokerError, TimeoutError) as error:
            raise self._log.judged(translated(error, doing, needs)) from None
        self._counts[topic] = (self._now() + _METADATA_AGE, count)
        return count

    def flush(self, timeout: float) -> int:
        self._loop_thread.check()
        if self._unacknowledged:
            self._loop_thread.post(self._flush_in_loop)
        return self._wait(timeout)

    def close(self, timeout: float) -> int:
        self._loop_thread.check()
        with self._lock:
            if self._closed:
                return 0
            self._closed = True
        left = self.flush(timeout)
        error = BrokerError("the producer was closed before the record was acknowledged", Fault.UNAVAILABLE)
        if self._sender is not None or left:
            try:
                self._loop_thread.run(lambda: self._sender_in_loop().abandon(error), _ABANDONED)
            except TimeoutError:
                self._log.warn("close", "closing the producer takes too long: its connections are left open")
            self._wait(_ABANDONED)
        return left

    def _wait(self, timeout: float) -> int:
        deadline = self._now() + timeout
        with self._lock:
            while self._unacknowledged and (left := deadline - self._now()) > 0:
                self._lock.wait(left)
            return self._unacknowledged

    # -- in the event loop

    def _sender_in_loop(self) -> Sender:
        if self._sender is None:
            self._sender = self._make_sender()
        return self._sender

    def _empty_inbox(self) -> None:
        with self._lock:
            inbox, self._inbox = self._inbox, []
            self._posted = False
        sender = self._sender_in_loop()
        for topic, entries in inbox:
            sender.add(topic, entries)

    def _flush_in_loop(self) -> None:
        self._empty_inbox()
        self._sender_in_loop().flush()

    def _on_acknowledged(
        self, entries: Sequence[BatchEntry], records: Sequence[Record], error: BrokerError | None
    ) -> None:
        if error is not None:
            error = self._log.judged(error)
            for record in records:  # the topic may have been deleted, or created again with other partitions
                self._counts.pop(record.topic(), None)
        size = 0
        for entry, record in zip(entries, records, strict=True):
            size += entry.size
            _acknowledge(record.topic(), entry.acknowledged, error, record)
        with self._lock:
            self._queued_bytes -= size
            self._unacknowledged -= len(entries)
            self._lock.notify_all()


def _acknowledge(topic: str, acknowledged: Acknowledged, error: BrokerError | None, record: Record) -> None:
    try:
        acknowledged(error, record)
    except Exception:
        logger.exception("the acknowledgement of a record for topic %s failed", topic)
