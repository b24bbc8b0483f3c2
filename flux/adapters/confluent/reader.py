"""Reads partitions without a group, by confluent-kafka."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, KafkaException

from flux.adapters.confluent.callbacks import ErrorCallback
from flux.adapters.confluent.closing import ended_within
from flux.adapters.confluent.errors import fault_of
from flux.adapters.confluent.log import ClientLog
from flux.adapters.confluent.messages import OUT_OF_RANGE
from flux.core.errors import BrokerError, Fault
from flux.core.ports import Batch, PollResult, TopicPartition

_CLOSING = 3.0  # seconds
_METADATA_TIMEOUT = 1.0  # seconds
_NO_GROUP = {KafkaError.GROUP_AUTHORIZATION_FAILED}
"""librdkafka looks for the coordinator of a group that is never joined."""


class ConfluentReader:
    """`flux.core.ports.ReaderPort`."""

    def __init__(self, properties: dict[str, Any], starts: Mapping[TopicPartition, int], log: ClientLog) -> None:
        self._log = log
        self._partitions = {tuple(at): at for at in starts}
        self._worked = False  # whether the cluster has ever answered
        self._failure: BrokerError | None = None
        self._on_error = ErrorCallback(log, f"cannot read {self._topics()}", properties, self._on_refused)
        self._client: Any = Consumer({"logger": log} | properties | {"error_cb": self._on_error})
        self._client.incremental_assign([_client_partition(at, offset) for at, offset in starts.items()])

    def poll(self, max_records: int, timeout: float) -> PollResult:
        client = self._open()
        if self._failure is not None:
            raise self._failure
        polled = PollResult()
        try:
            # `consume(n, t)` alone waits for t unless n arrive.
            messages = client.consume(1, timeout)
            if messages and max_records > 1:
                messages += client.consume(max_records - 1, 0)
        except KafkaException as error:
            raise self._fail(error.args[0]) from None
        records = [message for message in messages if message.error() is None]
        for message in messages:
            if message.error() is not None:
                self._on_message_error(message, polled)
        for name, group in groupby(records, lambda message: (message.topic(), message.partition())):
            polled.batches.append(Batch(self._partitions[name], list(group)))
        if records:
            self._connected()
        elif not self._worked and self._failure is None and polled == PollResult():
            self._check_topics(client)
        if not records and self._failure is not None:
            raise self._failure
        return polled

    def _check_topics(self, client: Any) -> None:
        """librdkafka reports a missing topic only after half a minute."""
        try:
            for topic in {at.topic for at in self._partitions.values()}:
                found = client.list_topics(topic, _METADATA_TIMEOUT).topics[topic]
                if found.error is not None and fault_of(found.error) is not Fault.UNAVAILABLE:
                    self._fail(found.error)
        except KafkaException as error:
            if fault_of(error.args[0]) is not Fault.UNAVAILABLE:
                self._fail(error.args[0])

    def _on_message_error(self, message: Any, polled: PollResult) -> None:
        error = message.error()
        at = self._partitions.get((message.topic(), message.partition()))
        if error.code() == KafkaError._PARTITION_EOF and at is not None:
            polled.reached[at] = message.offset()
            self._connected()
        elif error.code() in OUT_OF_RANGE and at is not None:
            polled.out_of_range.append(at)
        elif error.code() not in _NO_GROUP:
            fatal = error.fatal() or error.code() == KafkaError._FATAL
            if fault_of(error) is Fault.LOGIN:
                self._on_error(error)
            elif fault_of(error) in (Fault.UNAVAILABLE, Fault.FENCED) and not fatal:
                self._log.error(error)
            else:
                self._fail(error)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        client = self._open()
        if tuple(partition) not in self._partitions:
            raise BrokerError(f"cannot seek {partition}: it is not read")
        target = _client_partition(partition, offset)
        try:
            # Not `seek`: librdkafka refuses it before the first fetch, and after "out of range".
            client.incremental_unassign([target])
            client.incremental_assign([target])
        except KafkaException as error:
            raise self._translated(error.args[0], f"cannot seek {partition}") from None

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            ended_within(_CLOSING, client.close)

    def _connected(self) -> None:
        self._worked = True
        self._log.authentication.accepted()

    def _open(self) -> Any:
        if self._client is None:
            raise BrokerError("the reader is closed", Fault.FATAL)
        return self._client

    def _fail(self, error: KafkaError) -> BrokerError:
        """Final: going on would skip what cannot be read."""
        self._failure = self._failure or self._translated(error, f"cannot read {self._topics()}")
        return self._failure

    def _on_refused(self, error: BrokerError) -> None:
        self._failure = self._failure or error

    def _translated(self, error: KafkaError, doing: str) -> BrokerError:
        return self._log.translated(error, doing, f"READ on {self._topics()}")

    def _topics(self) -> str:
        return "topic " + ", ".join(sorted({at.topic for at in self._partitions.values()}))


def _client_partition(at: TopicPartition, offset: int) -> Any:
    return confluent_kafka.TopicPartition(at.topic, at.partition, offset)
