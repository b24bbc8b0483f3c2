"""Produces the records of a trial."""

from __future__ import annotations

import threading
import time
from typing import Any

from confluent_kafka import Producer
from proof.history.events import Produced, now

from chaos import plan

STALL = 1.0
"""Seconds until a write is acknowledged beyond which the cluster itself is at fault, as when a disk stands still."""
MOST = 60_000
"""Records of one trial, at most."""


class Feeder:
    """A plain producer that writes the plan's records at a steady rate, each once."""

    def __init__(self, bootstrap: str, topic: str, rate: int) -> None:
        self._topic = topic
        self._rate = rate
        self._stop = threading.Event()
        self._client = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "delivery.timeout.ms": 120_000,
                "log_level": 0,
            }
        )
        self.given = 0
        self.places: dict[int, tuple[int, int]] = {}
        """(partition, offset) of each number that is acknowledged."""
        self.stalls: list[tuple[float, float]] = []
        """When the cluster took longer than STALL, whatever befell the workers."""
        self.paused = False
        self.failures: list[Any] = []
        self.acknowledged: list[Produced] = []
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        before, owed = time.monotonic(), 0.0
        while not self._stop.wait(0.02) and self.given < MOST:
            now = time.monotonic()
            owed, before = 0.0 if self.paused else owed + (now - before) * self._rate, now
            wanted = min(self.given + int(owed), MOST)
            owed -= wanted - self.given
            for number in range(self.given, wanted):
                self._client.produce(
                    self._topic,
                    plan.value(number),
                    plan.key(number),
                    headers=plan.headers(number) or None,
                    on_delivery=self._delivered,
                )
            self.given = max(self.given, wanted)
            self._client.poll(0)

    def _delivered(self, error: Any, message: Any) -> None:
        if error is None:
            number, partition, offset = plan.number_of(message.value()), message.partition(), message.offset()
            self.places[number] = partition, offset
            self.acknowledged.append(Produced(number, partition, offset, now()))
            self._look(time.monotonic(), message.latency())
        else:
            self.failures.append(error)

    def _look(self, now: float, latency: float) -> None:
        if latency < STALL:
            return
        if self.stalls and self.stalls[-1][1] > now - latency:
            self.stalls[-1] = self.stalls[-1][0], now
        else:
            self.stalls.append((now - latency, now))

    def end(self) -> int:
        """How many there are; all acknowledged."""
        self._stop.set()
        self._thread.join(10)
        left = self._client.flush(120)
        assert not self.failures, self.failures[:3]
        assert (left, len(self.places)) == (0, self.given)
        return self.given
