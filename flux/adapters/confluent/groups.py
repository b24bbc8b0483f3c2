"""Descriptions of consumer groups by confluent-kafka.

librdkafka 2.16 frees a request to a group's coordinator when its time is over, and still uses it when a broker is back:
the process aborts, or the client answers nothing any more. So librdkafka gets no limit that a caller could reach, and a
client with a request that nobody waits for is replaced: closing a client ends its requests. That also helps where the
last connection was closed, such as after ten idle minutes: librdkafka then removes all brokers and reads them again,
and requests to a coordinator that it knows wait for the removed one. Source: rd_kafka_admin_coord_request in
rdkafka_admin.c, rd_kafka_coord_cache_get in rdkafka_coord.c, https://github.com/confluentinc/librdkafka/issues/4605
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import ConsumerGroupType, KafkaError, KafkaException

from flux.adapters import operations
from flux.adapters.confluent.answers import Answers
from flux.adapters.confluent.errors import fault_of
from flux.core.errors import Fault
from flux.core.ports import GroupMember, TopicPartition

_LONGEST = 3600.0  # seconds: the most that librdkafka accepts
_RETRY = 0.2  # seconds between two attempts
_SHARE = 0.3
"""Part of a time limit for one attempt: the next one has another client."""


class Groups:
    """Of one admin. Thread-safe."""

    def __init__(self, answers: Answers, now: Callable[[], float]) -> None:
        self._answers = answers
        self._now = now

    def members(self, group: str, timeout: float) -> list[GroupMember]:
        found = self._described(group, timeout)
        if found is None:
            return []
        return [
            GroupMember(
                member.member_id,
                member.client_id,
                member.host.lstrip("/"),
                tuple(sorted(TopicPartition(p.topic, p.partition) for p in member.assignment.topic_partitions)),
            )
            for member in found.members
        ]

    def protocol(self, group: str, timeout: float) -> str:
        """With which its members have joined; empty without members."""
        found = self._described(group, timeout)
        if found is None or not found.members:
            return ""
        return "consumer" if found.type is ConsumerGroupType.CONSUMER else found.partition_assignor or ""

    def description(self, group: str, timeout: float, **options: Any) -> Any:
        """As confluent-kafka describes it. Raises KafkaException, and BrokerError: LOGIN."""
        until = self._now() + timeout
        while True:
            try:
                return self._answer(group, min(timeout * _SHARE, until - self._now()), options)
            except KafkaException as error:
                # Unlike its consumers, librdkafka's admin does not wait until there is a coordinator.
                if fault_of(error.args[0]) is not Fault.UNAVAILABLE or self._now() + _RETRY > until:
                    raise
                self._answers.client.poll(_RETRY)

    def _answer(self, group: str, timeout: float, options: dict[str, Any]) -> Any:
        client = self._answers.client
        future = client.describe_consumer_groups([group], request_timeout=_LONGEST, **options)[group]
        try:
            return self._answers.result(future, timeout, slack=0.0)
        finally:
            if not future.done():
                self._answers.replace(client)
            del client  # a traceback would keep it open

    def _described(self, group: str, timeout: float) -> Any:
        """None where the group does not exist."""
        try:
            return self.description(group, timeout)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return None
            raise self._answers.translated(error, *operations.DESCRIBE_GROUP.of(group=group)) from None
