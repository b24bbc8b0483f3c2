"""What librdkafka says, in the log. It never goes to stderr by itself."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from confluent_kafka import KafkaError

from flux.adapters.authentication import Authentication, ClientWarnings
from flux.adapters.confluent.diagnosis import NO_LISTENER, Diagnosis
from flux.adapters.confluent.errors import NO_ANSWER, translated
from flux.adapters.warnings import broker_in, logger
from flux.core.errors import BrokerError, Fault
from flux.core.ports import System

_COMMON = {KafkaError._ALL_BROKERS_DOWN}
"""Comes whenever the last open connection is closed, idle ones included; a broker that is away is named by itself."""
_AGAIN = {"FAIL": re.compile(r"\b(SASL|SSL|TLS|OAUTHBEARER)\b"), "FATAL": re.compile(r"\bgroup\.instance\.id\b")}
"""By kind of line, what is in those that are told a second time, as an error."""


class ClientLog(ClientWarnings):
    """One client's. librdkafka calls `log` as it would a logging.Logger's."""

    def __init__(
        self,
        masked: Callable[[str], str],
        system: System,
        authentication: Authentication | None = None,
        diagnosis: Diagnosis | None = None,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        """`refused` is told when a broker refuses this client's login."""
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
        """Logs what librdkafka tells by a callback. Gives the refused login that it is, if it is final."""
        self.error(error)
        translation = self.translated(error, doing)
        return translation if translation.fault is Fault.LOGIN else None

    def translated(self, error: KafkaError, doing: str, needs: str = "") -> BrokerError:
        """As `errors.translated`, for others to see."""
        problem = self._diagnosis.of(error)
        if problem is None:
            return self.judged(translated(error, doing, needs))
        return self.judged(BrokerError(f"{doing}: {problem.text}", problem.fault))

    def _warn(self, kind: object, text: str) -> None:
        """A broker is named once, by whichever client and for whatever reason."""
        broker = broker_in(text)
        self.warn(kind if broker is None else ("broker", broker), text)


__all__ = ["ClientLog", "logger"]
