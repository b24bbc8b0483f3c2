"""One cluster through confluent-kafka: what its options mean, and the clients made from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from confluent_kafka import KafkaException

from flux.adapters.confluent import config
from flux.adapters.confluent.admin import ConfluentAdmin
from flux.adapters.confluent.consumer import ConfluentConsumer
from flux.adapters.confluent.log import ClientLog
from flux.adapters.confluent.producer import ConfluentProducer
from flux.adapters.confluent.reader import ConfluentReader
from flux.adapters.secrets import Mask, shown
from flux.core.errors import ConfigurationError
from flux.core.ports import ConsumerSettings, ProducerSettings, RebalanceListener, System, TopicPartition
from flux.system import SYSTEM

Client = TypeVar("Client")


class ConfluentAdapter:
    """A cluster at `bootstrap` ("host:port,host:port").

    `options` are librdkafka's configuration properties for every client, callables such as `oauth_cb` included;
    `consumer` and `producer` hold properties for one kind alone. They win over flux's defaults, except for the few
    that flux relies on, which raise ConfigurationError here. What librdkafka itself refuses raises it when the first
    client is made; nothing connects before. Passwords, keys and tokens appear in no repr, error or log line.

    A client belongs to the process that made it: after a fork, the child makes its own from the same adapter.
    """

    shares_processes = True

    def __init__(
        self,
        bootstrap: str,
        options: Mapping[str, Any] | None = None,
        *,
        consumer: Mapping[str, Any] | None = None,
        producer: Mapping[str, Any] | None = None,
        system: System = SYSTEM,
    ) -> None:
        self._bootstrap = config.checked_bootstrap(bootstrap)
        self._shared = config.checked(options or {})
        self._consumer = config.checked({**self._shared, **(consumer or {})})
        self._producer = config.checked({**self._shared, **(producer or {})})
        self._masked = Mask(self._consumer, self._producer)
        self._system = system
        self._log = ClientLog(self._masked, system)

    @property
    def cluster(self) -> str:
        return "kafka://" + ",".join(sorted(self._bootstrap.split(",")))

    def consumer(self, settings: ConsumerSettings, listener: RebalanceListener) -> ConfluentConsumer:
        properties = config.consumer_properties(self._bootstrap, self._consumer, settings)
        return self._made(lambda log: ConfluentConsumer(properties, settings, listener, log))

    def producer(self, settings: ProducerSettings) -> ConfluentProducer:
        properties = config.producer_properties(self._bootstrap, self._producer, settings)
        return self._made(lambda log: ConfluentProducer(properties, settings, log, self._system))

    def admin(self) -> ConfluentAdmin:
        properties = config.admin_properties(self._bootstrap, self._shared)
        protocol = config.group_protocol(self._consumer)
        return self._made(lambda log: ConfluentAdmin(properties, log, self._system, protocol))

    def reader(self, starts: Mapping[TopicPartition, int]) -> ConfluentReader:
        properties = config.reader_properties(self._bootstrap, self._consumer)
        return self._made(lambda log: ConfluentReader(properties, starts, log))

    def _made(self, make: Callable[[ClientLog], Client]) -> Client:
        try:
            return make(self._log)
        except (KafkaException, TypeError, ValueError) as error:
            reason = error.args[0].str() if isinstance(error, KafkaException) else str(error)
            raise ConfigurationError(
                f"{self._masked(reason)}: correct the adapter's options (properties of librdkafka)"
            ) from None

    def __repr__(self) -> str:
        return f"ConfluentAdapter({self._bootstrap!r}, {shown(self._shared)!r})"


def from_url(url: str) -> ConfluentAdapter:
    """`confluent://[user:password@]host:port,...[?property=value&...]`, values percent-encoded."""
    bootstrap, options = config.parsed_url(url)
    return ConfluentAdapter(bootstrap, options)
