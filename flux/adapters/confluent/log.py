"""What librdkafka says, in the log. It never goes to stderr by itself."""

from __future__ import annotations

import logging

from confluent_kafka import KafkaError

from flux.adapters.warnings import Warnings, logger


class ClientLog(Warnings):
    """One client's. librdkafka calls `log` as it would a logging.Logger's."""

    def log(self, level: int, template: str, *args: object) -> None:
        if level >= logging.ERROR:
            self.warn(args[:1], template % args)
        elif logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s", self.masked(template % args))

    def error(self, error: KafkaError) -> None:
        self.warn(error.code(), f"{error.str()} ({error.name()})")


__all__ = ["ClientLog", "logger"]
