"""Partitions read without a group, by confluent-kafka."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, KafkaException

from flux.adapters.confluent.closing import closed_within
from flux.adapters.confluent.errors import fault_of
from flux.adapters.confluent.log import ClientLog, logger
from flux.core.errors import BrokerError, Fault
from flux.core.ports import Batch, PollResult, TopicPartition

_CLOSING = 3.0  # seconds
_LOOK = 1.0  # seconds
_OUT_OF_RANGE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._NO_OFFSET}
_GROUPLESS = {KafkaError.GROUP_AUTHORIZATION_FAILED}
"""librdkafka looks for the coordinator of a group that is never joined."""


class ConfluentReader:
    """`flux.core.ports.ReaderPort`."""

    def __init__(self, properties: dict[str, Any], starts: Mapping[TopicPartition, int], log: ClientLog) -> None:
        self._log = log
        self._users_error_cb = properties.get("error_cb")
        self._parts = {tuple(at): at for at in starts}
        self._worked = False  # whether the cluster has ever answered
        self._failure: BrokerError | None = None
        self._client: Any = Consumer({"logger": log} | properties | {"error_cb": self._on_error})
        self._client.incremental_assign([_theirs(at, offset) for at, offset in starts.items()])

    def poll(self, max_records: int, timeout: float) -> PollResult:
        client = self._open()
        if self._failure is not None:
            raise self._failure
        polled = PollResult()
        try:
            # `consume(n, t)` alone would wait the whole time unless n arrive.
            messages = client.consume(1, timeout)
            if messages and max_records > 1:
                messages += client.consume(max_records - 1, 0)
        except KafkaException as error:
            raise self._fail(error.args[0]) from None
        good = [message for message in messages if message.error() is None or self._take_error(message, polled)]
        for name, group in groupby(good, lambda message: (message.topic(), message.partition())):
            polled.batches.append(Batch(self._parts[name], list(group)))
        if good:
            self._works()
        elif not self._worked and self._failure is None and polled == PollResult():
            self._check_topics(client)
        if not good and self._failure is not None:
            raise self._failure
        return polled

    def _check_topics(self, client: Any) -> None:
        """librdkafka says nothing of a topic that is not there for half a minute."""
        try:
            for topic in {at.topic for at in self._parts.values()}:
                found = client.list_topics(topic, _LOOK).topics[topic]
                if found.error is not None and fault_of(found.error) is not Fault.UNAVAILABLE:
                    self._fail(found.error)
        except KafkaException as error:
            if fault_of(error.args[0]) is not Fault.UNAVAILABLE:
                self._fail(error.args[0])

    def _take_error(self, message: Any, polled: PollResult) -> bool:
        """Never good; for the sake of a comprehension."""
        error = message.error()
        at = self._parts.get((message.topic(), message.partition()))
        if error.code() == KafkaError._PARTITION_EOF and at is not None:
            polled.reached[at] = message.offset()
            self._works()
        elif error.code() in _OUT_OF_RANGE and at is not None:
            polled.out_of_range.append(at)
        elif error.code() not in _GROUPLESS:
            fatal = error.fatal() or error.code() == KafkaError._FATAL
            if fault_of(error) is Fault.LOGIN:
                self._on_error(error)
            elif fault_of(error) in (Fault.UNAVAILABLE, Fault.FENCED) and not fatal:
                self._log.error(error)
            else:
                self._fail(error)
        return False

    def seek(self, partition: TopicPartition, offset: int) -> None:
        client = self._open()
        if tuple(partition) not in self._parts:
            raise BrokerError(f"cannot seek {partition}: it is not read")
        target = _theirs(partition, offset)
        try:
            # Not `seek`: it is refused before the first fetch, and after "out of range".
            client.incremental_unassign([target])
            client.incremental_assign([target])
        except KafkaException as error:
            raise self._translated(error.args[0], f"cannot seek {partition}") from None

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            closed_within(_CLOSING, client.close)

    def _works(self) -> None:
        self._worked = True
        self._log.authentication.accepted()

    def _open(self) -> Any:
        if self._client is None:
            raise BrokerError("the reader is closed", Fault.FATAL)
        return self._client

    def _fail(self, error: KafkaError) -> BrokerError:
        """Final: what cannot be read would be passed over by going on."""
        self._failure = self._failure or self._translated(error, f"cannot read {self._topics()}")
        return self._failure

    def _on_error(self, error: KafkaError) -> None:
        try:
            refused = self._log.refusal(error, f"cannot read {self._topics()}")
            if refused is not None:
                self._failure = self._failure or refused
            if self._users_error_cb is not None:
                self._users_error_cb(error)
        except Exception:
            logger.exception("an error callback failed")

    def _translated(self, error: KafkaError, doing: str) -> BrokerError:
        return self._log.translated(error, doing, f"READ on {self._topics()}")

    def _topics(self) -> str:
        return "topic " + ", ".join(sorted({at.topic for at in self._parts.values()}))


def _theirs(at: TopicPartition, offset: int) -> Any:
    return confluent_kafka.TopicPartition(at.topic, at.partition, offset)
