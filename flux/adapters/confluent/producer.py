"""A producer by confluent-kafka.

Records go one by one through `produce`: `produce_batch` is no faster with 2.16, has neither headers nor timestamps,
ignores a record's own partition, and takes later records after one that it refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from threading import get_ident
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from flux.adapters.confluent.apart import Apart
from flux.adapters.confluent.closing import closed_within
from flux.adapters.confluent.errors import fault_of
from flux.adapters.confluent.log import ClientLog, logger
from flux.adapters.confluent.silence import Silence
from flux.adapters.confluent.turns import Turns
from flux.core.errors import BrokerError, Fault
from flux.core.monitoring.duties import Duty
from flux.core.ports import Acknowledged, Headers, ProducerRecord, ProducerSettings, System, each_of

_MOST_SOUND = 1000
_sound: set[str] = set()
"""Names of headers that were checked: there are few."""

_METADATA_AGE = 60.0  # seconds that a partition count is trusted
_POLL = 0.1  # seconds: how long the serving thread may outlive the producer
_MANY = 200  # records between two waits for the serving thread
_STREAM = 0.02  # seconds without so many after which nobody waits
_ABANDONED = 5.0  # seconds that the reports of purged records may take
_MOST_SERVING = 5  # threads, all but one of which stand still in callbacks


class ConfluentProducer:
    """`flux.core.ports.ProducerPort`. A daemon thread serves the acknowledgements.

    For each of them it needs the interpreter, and a thread that writes without a pause lets go of that every 5 ms only:
    acknowledgements would pile up, with all records that wait for theirs. So who writes many waits, before the next
    ones, until those that have come are served.

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
        """`apart`: each record in a batch of its own."""
        self._settings = settings
        self._log = log
        self._now = system.monotonic
        self._users_error_cb = properties.get("error_cb")
        self._counts: dict[str, tuple[float, int]] = {}  # topic -> when it is old, partitions
        self._worked = False  # whether the cluster has ever acknowledged
        self._login: BrokerError | None = None
        self._purge = False
        self._fatal: BrokerError | None = None
        self._closed = False
        self._written = 0  # since a writer waited
        self._streams_until = 0.0
        self._attends = False  # whether the serving thread looks for writers that wait
        self._turns = Turns()
        alone = properties | {"batch.num.messages": 1}

        def another() -> ConfluentProducer:
            return ConfluentProducer(alone, settings, log, system, apart=True)

        self._apart = None if apart else Apart(another, self._refuse, system)
        self._client: Any = Producer(
            Silence(properties, log, system.monotonic).properties(
                {"logger": log} | properties | {"error_cb": self._on_error}
            )
        )
        self._spawn = system.spawn
        where = properties["bootstrap.servers"]
        self._serving = Duty(f"{where}: the serving of acknowledgements", take_over=self._served_by_another)
        self._threads = 0
        self._begin_to_serve()
        system.watch(self._serving)

    def write(
        self, topic: str, records: Sequence[ProducerRecord], acknowledged: Acknowledged | Sequence[Acknowledged]
    ) -> int:
        client = self._client  # before the check: whoever closes takes it away
        self._check_usable()
        self._written += len(records)
        if self._written >= _MANY:
            self._let_serve()
        produce = client.produce
        reported, told = self._reported, None
        report: Any = None
        taken = 0
        try:
            for record, ended in zip(records, each_of(acknowledged, records), strict=True):
                if ended is not told:
                    told = ended
                    report = partial(reported, topic, ended, ())
                value, key, headers, partition, timestamp = record
                try:
                    if headers or timestamp is not None:
                        produce(
                            topic,
                            value,
                            key,
                            -1 if partition is None else partition,
                            # a delivery report has no headers, and the record may have to be written again
                            partial(reported, topic, ended, headers) if headers else report,
                            timestamp=timestamp or 0,
                            headers=_checked(headers) if headers else None,
                        )
                    else:
                        produce(topic, value, key, -1 if partition is None else partition, report)
                except BufferError:
                    size = len(value or b"") + len(key or b"")
                    if size < self._settings.max_queue_bytes:
                        return taken
                    refused = BrokerError(f"a record of {size} bytes exceeds max_queue_bytes", Fault.TOO_LARGE)
                    self._refuse(topic, record, refused, ended)
                except KafkaException as error:
                    refused = self._translated(error.args[0], topic)
                    if error.args[0].fatal() or refused.fault is Fault.FATAL:
                        self._fatal = self._fatal or refused
                        if taken:
                            return taken
                        raise refused from None
                    self._refuse(topic, record, refused, ended)
                except (TypeError, ValueError, OverflowError) as error:
                    refused = BrokerError(f"a record for topic {topic} is none for Kafka: {error}")
                    self._refuse(topic, record, refused, ended)
                taken += 1
        finally:
            if self._closed:  # by another thread, in the meantime: nobody else serves what was taken since
                self._abandon(client)
        return taken

    def partitions(self, topic: str, timeout: float) -> int:
        until, count = self._counts.get(topic, (0.0, 0))
        if self._now() < until:
            return count
        client = self._client
        self._check_usable()
        try:
            found = client.list_topics(topic, max(timeout, 0.001)).topics[topic]
        except KafkaException as error:
            raise self._translated(error.args[0], topic) from None
        if found.error is not None:
            raise self._translated(found.error, topic)
        self._works()
        self._counts[topic] = (self._now() + _METADATA_AGE, len(found.partitions))
        return len(found.partitions)

    def flush(self, timeout: float) -> int:
        client = self._client
        return 0 if self._closed else self._flushed(client, timeout)

    def close(self, timeout: float) -> int:
        if self._closed:
            return 0
        self._closed = True
        left = self._flushed(self._client, timeout)
        if left:
            self._abandon(self._client)
        elif self._apart is not None:
            self._apart.close(0)
        self._serving.end()
        self._thread.join(_ABANDONED)
        # Its callbacks lead back here: it would live, and connect, until the garbage is collected.
        closed_within(_ABANDONED, self._let_go)
        return left

    def _let_go(self) -> None:
        """The client ends with the last that holds it."""
        self._client = None

    # -- acknowledgements

    def _let_serve(self) -> None:
        self._written = 0
        if self._attends:
            self._turns.wait(_STREAM)
        self._streams_until = self._now() + _STREAM

    def _begin_to_serve(self) -> None:
        self._server = object()
        self._threads += 1
        self._thread = self._spawn("flux-acknowledgements", self._serve)

    def _served_by_another(self) -> bool:
        """A thread stands still in a callback: others may serve the acknowledgements that come after."""
        if self._threads > _MOST_SERVING:
            return False
        self._begin_to_serve()
        return True

    def _serve(self) -> None:
        client, me = self._client, self._server
        while not self._closed and self._server is me:
            self._serving.step(get_ident())
            self._attends = self._now() < self._streams_until
            waiting = self._turns.begin(_STREAM / 4) if self._attends else []
            self._polled(client, 0 if self._attends else _POLL)
            self._turns.end(waiting)
            if self._apart:
                self._apart.write()
            if self._purge:
                # Nothing will be accepted: say so now, not when the delivery timeout ends.
                self._purge = False
                client.purge()

    def _polled(self, client: Producer, timeout: float) -> None:
        try:
            client.poll(timeout)
        except KafkaException as error:  # how confluent-kafka tells of a fatal error
            self._fatal = self._fatal or self._translated(error.args[0])
            logger.error("%s", self._fatal)
        except Exception:
            logger.exception("serving acknowledgements failed; going on")

    def _flushed(self, client: Producer, timeout: float) -> int:
        until = self._now() + timeout
        left = self._client_flushed(client, timeout)
        return left + (self._apart.flush(until - self._now()) if self._apart else 0)

    def _client_flushed(self, client: Producer, timeout: float) -> int:
        try:
            return client.flush(max(timeout, 0))
        except KafkaException as error:
            self._fatal = self._fatal or self._translated(error.args[0])
        except SystemError:
            # "returned NULL without setting an exception": seen with confluent-kafka 2.16 where a write was denied. It
            # is asked once more; what it cannot say then is counted below.
            with suppress(SystemError):
                return client.flush(max(timeout, 0))
        return len(client)

    def _abandon(self, client: Producer) -> None:
        until = self._now() + _ABANDONED
        client.purge()
        while len(client) and self._now() < until:
            self._polled(client, _POLL)
        if self._apart:
            self._apart.close(0)

    def _reported(
        self, topic: str, acknowledged: Acknowledged, headers: Headers, error: KafkaError | None, message: Any
    ) -> None:
        if error is None:
            failure = None
            if not self._worked:
                self._works()
        elif self._apart is not None and fault_of(error) is Fault.TOO_LARGE:
            self._apart.add(topic, message, headers, acknowledged)
            return
        else:
            self._counts.pop(topic, None)  # it may have been deleted, or made anew with other partitions
            try:
                failure = self._translated(error, topic)
            except SystemError:
                # In the call after a fatal error confluent-kafka leaves an exception set, which the first check
                # clears: ask again.
                failure = self._translated(error, topic)
        try:
            acknowledged(failure, message)
        except Exception:
            logger.exception("the acknowledgement of a record for topic %s was not taken", topic)

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
            logger.exception("the refusal of a record for topic %s was not taken", topic)

    # -- errors

    def _works(self) -> None:
        self._worked = True
        self._log.authentication.accepted()

    def _check_usable(self) -> None:
        if self._closed:
            raise BrokerError("the producer is closed", Fault.FATAL)
        if self._fatal is not None:
            raise self._fatal

    def _on_error(self, error: KafkaError) -> None:
        try:
            refused = self._log.refusal(error, "cannot write")
            if refused is not None:
                self._login = refused
                self._purge = True
            if self._users_error_cb is not None:
                self._users_error_cb(error)
        except Exception:
            logger.exception("an error callback failed")

    def _translated(self, error: KafkaError, topic: str | None = None) -> BrokerError:
        doing = "cannot write" if topic is None else f"cannot write to topic {topic}"
        if topic is None or error.code() == KafkaError.CLUSTER_AUTHORIZATION_FAILED:
            needs = "IDEMPOTENT_WRITE on the cluster, or WRITE on a topic"
        else:
            needs = f"WRITE on topic {topic}"
        translation = self._log.translated(error, doing, needs)
        if self._login is not None and not self._log.authentication.worked and translation.retriable:
            return self._login
        return translation


def _checked(headers: Headers) -> list[Any]:
    """librdkafka takes names as C strings: it would cut one at a NUL and crash on one that has no UTF-8."""
    for name, _ in headers:
        if name not in _sound:
            if "\0" in name:
                raise ValueError("a header's name has a NUL in it")
            name.encode()
            if len(_sound) < _MOST_SOUND:
                _sound.add(name)
    return list(headers)
