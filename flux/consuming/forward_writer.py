"""Writes forwarded copies in order, acknowledged by all in-sync replicas. No record leaves a stage in another way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from flux.consuming.topic_setup import Spreading
from flux.core.engine.due_times import whole_ms
from flux.core.engine.forwarding import Forward
from flux.core.errors import BrokerError, Fault
from flux.core.ports import Cluster, ProducerPort, ProducerSettings, System

_ASK = 10.0
_ROOM = 5.0  # seconds to wait for room in the client's queue
_AGAIN = 0.01

Ended = Callable[[Forward, BrokerError | None], None]
Wanted = Callable[[Forward], bool]
Step = Callable[[], None]


class ForwardWriter:
    """One cluster's producer for forwarded copies. Thread-safe; replaces its client if that fails."""

    def __init__(self, adapter: Cluster, settings: ProducerSettings, system: System) -> None:
        self._adapter = adapter
        self._settings = settings
        self._system = system
        self._client: ProducerPort | None = None

    def write(
        self, forwards: Iterable[Forward], limit: Callable[[str], int | None], ended: Ended, wanted: Wanted, step: Step
    ) -> None:
        """Hands forwarded copies to the client, in order. `limit`: a topic's largest record in bytes, if known.
        `ended`: called for the end of each, on this thread or the client's. `wanted`: whether a forwarded copy is still
        to be written; checked after each wait. `step`: called on progress."""
        by_topic: dict[str, list[Forward]] = {}
        for forward in forwards:
            by_topic.setdefault(forward.forwarded_copy.target.topic, []).append(forward)
        away: BrokerError | None = None
        for topic, those in by_topic.items():
            if away is None:
                away = self._write(topic, those, limit(topic), ended, wanted, step)
                continue
            for forward in those:  # each would wait as long for the same error
                ended(forward, away)

    def _write(
        self, topic: str, forwards: list[Forward], limit: int | None, ended: Ended, wanted: Wanted, step: Step
    ) -> BrokerError | None:
        """Returns the error of a cluster that is unavailable now, if it is."""
        system = self._system
        client: ProducerPort | None = None
        try:
            client = self._client = self._client or self._adapter.producer(self._settings)
            partitions = client.partitions(topic, _ASK)
            now_ms = whole_ms(system.now())
            deadline = system.monotonic() + _ROOM
            outgoing = []
            for forward in forwards:
                forward.forwarded_copy.partitions = partitions
                outgoing.append(forward.forwarded_copy.producer_record(now_ms, limit))
            while True:
                step()
                unwanted = [index for index, forward in enumerate(forwards) if not wanted(forward)]
                for index in reversed(unwanted):
                    ended(forwards[index], BrokerError("its partition is another member's", Fault.FENCED))
                    del forwards[index], outgoing[index]
                if not forwards:
                    return None
                taken = client.write(topic, outgoing, [partial(_ended, ended, forward) for forward in forwards])
                del forwards[:taken], outgoing[:taken]
                if taken:
                    deadline = system.monotonic() + _ROOM
                elif system.monotonic() >= deadline:
                    raise BrokerError("the client's queue has no room", Fault.UNAVAILABLE)
                if forwards:
                    system.sleep(_AGAIN)
        except BrokerError as error:
            if error.fault is Fault.FATAL and client is not None:
                self.close(0)
            for forward in forwards:
                ended(forward, error)
            return error if error.fault is Fault.UNAVAILABLE else None

    def renew(self) -> None:
        """Replaces the client for the next forwarded copy, because a thread is stuck in this one."""
        self._client = None

    def warm_up(self, topics: Iterable[str]) -> None:
        """Connects and queries the topics' partitions before the first forwarded copy. Raises BrokerError."""
        self._client = self._client or self._adapter.producer(self._settings)
        spreading = Spreading(self._system)
        for topic in topics:
            try:
                spreading.known(partial(self._client.partitions, topic, _ASK))
            except BrokerError as error:
                if (
                    error.fault is not Fault.UNKNOWN_TOPIC
                ):  # otherwise a forwarded copy to the topic is kept, and logged
                    raise

    def close(self, timeout: float) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close(timeout)


def _ended(ended: Ended, forward: Forward, error: BrokerError | None, _: object) -> None:
    ended(forward, error)
