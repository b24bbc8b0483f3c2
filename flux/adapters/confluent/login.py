"""How the clients of one adapter log in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
from confluent_kafka import KafkaException

from flux.adapters.authentication import Authentication
from flux.adapters.confluent.callbacks import guarded
from flux.adapters.confluent.diagnosis import Diagnosis
from flux.adapters.confluent.errors import fault_of
from flux.adapters.confluent.log import ClientLog
from flux.adapters.confluent.oauth import START_TIMEOUT, TokenCallback, TokenSource
from flux.adapters.secrets import Mask
from flux.core.errors import BrokerError, ConfigurationError, Fault
from flux.core.ports import System
from flux.core.text import one_line


@attrs.frozen
class Login:
    """One client's. `options`: the user's, with an `oauth_cb` that gets its tokens from `source`,
    and callbacks that do not raise."""

    options: Mapping[str, Any]
    log: ClientLog
    source: TokenSource | None = None

    @contextmanager
    def making(self, patience: float = 0.0) -> Iterator[None]:
        """A context for making the client. Raises ConfigurationError for what librdkafka refuses, and BrokerError
        (UNAVAILABLE) when there is no token: librdkafka would wait for one and then not say why. `patience`: see
        `TokenSource.token`."""
        try:
            if self.source is not None:
                self.source.token(START_TIMEOUT, patience=patience)
            yield
        except BrokerError as error:
            raise self.log.judged(BrokerError(f"cannot get a token: {error}", error.fault)) from None
        except KafkaException as error:
            if fault_of(error.args[0]) is Fault.UNAVAILABLE:
                raise self.log.translated(error.args[0], "cannot log in") from None
            raise self._refused(error.args[0].str()) from None
        except (TypeError, ValueError) as error:
            raise self._refused(str(error)) from None

    def _refused(self, reason: str) -> ConfigurationError:
        return ConfigurationError(
            f"{one_line(self.log.masked(reason))}: correct the adapter's options (properties of librdkafka)"
        )


class Logins:
    """One adapter's, for clients with the same or with different options."""

    def __init__(self, mask: Mask, system: System) -> None:
        self._mask = mask
        self._system = system
        self._process = os.getpid()
        self._authentication = Authentication(mask, system)
        self._sources: dict[tuple[Any, Any], TokenSource] = {}

    def of(self, options: Mapping[str, Any]) -> Login:
        if self._process != os.getpid():  # a child process cannot use its parent's threads and locks
            self.__init__(self._mask, self._system)  # type: ignore[misc]
        provider, config = options.get("oauth_cb"), options.get("sasl.oauthbearer.config")
        source: TokenSource | None = None
        refused = _nothing
        if callable(provider):
            source = self._sources.get((provider, config))
            if source is None:
                source = TokenSource(provider, config, self._authentication, self._mask, self._system)
                self._sources[provider, config] = source
            callback = TokenCallback(source, self._system)
            options, refused = {**options, "oauth_cb": callback}, callback.refused
        diagnosis = Diagnosis(options, self._system, None if source is None else source.why_none)
        log = ClientLog(self._mask, self._system, self._authentication, diagnosis, refused)
        return Login(guarded(options, log), log, source)


def _nothing() -> None:
    pass
