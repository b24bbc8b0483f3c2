"""One cluster by confluent-kafka: makes its clients from the adapter's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from flux.adapters.confluent import config
from flux.adapters.confluent.admin import ConfluentAdmin
from flux.adapters.confluent.consumer import ConfluentConsumer
from flux.adapters.confluent.login import Logins
from flux.adapters.confluent.producer import ConfluentProducer
from flux.adapters.confluent.reader import ConfluentReader
from flux.adapters.confluent.stuck_calls import StuckCalls
from flux.adapters.confluent.transactions import ConfluentTransactions
from flux.adapters.kafka import AdapterConfig, KafkaAdapter
from flux.core.ports import ConsumerSettings, ProducerSettings, RebalanceListener, TopicPartition, TransactionSettings

_PATIENCE = 3.0  # seconds that an admin or a reader waits for a token provider that fails: see `TokenSource.token`


class ConfluentAdapter(KafkaAdapter):
    """`flux.core.ports.Adapter` and `TransactionalCluster` for a cluster at `bootstrap` ("host:port,host:port").

    `options` are librdkafka's configuration properties for every client, callables such as `oauth_cb` included;
    `consumer` and `producer` hold properties for one kind alone. They win over flux's defaults, except for the few
    that flux relies on, which raise ConfigurationError here. What librdkafka itself refuses raises it when the first
    client is made; nothing connects before. All clients share the tokens of `oauth_cb`, which is called on a thread of
    its own when half of a token's life is over, and again after a while when it raises or a broker refuses its token.
    Passwords, keys and tokens appear in no repr, error or log line.

    A client belongs to the process that made it: after a fork, the child makes its own from the same adapter.
    """

    _config: ClassVar[AdapterConfig] = config

    def _prepare(self) -> None:
        self._logins = Logins(self._mask, self._system)
        self._stuck = StuckCalls(self._system)

    def consumer(self, settings: ConsumerSettings, listener: RebalanceListener) -> ConfluentConsumer:
        login = self._logins.of(self._consumer)
        properties = config.consumer_properties(self._bootstrap, login.options, settings)
        return ConfluentConsumer(properties, settings, listener, login.log, login.making)

    def producer(self, settings: ProducerSettings) -> ConfluentProducer:
        login = self._logins.of(self._producer)
        properties = config.producer_properties(self._bootstrap, login.options, settings)
        with login.making():
            return ConfluentProducer(properties, settings, login.log, self._system)

    def transactions(self, settings: TransactionSettings) -> ConfluentTransactions:
        login = self._logins.of(self._producer)
        properties = config.transaction_properties(self._bootstrap, login.options, settings)
        with login.making():
            return ConfluentTransactions(properties, settings, login.log, self._system, self._stuck)

    def admin(self) -> ConfluentAdmin:
        login = self._logins.of(self._shared)
        properties = config.admin_properties(self._bootstrap, login.options)
        protocol = config.group_protocol(self._consumer)
        with login.making(_PATIENCE):
            return ConfluentAdmin(properties, login.log, self._system, protocol)

    def reader(self, starts: Mapping[TopicPartition, int]) -> ConfluentReader:
        login = self._logins.of(self._consumer)
        properties = config.reader_properties(self._bootstrap, login.options)
        with login.making(_PATIENCE):
            return ConfluentReader(properties, starts, login.log)


def from_url(url: str) -> ConfluentAdapter:
    """`confluent://[user:password@]host:port,...[?property=value&...]`, values percent-encoded."""
    bootstrap, options = config.parsed_url(url)
    return ConfluentAdapter(bootstrap, options)
