"""What the broker and its clients refuse, or lose, while a fault lasts; and what the truth hears of the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux.adapters.memory.broker import Broker
from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset, ProducerRecord, TopicPartition

if TYPE_CHECKING:
    from simulation.world import World


class Faults:
    """Of one run. The broker asks with its lock held."""

    def __init__(self, world: World, broker: Broker) -> None:
        self._world = world
        self._broker: dict[str, list[tuple[str, float]]] = {}
        self._clients: dict[str, float] = {}
        broker.fail_writes(self.refuse_write)
        broker.fail_writes(self.stored_write, stored=True)
        broker.fail_commits(self.refuse_commit)
        broker.fail_commits(self.stored_commit, stored=True)

    def begin(self, kind: str, what: str, seconds: float) -> None:
        """Most requests of a kind fail with `what`, for a while."""
        self._broker.setdefault(kind, []).append((what, self._world.machine.time + seconds))

    def begin_client(self, what: str, seconds: float) -> None:
        self._clients[what] = self._world.machine.time + seconds

    def _active(self, kind: str) -> str | None:
        for what, until in self._broker.get(kind, ()):
            if self._world.faulty and self._world.machine.time < until and self._world.random.random() < 0.7:
                return what
        return None

    def refuse_write(self, topic: str, partition: int, outgoing: ProducerRecord) -> BrokerError | None:
        what = None if topic in self._world.truth.tasks else self._active("writes")
        if what is None:
            return None
        if what == "long" and not any(name == "flux-error-message" for name, _ in outgoing.headers):
            return None
        fault = Fault.TOO_LARGE if what == "long" else Fault(what)
        self._world.truth.counted[f"writes refused: {fault.value}"] += 1
        return BrokerError("refused", fault)

    def stored_write(self, topic: str, partition: int, outgoing: ProducerRecord) -> BrokerError | None:
        self._world.truth.appended(topic, partition)
        if topic in self._world.truth.tasks or self._active("writes lost") is None:
            return None
        self._world.truth.counted["acknowledgements lost"] += 1
        return BrokerError("timed out, and written", Fault.UNAVAILABLE)

    def refuse_commit(self, group: str, at: TopicPartition, position: CommittedOffset) -> BrokerError | None:
        what = self._active("commits")
        if what is None or (what == "metadata too large" and not position.metadata):
            return None
        self._world.truth.counted[f"commits refused: {what}"] += 1
        return BrokerError("refused", Fault(what))

    def stored_commit(self, group: str, at: TopicPartition, position: CommittedOffset) -> BrokerError | None:
        thread = self._world.machine.current
        assert thread is not None
        who = next(
            each
            for each in reversed(self._world.consumers)
            if each.process is thread.process and each.group_id == group and each.topic == at.topic
        )
        self._world.truth.stored(who, at, position)
        if self._active("commits lost") is None:
            return None
        self._world.truth.counted["commits stored, and told to have failed"] += 1
        return BrokerError("timed out, and stored", Fault.UNAVAILABLE)

    def of_client(self) -> str | None:
        for what, until in self._clients.items():
            if self._world.faulty and self._world.machine.time < until and self._world.random.random() < 0.3:
                self._world.truth.counted[f"clients {what}"] += 1
                return what
        return None
