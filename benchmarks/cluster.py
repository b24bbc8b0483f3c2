"""The broker that everything is measured against, and the records in it."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks.measure import VALUE, key

_LEAST = 2000
_MADE = 60.0


@contextmanager
def broker(given: str | None) -> Iterator[str]:
    """`given`, or one of our own so that nothing else disturbs it: found as the tests find theirs."""
    if given:
        yield given
        return
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from brokers import NoBroker, running
    from brokers.jars import jars

    with ExitStack() as stack:
        try:
            found = stack.enter_context(jars())
        except NoBroker:
            os.environ.pop("FLUX_TEST_BOOTSTRAP", None)
            found = stack.enter_context(running())
        yield found.bootstrap


class Cluster:
    """Topics, made and filled when they are first asked for."""

    def __init__(self, bootstrap: str, scale: float) -> None:
        self.bootstrap = bootstrap
        self._scale = scale
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        self._filled: dict[str, str] = {}
        self._prefix = f"bench-{secrets.token_hex(3)}"

    def filled(self, name: str, partitions: int, records: int) -> str:
        if name not in self._filled:
            topic = self.new(partitions)
            self._fill(topic, partitions, scaled(records, self._scale))
            self._filled[name] = topic
        return self._filled[name]

    def new(self, partitions: int) -> str:
        topic = f"{self._prefix}-{secrets.token_hex(3)}"
        self._admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(_MADE)
        until = time.monotonic() + _MADE
        while time.monotonic() < until:
            found = self._admin.list_topics(timeout=10).topics.get(topic)
            if found and len(found.partitions) == partitions and all(p.leader >= 0 for p in found.partitions.values()):
                break
            time.sleep(0.05)
        return topic

    def clear(self, keep: bool = True) -> None:
        """Deletes the topics of the measurement that is over, and the filled ones too unless they are to stay."""
        kept = set(self._filled.values()) if keep else set()
        ours = [name for name in self._admin.list_topics(timeout=10).topics if name.startswith(self._prefix)]
        gone = [name for name in ours if name not in kept]
        if gone:
            for future in self._admin.delete_topics(gone).values():
                future.exception(_MADE)

    def _fill(self, topic: str, partitions: int, records: int) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "linger.ms": 50,
                "queue.buffering.max.messages": 500_000,
                "batch.num.messages": 10_000,
            }
        )
        number = 0
        while number < records:
            try:
                # spread evenly, but a key stays in its partition: keys repeat after a multiple of the partitions
                producer.produce(topic, VALUE, key(number), number % partitions)
            except BufferError:
                producer.poll(0.1)
                continue
            number += 1
        if producer.flush(120):
            raise SystemExit(f"{topic} was not filled")


def scaled(number: int, scale: float) -> int:
    return max(int(number * scale), min(number, _LEAST))
