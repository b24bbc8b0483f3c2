"""Finds out why librdkafka cannot log in, from what it reports."""

from __future__ import annotations

import math
import os
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError

from flux.adapters import tls
from flux.adapters.authentication import Problem
from flux.adapters.confluent.errors import NO_ANSWER, NO_SASL, NO_TOKEN
from flux.adapters.tokens import TokenRefused, no_token, refused_token
from flux.core.errors import BrokerError, Fault
from flux.core.ports import System

OPTIONS = tls.TlsOptions("ssl.ca.location", "ssl.certificate.location and ssl.key.location")
NO_LISTENER = "no SASL"
_KEPT = 60.0  # seconds for which the result of a check of a broker's certificate is used
_WHERE = re.compile(r"\w+://(\[[^\]]+\]|[^:/]+):(\d+)/")
_REST = re.compile(r"\s*\(after \d+ms in state .*\Z", re.DOTALL)
_CERTIFICATES = ("ssl.certificate.location", "ssl.certificate.pem", "ssl_certificate", "ssl.keystore.location")


class Diagnosis:
    """For clients with these properties. `no_token` returns why there is no token, as far as flux knows."""

    def __init__(
        self, properties: Mapping[str, Any], system: System, no_token: Callable[[], BrokerError | None] | None = None
    ) -> None:
        self._properties = properties
        self._now = system.monotonic
        self._no_token = no_token
        self._mechanism = str(properties.get("sasl.mechanism", properties.get("sasl.mechanisms", ""))).upper()
        self._certificate = any(properties.get(name) for name in _CERTIFICATES)
        self._found: dict[tuple[str, int], tuple[float, Problem | None]] = {}

    def of(self, error: KafkaError) -> Problem | None:
        """What is wrong with the login or with TLS; None: neither."""
        text = error.str()
        low = text.lower()
        why = None if self._no_token is None else self._no_token()
        if any(words in low for words in NO_TOKEN):
            if isinstance(why, TokenRefused):
                return Problem("token refused", str(why), Fault.UNAVAILABLE)
            return no_token(why or BrokerError(_REST.sub("", text)))
        if NO_ANSWER in low:
            return None
        if NO_SASL in low:
            remedy = "it may be one without SASL: see security.protocol"
            return Problem(NO_LISTENER, f"the broker's listener does not accept a login: {remedy}")
        if error.code() in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED):
            if why is None or isinstance(why, TokenRefused):
                return self._refused(text)
            return no_token(why)  # the refused token had expired
        where = _WHERE.match(text)
        if where is None or "ssl" not in low:
            return None
        host, port = where[1].strip("[]"), int(where[2])
        named = f"{where[1]}:{port}"
        if "certificate verify failed" in low:
            return self._certificate_of(host, port, named)
        return tls.of_alert(text, named, self._certificate, OPTIONS)

    def _refused(self, text: str) -> Problem:
        where = _WHERE.match(text)
        said = _REST.sub("", text[where.end() :] if where is not None else text)
        said = said.partition("SASL authentication error:")[2].strip() or said.partition(": ")[2].strip() or said
        if self._mechanism == "OAUTHBEARER":
            return refused_token(said)
        return Problem("login refused", f"the broker refused the login: {said}: check user and password")

    def _certificate_of(self, host: str, port: int, named: str) -> Problem:
        """librdkafka does not report what is wrong, so this makes a handshake of its own."""
        until, problem = self._found.get((host, port), (-math.inf, None))
        if self._now() >= until:
            error = tls.probe(host, port, context) if (context := self._context()) is not None else None
            problem = None if error is None else tls.of_certificate(error, named, OPTIONS)
            self._found[host, port] = self._now() + _KEPT, problem
        said = f"the certificate of {named} could not be verified: set {OPTIONS.authority} to its authority's"
        return problem or Problem("certificate not trusted", said)

    def _context(self) -> ssl.SSLContext | None:
        """A context that trusts the same authorities as librdkafka; None: it cannot be made."""
        given, pem = self._properties.get("ssl.ca.location"), self._properties.get("ssl.ca.pem")
        try:
            if pem:
                context = ssl.create_default_context(cadata=str(pem))
            elif not given or given == "probe":
                context = ssl.create_default_context()
            elif os.path.isdir(given):
                context = ssl.create_default_context(capath=given)
            else:
                context = ssl.create_default_context(cafile=given)
        except (OSError, ValueError, TypeError):
            return None
        context.check_hostname = self._properties.get("ssl.endpoint.identification.algorithm", "https") != "none"
        return context
