"""One cluster by aiokafka: makes its clients from the adapter's options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from flux.adapters.aiokafka import config
from flux.adapters.aiokafka.admin import AiokafkaAdmin
from flux.adapters.aiokafka.connector import Connector
from flux.adapters.aiokafka.consumer import AiokafkaConsumer
from flux.adapters.aiokafka.event_loop_thread import EventLoopThread
from flux.adapters.aiokafka.log import ClientLog, quieten
from flux.adapters.aiokafka.oauth import AsyncTokenSource
from flux.adapters.aiokafka.producer import AiokafkaProducer
from flux.adapters.aiokafka.reader import AiokafkaReader
from flux.adapters.authentication import Authentication
from flux.adapters.kafka import AdapterConfig, KafkaAdapter, member_client_id
from flux.core.ports import AsyncRebalanceListener, ConsumerSettings, ProducerSettings, TopicPartition


class AiokafkaAdapter(KafkaAdapter):
    """`flux.core.ports.AsyncAdapter` for a cluster at `bootstrap` ("host:port,host:port").

    `options` are aiokafka's, for every client: those of AIOKafkaConsumer and AIOKafkaProducer, objects such as
    `ssl_context` and `sasl_oauth_token_provider` included; `ssl_cafile`, `ssl_certfile`, `ssl_keyfile`, `ssl_password`
    and `ssl_check_hostname` make a context. `consumer` and `producer` hold options for one kind alone. They win over
    flux's defaults, except for the few that flux relies on. Raises ConfigurationError; nothing connects before the
    first use. Passwords, keys and tokens appear in no repr, error or log line.

    Consumers run in the event loop in which they are made. Producers and admins share one thread with its own loop.
    After a fork, the child makes its clients from the same adapter.
    """

    _config: ClassVar[AdapterConfig] = config

    def _prepare(self) -> None:
        self._authentication = Authentication(self._mask, self._system)
        self._token_sources: dict[int, AsyncTokenSource] = {}
        self._log = ClientLog(self._mask, self._system, self._authentication)
        self._loop_thread: EventLoopThread | None = None
        quieten()

    async def async_consumer(self, settings: ConsumerSettings, listener: AsyncRebalanceListener) -> AiokafkaConsumer:
        """Connects in its first `poll`: an unavailable cluster is no error."""
        client = self._client({"client_id": member_client_id(settings.task), **self._consumer})
        options = config.consumer_options(self._consumer, settings)
        return AiokafkaConsumer(client, options, settings, listener, self._log)

    def producer(self, settings: ProducerSettings) -> AiokafkaProducer:
        client = self._client(self._producer)
        options = config.producer_options(self._producer, settings)
        return AiokafkaProducer(self._running_loop(), client, options, settings, self._log, self._system)

    def admin(self) -> AiokafkaAdmin:
        protocols = config.group_protocols(self._consumer)
        return AiokafkaAdmin(self._running_loop(), self._client(self._shared), self._log, protocols)

    def reader(self, starts: Mapping[TopicPartition, int]) -> AiokafkaReader:
        client = self._client(self._consumer)
        return AiokafkaReader(self._running_loop(), client, config.reader_options(self._consumer), starts, self._log)

    def _client(self, options: Mapping[str, Any]) -> dict[str, Any]:
        client = {**config.client_options(options), "bootstrap_servers": self._bootstrap}
        provider = client.get("sasl_oauth_token_provider")
        if provider is not None:
            source = self._token_sources.get(id(provider))
            if source is None:
                source = AsyncTokenSource(provider, self._authentication, self._mask, self._system)
                self._token_sources[id(provider)] = source
            client["sasl_oauth_token_provider"] = source
        certificate = None if "ssl_context" in options else "ssl_certfile" in options
        return client | {"connector": Connector(client, self._authentication, certificate)}

    def _running_loop(self) -> EventLoopThread:
        if self._loop_thread is None or self._loop_thread.process != os.getpid():
            self._loop_thread = EventLoopThread(self._system)
        return self._loop_thread


def from_url(url: str) -> AiokafkaAdapter:
    """`aiokafka://[user:password@]host:port,...[?option=value&...]`, values percent-encoded."""
    bootstrap, options = config.parsed_url(url)
    return AiokafkaAdapter(bootstrap, options)
