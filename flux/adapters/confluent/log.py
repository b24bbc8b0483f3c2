"""librdkafka's log lines and errors, passed on to flux's log. None goes to stderr by itself."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from confluent_kafka import KafkaError

from flux.adapters.authentication import Authentication, ClientWarnings, broker_in, logger
from flux.adapters.confluent.diagnosis import NO_LISTENER, Diagnosis
from flux.adapters.confluent.errors import NO_ANSWER, translated
from flux.core.errors import BrokerError, Fault
from flux.core.ports import System

_COMMON = {KafkaError._ALL_BROKERS_DOWN}
"""Reported whenever the last open connection closes, even an idle one; unavailable brokers are reported themselves."""
_AGAIN = {"FAIL": re.compile(r"\b(SASL|SSL|TLS|OAUTHBEARER)\b"), "FATAL": re.compile(r"\bgroup\.instance\.id\b")}
"""By kind of line, what lines contain that are reported again as an error."""


class ClientLog(ClientWarnings):
    """One client's. librdkafka calls `log` as it calls a logging.Logger's."""

    def __init__(
        self,
        masked: Callable[[str], str],
        system: System,
        authentication: Authentication | None = None,
        diagnosis: Diagnosis | None = None,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        """`refused` is called when a broker refuses this client's login."""
        super().__init__(masked, system, authentication)
        self._diagnosis = diagnosis or Diagnosis({}, system)
        self._refused = refused

    def log(self, level: int, template: str, *args: object) -> None:
        text = template % args
        again = _AGAIN.get(str(args[0])) if args else None
        if level >= logging.ERROR and not (again is not None and again.search(text)):
            self._warn(args[:1], text)
        elif logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s", self.masked(text))

    def error(self, error: KafkaError) -> None:
        problem = self._diagnosis.of(error)
        if problem is None:
            text = f"{error.str()} ({error.name()})"
            if error.code() in _COMMON or NO_ANSWER in text.lower():
                logger.debug("%s", self.masked(text))
            else:
                self._warn(error.code(), text)
        elif problem.kind != NO_LISTENER or not self.authentication.worked:  # else a session was renewed too soon
            self.authentication.refused(problem)
            if problem.fault is Fault.LOGIN:
                self._refused()

    def refusal(self, error: KafkaError, doing: str) -> BrokerError | None:
        """Logs an error of librdkafka's error callback. Returns a final refusal of the login, else None."""
        self.error(error)
        translation = self.translated(error, doing)
        return translation if translation.fault is Fault.LOGIN else None

    def translated(self, error: KafkaError, doing: str, needs: str = "") -> BrokerError:
        """As `errors.translated`, with the cause that is known, and without secrets."""
        problem = self._diagnosis.of(error)
        if problem is None:
            return self.judged(translated(error, doing, needs))
        return self.judged(BrokerError(f"{doing}: {problem.text}", problem.fault))

    def _warn(self, kind: object, text: str) -> None:
        """A broker is logged once for all clients and reasons."""
        broker = broker_in(text)
        self.warn(kind if broker is None else ("broker", broker), text)


__all__ = ["ClientLog", "logger"]
