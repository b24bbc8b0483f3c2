"""Answers of the admin client, and the login that may be refused while they are waited for."""

from __future__ import annotations

from concurrent.futures import Future, wait
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from flux.adapters.confluent.callbacks import ErrorCallback
from flux.adapters.confluent.errors import fault_of
from flux.adapters.confluent.log import ClientLog
from flux.adapters.operations import DESCRIBE_TOPIC, LIST_TOPICS
from flux.core.errors import BrokerError, Fault
from flux.core.ports import System

_CHECK_INTERVAL = 0.2  # seconds between two checks whether the login was refused


class Answers:
    """Makes the client, as it needs its error callback. Thread-safe."""

    def __init__(self, properties: dict[str, Any], log: ClientLog, system: System) -> None:
        self._log = log
        self._now = system.monotonic
        self._refused_login: BrokerError | None = None
        on_error = ErrorCallback(log, "cannot log in", properties, self._on_refused)
        self.properties = {"logger": log} | properties | {"error_cb": on_error}
        self.client: Any = AdminClient(self.properties)

    def result(self, future: Future[Any], timeout: float) -> Any:
        """Raises KafkaException, and BrokerError: LOGIN as soon as the login is refused, as the request itself would
        only time out."""
        until = self._now() + timeout + 1  # librdkafka's own limit comes first
        while not wait([future], _CHECK_INTERVAL).done:
            self.client.poll(0)
            if refused := self._take_refused():
                raise refused
            if self._now() > until:
                raise BrokerError(f"no answer within {timeout:g} s", Fault.UNAVAILABLE)
        self.client.poll(0)
        result = future.result()
        self._log.authentication.accepted()
        return result

    def answer(self, future: Future[Any], timeout: float, doing: str, needs: str) -> Any:
        """As `result`, raising BrokerError only."""
        try:
            return self.result(future, timeout)
        except KafkaException as error:
            raise self.translated(error, doing, needs) from None

    def metadata(self, timeout: float, topic: str | None = None) -> Any:
        """Of the cluster and all topics, or one. Raises BrokerError."""
        # A refused login is noticed between two requests only, so each waits longer than the one before.
        until, limit = self._now() + timeout, 1.0
        while True:
            left = until - self._now()
            try:
                found = self.client.list_topics(topic, max(min(limit, left), 0.001))
            except KafkaException as error:
                self.client.poll(0)
                if self._refused_login is not None or left <= limit or fault_of(error.args[0]) is not Fault.UNAVAILABLE:
                    operation = LIST_TOPICS if topic is None else DESCRIBE_TOPIC.of(topic)
                    raise self.translated(error, *operation) from None
            else:
                self._log.authentication.accepted()
                return found
            limit *= 2

    def translated(self, error: KafkaException, doing: str, needs: str) -> BrokerError:
        translation = self._log.translated(error.args[0], doing, needs)
        return (self._take_refused() if translation.retriable else None) or translation

    def _on_refused(self, error: BrokerError) -> None:
        self._refused_login = error

    def _take_refused(self) -> BrokerError | None:
        """The refusal since the last request that failed by it: the next request may be accepted again."""
        refused, self._refused_login = self._refused_login, None
        return None if self._log.authentication.worked else refused
