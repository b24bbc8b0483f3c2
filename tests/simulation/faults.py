"""What the broker and its clients refuse, or lose, while a fault lasts; and what the truth hears of the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux.adapters.memory.broker import Broker
from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset, InDoubt, ProducerRecord, TopicPartition
from simulation.machine import Process

if TYPE_CHECKING:
    from simulation.world import World


class Faults:
    """Of one run. The broker asks with its lock held."""

    def __init__(self, world: World, broker: Broker) -> None:
        self._world = world
        self._broker: dict[str, list[tuple[str, float]]] = {}
        self._clients: dict[str, float] = {}
        self._ends: dict[Process, tuple[str, str, bool, float]] = {}
        broker.fail_writes(self.refuse_write)
        broker.fail_writes(self.stored_write, stored=True)
        broker.fail_commits(self.refuse_commit)
        broker.fail_commits(self.stored_commit, stored=True)
        broker.fail_transactions(self.refuse_transaction)
        broker.fail_transactions(self.stored_transaction, stored=True)

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
        if what == "metadata too large" and self._world.truth.visible.is_inside:
            self._world.may_fail()
        self._world.truth.counted[f"commits refused: {what}"] += 1
        return BrokerError("refused", Fault(what))

    def stored_commit(self, group: str, at: TopicPartition, position: CommittedOffset) -> BrokerError | None:
        thread = self._world.machine.current
        assert thread is not None
        if not group.endswith("-replay") and not self._world.truth.visible.added(at, self._world.consumers):
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

    def refuse_transaction(self, step: str, name: str) -> BrokerError | None:
        what, thread = self._active(f"transactions {step}"), self._world.machine.current
        assert thread is not None
        fatal = what == "fatal" and step == "start" and thread.name != "flux-transactions"  # no worker starts then
        if what is None or fatal:
            return None
        self._world.truth.counted[f"transactions refused at {step}: {what}"] += 1
        doubt = what.removeprefix("in doubt, ")
        return BrokerError("refused", Fault(what)) if doubt == what else InDoubt("no answer", Fault(doubt))

    def stored_transaction(self, step: str, name: str) -> BrokerError | None:
        what = self._active("transactions stored")
        if what is None:
            return None
        self._world.truth.counted["transactions committed without an answer"] += 1
        return InDoubt("no answer, and committed", Fault(what))

    def end_at(self, process: Process, how: str, step: str, after: bool, seconds: float) -> None:
        """A process crashes, freezes, is evicted or rejoins before or after a step of its next transaction."""
        self._ends[process] = how, step, after, seconds

    def ends_here(self, process: Process, step: str, after: bool) -> bool:
        if not self._world.faulty or self._ends.get(process, ("",) * 3)[1:3] != (step, after):
            return False
        how, _, _, seconds = self._ends.pop(process)
        self._world.truth.counted[f"{how} {'after' if after else 'before'} {step} of a transaction"] += 1
        self._world.events.end(process, how, seconds)
        return True

    def of_client(self) -> str | None:
        for what, until in self._clients.items():
            if self._world.faulty and self._world.machine.time < until and self._world.random.random() < 0.3:
                self._world.truth.counted[f"clients {what}"] += 1
                return what
        return None
