"""What librdkafka says, in the log. It never goes to stderr by itself."""

from __future__ import annotations

import logging

from confluent_kafka import KafkaError

from flux.adapters.warnings import Warnings, broker_in, logger

_COMMON = {KafkaError._ALL_BROKERS_DOWN}
"""Comes whenever the last open connection is closed, idle ones included; a broker that is away is named by itself."""


class ClientLog(Warnings):
    """One adapter's. librdkafka calls `log` as it would a logging.Logger's."""

    def log(self, level: int, template: str, *args: object) -> None:
        text = template % args
        if level >= logging.ERROR:
            self._warn(args[:1], text)
        elif logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s", self.masked(text))

    def error(self, error: KafkaError) -> None:
        text = f"{error.str()} ({error.name()})"
        if error.code() in _COMMON:
            logger.debug("%s", self.masked(text))
        else:
            self._warn(error.code(), text)

    def _warn(self, kind: object, text: str) -> None:
        """A broker is named once, by whichever client and for whatever reason."""
        broker = broker_in(text)
        self.warn(kind if broker is None else ("broker", broker), text)


__all__ = ["ClientLog", "logger"]
