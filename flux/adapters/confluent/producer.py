"""A producer by confluent-kafka.

Records go one by one through `produce`: `produce_batch` is no faster with 2.16, has neither headers nor timestamps,
ignores a record's own partition, and accepts later records after one that it refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from flux.adapters.confluent.acknowledgements import Acknowledgements
from flux.adapters.confluent.apart import Apart, Sent
from flux.adapters.confluent.callbacks import ErrorCallback
from flux.adapters.confluent.closing import ended_within
from flux.adapters.confluent.errors import fault_of
from flux.adapters.confluent.log import ClientLog, logger
from flux.adapters.confluent.messages import client_headers
from flux.adapters.confluent.partition_counts import PartitionCounts
from flux.adapters.confluent.silence import Silence
from flux.adapters.operations import invalid_record
from flux.core.errors import BrokerError, Fault
from flux.core.ports import Acknowledged, ProducerRecord, ProducerSettings, System, each_of

_POLL = 0.1  # seconds
_ABANDONED = 5.0  # seconds that the delivery reports of purged records may take


class ConfluentProducer:
    """`flux.core.ports.ProducerPort`. A daemon thread serves the acknowledgements.

    One inherited by a child process accepts records and never sends them: the child must make its own.
    """

    def __init__(
        self,
        properties: dict[str, Any],
        settings: ProducerSettings,
        log: ClientLog,
        system: System,
        apart: bool = False,
    ) -> None:
        """`apart`: write each record in a batch of its own."""
        self._settings = settings
        self._log = log
        self._now = system.monotonic
        self._counts = PartitionCounts(system.monotonic, self._connected)
        self._worked = False  # whether the cluster has ever acknowledged
        self._refused_login: BrokerError | None = None
        self._purge = False
        self._fatal: BrokerError | None = None
        self._closed = False
        one_by_one = properties | {"batch.num.messages": 1}

        def make_apart() -> ConfluentProducer:
            return ConfluentProducer(one_by_one, settings, log, system, apart=True)

        self._apart = None if apart else Apart(make_apart, self._refuse, system)
        on_error = ErrorCallback(log, "cannot write", properties, self._on_refused)
        silence = Silence(properties, log, system.monotonic)
        self._client: Any = Producer(silence.properties({"logger": log} | properties | {"error_cb": on_error}))
        self._acknowledgements = Acknowledgements(
            self._client, self._poll, self._after_poll, str(properties["bootstrap.servers"]), system
        )

    def write(
        self, topic: str, records: Sequence[ProducerRecord], acknowledged: Acknowledged | Sequence[Acknowledged]
    ) -> int:
        client = self._client  # before the check, since `close` removes it
        self._check_usable()
        self._acknowledgements.before_write(len(records))
        produce = client.produce
        on_delivery, last, sent = self._on_delivery, None, Sent(records)
        report: Any = None
        taken = 0
        try:
            for record, acknowledge in zip(records, each_of(acknowledged, records), strict=True):
                if acknowledge is not last:
                    last = acknowledge
                    report = partial(on_delivery, topic, acknowledge, sent)
                value, key, headers, partition, timestamp = record
                try:
                    if headers or timestamp is not None:
                        produce(
                            topic,
                            value,
                            key,
                            -1 if partition is None else partition,
                            report,
                            timestamp=timestamp or 0,
                            headers=client_headers(headers) if headers else None,
                        )
                    else:
                        produce(topic, value, key, -1 if partition is None else partition, report)
                except BufferError:
                    size = len(value or b"") + len(key or b"")
                    if size < self._settings.max_queue_bytes:
                        return taken
                    refused = BrokerError(f"a record of {size} bytes exceeds max_queue_bytes", Fault.TOO_LARGE)
                    self._refuse(topic, record, refused, acknowledge)
                except KafkaException as error:
                    refused = self._translated(error.args[0], topic)
                    if error.args[0].fatal() or refused.fault is Fault.FATAL:
                        self._fatal = self._fatal or refused
                        if taken:
                            return taken
                        raise refused from None
                    self._refuse(topic, record, refused, acknowledge)
                except (TypeError, ValueError, OverflowError) as error:
                    self._refuse(topic, record, invalid_record(topic, error), acknowledge)
                taken += 1
        finally:
            if self._closed:  # by another thread meanwhile: nothing else serves what was taken since
                self._abandon(client)
        return taken

    def partitions(self, topic: str, timeout: float) -> int:
        client = self._client  # before the check, since `close` removes it
        self._check_usable()
        try:
            return self._counts.of(client, topic, timeout)
        except KafkaException as error:
            raise self._translated(error.args[0], topic) from None

    def flush(self, timeout: float) -> int:
        client = self._client
        return 0 if self._closed else self._flush(client, timeout)

    def close(self, timeout: float) -> int:
        if self._closed:
            return 0
        self._closed = True
        self._acknowledgements.stop()
        left = self._flush(self._client, timeout)
        if left:
            self._abandon(self._client)
        elif self._apart is not None:
            self._apart.close(0)
        self._acknowledgements.join(_ABANDONED)
        # Its callbacks refer to this object: it would live, and connect, until the garbage is collected.
        ended_within(_ABANDONED, self._release_client)
        return left

    def _release_client(self) -> None:
        """The client closes with its last reference."""
        self._client = None

    # -- acknowledgements

    def _after_poll(self, client: Producer) -> None:
        if self._apart:
            self._apart.write()
        if self._purge:
            # Nothing will be accepted: fail records now, not when the delivery timeout ends.
            self._purge = False
            client.purge()

    def _poll(self, client: Producer, timeout: float) -> None:
        try:
            client.poll(timeout)
        except KafkaException as error:  # a fatal error
            self._fatal = self._fatal or self._translated(error.args[0])
            logger.error("%s", self._fatal)
        except Exception:
            logger.exception("serving acknowledgements failed")

    def _flush(self, client: Producer, timeout: float) -> int:
        until = self._now() + timeout
        left = self._flush_client(client, timeout)
        return left + (self._apart.flush(until - self._now()) if self._apart else 0)

    def _flush_client(self, client: Producer, timeout: float) -> int:
        try:
            return client.flush(max(timeout, 0))
        except KafkaException as error:
            self._fatal = self._fatal or self._translated(error.args[0])
        except SystemError:
            # "returned NULL without setting an exception": seen with confluent-kafka 2.16 where a write was denied. A
            # second call works; if it does not, the records are counted below.
            with suppress(SystemError):
                return client.flush(max(timeout, 0))
        return len(client)

    def _abandon(self, client: Producer) -> None:
        until = self._now() + _ABANDONED
        client.purge()
        while len(client) and self._now() < until:
            self._poll(client, _POLL)
        if self._apart:
            self._apart.close(0)

    def _on_delivery(
        self, topic: str, acknowledged: Acknowledged, sent: Sent, error: KafkaError | None, message: Any
    ) -> None:
        if error is None:
            failure = None
            if not self._worked:
                self._connected()
        elif self._apart is not None and fault_of(error) is Fault.TOO_LARGE:
            self._apart.add(topic, message, sent, acknowledged)
            return
        else:
            self._counts.forget(topic)  # it may have been deleted, or created again with other partitions
            try:
                failure = self._translated(error, topic)
            except SystemError:
                # In the call after a fatal error confluent-kafka leaves an exception set, which the first check
                # clears: try again.
                failure = self._translated(error, topic)
        try:
            acknowledged(failure, message)
        except Exception:
            logger.exception("the acknowledgement of a record for topic %s failed", topic)

    def _refuse(self, topic: str, record: ProducerRecord, error: BrokerError, acknowledged: Acknowledged) -> None:
        value, key, headers, partition, timestamp = record
        message: Any = Message(
            topic=topic,
            partition=-1 if partition is None else partition,
            offset=-1001,
            key=key,
            value=value,
            headers=list(headers) or None,
            timestamp=(0, 0) if timestamp is None else (1, timestamp),
        )
        try:
            acknowledged(error, message)
        except Exception:
            logger.exception("the acknowledgement of a refused record for topic %s failed", topic)

    # -- errors

    def _connected(self) -> None:
        self._worked = True
        self._log.authentication.accepted()

    def _check_usable(self) -> None:
        if self._closed:
            raise BrokerError("the producer is closed", Fault.FATAL)
        if self._fatal is not None:
            raise self._fatal

    def _on_refused(self, error: BrokerError) -> None:
        self._refused_login = error
        self._purge = True

    def _translated(self, error: KafkaError, topic: str | None = None) -> BrokerError:
        doing = "cannot write" if topic is None else f"cannot write to topic {topic}"
        if topic is None or error.code() == KafkaError.CLUSTER_AUTHORIZATION_FAILED:
            needs = "IDEMPOTENT_WRITE on the cluster, or WRITE on a topic"
        else:
            needs = f"WRITE on topic {topic}"
        translation = self._log.translated(error, doing, needs)
        if self._refused_login is not None and not self._log.authentication.worked and translation.retriable:
            return self._refused_login
        return translation
