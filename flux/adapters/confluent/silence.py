"""Brokers that do not answer, found in librdkafka's statistics: its requests may wait for a minute before it says so.

Source: https://github.com/confluentinc/librdkafka/blob/v2.16.0/STATISTICS.md
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from flux.adapters.confluent.log import ClientLog, logger

LOOK_MS = 2_000
PATIENCE = 5.0
"""Seconds without a byte, from the look that first found a request waiting."""
_SETTING_UP = {"CONNECT", "SSL_HANDSHAKE", "AUTH_LEGACY", "AUTH_REQ", "AUTH_HANDSHAKE", "APIVERSION_QUERY"}
_UP = {"UP", "UPDATE"}
_BROKERS = '"brokers":'
_decoder = json.JSONDecoder()


class Silence:
    """Of one client, which calls `look` with its statistics. `users`: a callback of theirs, which hears them too."""

    def __init__(self, properties: Mapping[str, Any], log: ClientLog, now: Callable[[], float]) -> None:
        self._log = log
        self._now = now
        self._users: Callable[[str], object] | None = properties.get("stats_cb")
        # a fetch that finds nothing is kept so long on purpose
        self._patience = PATIENCE
        with suppress(TypeError, ValueError):  # librdkafka says itself what it does not take
            self._patience += float(properties.get("fetch.wait.max.ms", 0)) / 1000
        self._waiting: dict[str, tuple[int, float]] = {}
        """By broker: the bytes that had come when a request was first found waiting, and when that was."""

    def properties(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A client's, with those that this needs."""
        return {"statistics.interval.ms": LOOK_MS, **given, "stats_cb": self.look}

    def look(self, statistics: str) -> None:
        """Called inside a poll: an exception would take that poll's records with it."""
        try:
            self._look(statistics)
            if self._users is not None:
                self._users(statistics)
        except Exception:
            logger.exception("a callback for statistics failed")

    def _look(self, statistics: str) -> None:
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
                came, since = self._waiting.get(name, (-1, now))
                waiting[name] = (came, since) if came == broker["rxbytes"] else (broker["rxbytes"], now)
                seconds = now - waiting[name][1]
            if seconds >= self._patience:
                self._log.silent(broker["nodename"], seconds)
        self._waiting = waiting
