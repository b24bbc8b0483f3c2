"""Answers of the admin client, and the login that may be refused while they are waited for."""

from __future__ import annotations

from concurrent.futures import Future, wait
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from flux.adapters.confluent.callbacks import ErrorCallback
from flux.adapters.confluent.errors import fault_of
from flux.adapters.confluent.log import ClientLog
from flux.adapters.operations import DESCRIBE_TOPIC, LIST_TOPICS
from flux.core.errors import BrokerError, Fault
from flux.core.ports import System
from flux.system import Lock

_CHECK_INTERVAL = 0.2  # seconds between two checks whether the login was refused


class Answers:
    """Makes the client, as it needs its error callback, and another one after `replace`. Thread-safe."""

    def __init__(self, properties: dict[str, Any], log: ClientLog, system: System) -> None:
        self._log = log
        self._now = system.monotonic
        self._refused_login: BrokerError | None = None
        on_error = ErrorCallback(log, "cannot log in", properties, self._on_refused)
        self.properties = {"logger": log} | properties | {"error_cb": on_error}
        self._lock = Lock()
        self._closed = False
        self._client: Any = AdminClient(self.properties)

    @property
    def client(self) -> Any:
        """Raises BrokerError."""
        with self._lock:
            if self._closed:
                raise BrokerError("the admin client is closed", Fault.FATAL)
            if self._client is None:
                try:
                    self._client = AdminClient(self.properties)
                except KafkaException as error:
                    raise self._log.translated(error.args[0], "cannot connect") from None
            return self._client

    def replace(self, client: Any) -> None:
        """The next request makes another client. confluent-kafka closes this one when nothing refers to it any more."""
        with self._lock:
            if self._client is client:
                self._client = None

    def close(self) -> None:
        with self._lock:
            self._closed, self._client = True, None

    def result(self, future: Future[Any], timeout: float, slack: float = 1.0) -> Any:
        """Raises KafkaException, and BrokerError: LOGIN as soon as the login is refused, as the request itself would
        only time out. `slack`: seconds by which librdkafka's own limit comes first."""
        until = self._now() + timeout + slack
        while not wait([future], max(min(_CHECK_INTERVAL, until - self._now()), 0.0)).done:
            self.client.poll(0)
            if refused := self._take_refused():
                raise refused
            if self._now() >= until:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no answer in time"))
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
