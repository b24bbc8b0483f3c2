"""Finds brokers that do not answer in librdkafka's statistics: itself it reports them after up to a minute.

Source: https://github.com/confluentinc/librdkafka/blob/v2.16.0/STATISTICS.md
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from flux.adapters.confluent.log import ClientLog, logger

INTERVAL_MS = 2_000
SILENCE_LIMIT = 5.0
"""Seconds without a byte, since a waiting request was first seen."""
_SETTING_UP = {"CONNECT", "SSL_HANDSHAKE", "AUTH_LEGACY", "AUTH_REQ", "AUTH_HANDSHAKE", "APIVERSION_QUERY"}
_UP = {"UP", "UPDATE"}
_BROKERS = '"brokers":'
_decoder = json.JSONDecoder()


class Silence:
    """For one client, which calls `on_statistics`; that also calls the user's `stats_cb`."""

    def __init__(self, properties: Mapping[str, Any], log: ClientLog, now: Callable[[], float]) -> None:
        self._log = log
        self._now = now
        self._users: Callable[[str], object] | None = properties.get("stats_cb")
        self._limit = SILENCE_LIMIT
        with suppress(TypeError, ValueError):  # librdkafka refuses it itself
            # A broker holds a fetch without records for so long.
            self._limit += float(properties.get("fetch.wait.max.ms", 0)) / 1000
        self._waiting: dict[str, tuple[int, float]] = {}
        """By broker: the bytes received when a request was first seen waiting, and when that was."""

    def properties(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A client's properties, with those that this needs."""
        return {"statistics.interval.ms": INTERVAL_MS, **given, "stats_cb": self.on_statistics}

    def on_statistics(self, statistics: str) -> None:
        """Called inside a poll, whose records an exception would lose."""
        try:
            self._check(statistics)
            if self._users is not None:
                self._users(statistics)
        except Exception:
            logger.exception("a callback for statistics failed")

    def _check(self, statistics: str) -> None:
        start = statistics.find(_BROKERS)  # the topics behind them may be many
        if start < 0:
            return
        brokers, _ = _decoder.raw_decode(statistics, start + len(_BROKERS))
        now, waiting = self._now(), {}
        for name, broker in brokers.items():
            if broker["source"] not in ("learned", "configured"):
                continue  # a coordinator's connection waits for other members
            seconds = broker["stateage"] / 1e6 if broker["state"] in _SETTING_UP else 0.0
            if broker["state"] in _UP and broker["waitresp_cnt"]:
                received, since = self._waiting.get(name, (-1, now))
                waiting[name] = (received, since) if received == broker["rxbytes"] else (broker["rxbytes"], now)
                seconds = now - waiting[name][1]
            if seconds >= self._limit:
                self._log.silent(broker["nodename"], seconds)
        self._waiting = waiting
