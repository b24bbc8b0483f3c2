"""What really happened, and what must hold of it: kept beside flux, fed by handlers, broker and clients.

It knows every copy of every record on the broker, every call, every assignment and every write. The properties are
those that flux promises whatever happens; each check names what it holds.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import attrs

from flux.core.backoff import default_wait
from flux.core.errors import BrokerError, Fault
from flux.core.ledger import read_metadata
from flux.core.ports import Position, TopicPartition
from simulation.machine import EPOCH, Machine, Process
from simulation.scenario import RecordPlan, Scenario, TaskPlan

DEAD = 1000
"""The stage of dead letters, whatever `retries` is."""
PRODUCTS = "products"
_TAG = re.compile(rb"#(\d+);")
_KEPT = (Fault.DENIED, Fault.UNKNOWN_TOPIC, Fault.OTHER)


class Violation(AssertionError):
    """A promise was broken."""


@attrs.define(eq=False)
class Copy:
    """A record on the broker, in any of a task's topics."""

    at: TopicPartition
    offset: int
    plan: RecordPlan
    stage: int
    record: Any
    attempts: int
    due: int
    stored_at: float
    acked: bool = False
    deleted: bool = False
    calls: list[Call] = attrs.field(factory=list)
    source: Call | None = None

    def __str__(self) -> str:
        return f"{self.at}@{self.offset} (r{self.plan.number})"


@attrs.define(eq=False)
class Call:
    number: int
    copy: Copy
    process: Process
    epoch: Epoch
    retries: int
    """Of the task, as the process knows it."""
    ended: int | None = None
    """The machine's step."""
    outcome: str = ""
    """done, next, dead, or stop."""
    after: float | None = None
    ended_ms: int = 0
    products: dict[bytes, str] = attrs.field(factory=dict)
    hop: str = ""
    """flying, refused or acked."""
    kept: int | None = None
    """The step at which its hop was refused."""
    settled_at: int = 0

    @property
    def running(self) -> bool:
        return self.ended is None and not self.process.dead

    @property
    def verdict(self) -> str:
        """With what it produced: done, next, dead, stop, or nothing yet."""
        if self.outcome == "done" and self.products:
            if "failed" in self.products.values():
                return "next" if not {"flying"} & set(self.products.values()) or self.hop else ""
            return "done" if set(self.products.values()) == {"acked"} else ""
        return self.outcome

    @property
    def settled(self) -> bool:
        verdict = self.verdict
        if verdict == "done":
            return True
        if verdict in ("next", "dead"):
            return self.hop == "acked" or self.copy.stage == DEAD
        return False

    def __str__(self) -> str:
        return f"call {self.number} of {self.copy}"


@attrs.define(eq=False)
class Epoch:
    """One assignment of one partition, as the listener of one process hears of it."""

    process: Process
    group: str
    at: TopicPartition
    task: TaskPlan
    member: Any
    restored: Position | None
    began: int
    delivered: dict[int, tuple[int, int]] = attrs.field(factory=dict)
    """Offset -> (due, number of the poll)."""
    called: dict[int, Call] = attrs.field(factory=dict)
    polls: int = 0
    returned: int = 0
    """The step at which the last poll returned."""
    known: int = 0
    """What happened before this step was told to the engine before the last poll began."""
    revoking: float | None = None
    revoking_since: int = 0
    commit_failed: bool = False
    ended: str = ""
    ended_at: float = 0.0
    late: bool = False
    """It was given up although calls were in flight, as their time was over."""
    begun_late: int = 0

    def was_done(self, offset: int) -> bool:
        if self.restored is None:
            return False
        ranges = read_metadata(*self.restored) or [] if self.restored.metadata else []
        return offset < self.restored.offset or any(start <= offset < end for start, end in ranges)

    @property
    def alive(self) -> bool:
        return not self.ended and not self.process.dead


class Truth:
    def __init__(self, scenario: Scenario, machine: Machine, cluster: Any) -> None:
        self.scenario = scenario
        self.machine = machine
        self.cluster = cluster
        self.tasks = {task.topic: task for task in scenario.tasks}
        self.plans = {b"r%d" % plan.number: plan for plan in scenario.records}
        self.copies: dict[tuple[TopicPartition, int], Copy] = {}
        self.by_partition: defaultdict[TopicPartition, list[Copy]] = defaultdict(list)
        self.by_plan: defaultdict[int, list[Copy]] = defaultdict(list)
        self.calls: list[Call] = []
        self.epochs: dict[tuple[Process, TopicPartition], Epoch] = {}
        self.history: list[str] = []
        self.first: Violation | None = None
        self.counted: defaultdict[str, int] = defaultdict(int)
        self.excused: set[Process] = set()
        """Processes that a fault may have cost their partitions."""
        self.jumped: dict[Process, float] = {}
        """The furthest that the clock of a process was ahead."""
        self.positions: dict[tuple[str, TopicPartition], Position] = {}

    def note(self, text: str, process: Process | None = None) -> None:
        if self.machine.over:
            return
        name = "" if process is None else process.name
        self.history.append(f"{self.machine.time:12.5f} {name:5} {text}")

    def broken(self, text: str) -> Violation:
        """The first one ends the run, whoever catches it."""
        self.note(f"BROKEN: {text}")
        violation = Violation(text)
        self.first = self.first or violation
        return violation

    # ---- topics

    def stage_of(self, topic: str) -> tuple[TaskPlan, int] | None:
        name, dash, rest = topic.partition("-")
        task = self.tasks.get(name)
        if task is None:
            return None
        if not dash:
            return task, 0
        last = rest.rpartition("-")[2]
        return task, DEAD if last == "dlq" else int(last)

    def _target(self, call: Call, dead: bool) -> str:
        at = call.copy
        task, stage = self.stage_of(at.at.topic) or (None, 0)
        assert task is not None
        if dead or stage >= call.retries:
            return f"{task.topic}-{task.group}-dlq"
        return f"{task.topic}-{task.group}-try-{stage + 1}"

    # ---- the broker

    def appended(self, topic: str, partition: int) -> None:
        """A record was stored."""
        self.machine.touch()
        known = self.stage_of(topic)
        log = self.cluster.topics[topic].logs[partition]
        record = log.records[-1]
        if known is None:
            self.note(f"{topic}[{partition}]@{record.at} {record._key!r} stored")
            return
        task, stage = known
        value = record.value() or b""
        plan = self.plans.get(value.partition(b" ")[0])
        if plan is None:
            raise self.broken(f"{topic} got {value[:20]!r}, which nobody wrote")
        headers = dict(record._headers or ()) if stage else {}
        due = int(headers.get("flux-due") or 0)
        at = TopicPartition(topic, partition)
        copy = Copy(at, record.at, plan, stage, record, int(headers.get("flux-attempts") or 0), due, self.machine.time)
        self.note(f"{copy} stored")
        self.copies[at, record.at] = copy
        self.by_partition[at].append(copy)
        self.by_plan[plan.number].append(copy)
        if stage:
            self._check_hop(copy, headers)
            if due:
                self.machine.at(due / 1000 - EPOCH, self.machine.touch)

    def _check_hop(self, copy: Copy, headers: dict[str, bytes | None]) -> None:
        record, plan = copy.record, copy.plan
        call = copy.source = self._call_of(record)
        if call is None:
            raise self.broken(f"{copy} was written for no failed call")
        origin = next((each for each in self.by_plan[plan.number] if each.stage == 0), None)
        assert origin is not None
        kept = [pair for pair in record._headers or () if not pair[0].startswith("flux-")]
        wanted = [pair for pair in plan.headers if not pair[0].startswith("flux-")]
        if (record.key(), record.value(), kept) != (origin.record.key(), origin.record.value(), wanted):
            raise self.broken(f"{copy} has another key, value or headers than {origin}")
        told = tuple(headers.get(f"flux-origin-{name}") for name in ("topic", "partition", "offset"))
        true = (origin.at.topic.encode(), b"%d" % origin.at.partition, b"%d" % origin.offset)
        if told != true:
            raise self.broken(f"{copy} says it came from {told}, not {true}")
        if copy.attempts != call.copy.attempts + 1:
            raise self.broken(f"{copy} counts {copy.attempts} attempts after {call}")
        target = self._target(call, call.verdict == "dead")
        if copy.at.topic != target:
            raise self.broken(f"{copy} was to go to {target}")
        if call.outcome == "stop":
            raise self.broken(f"{call} was a failure of the process, and moved")
        count = len(self.cluster.topics[copy.at.topic].logs)
        if copy.at.partition != call.copy.at.partition % count:
            raise self.broken(f"{copy} is in another partition than {call}")
        if copy.stage != DEAD:
            self._check_due(copy, call)

    def _check_due(self, copy: Copy, call: Call) -> None:
        task, stage = self.tasks[call.copy.at.topic.partition("-")[0]], copy.stage
        setting = task.settings["wait"]
        if call.after is not None:
            low = high = call.after
        elif setting is None:
            low, high = float(default_wait(stage, 0)), float(default_wait(stage, 29))
        else:
            low = high = setting[min(stage, len(setting)) - 1] if isinstance(setting, list) else setting
        written = copy.record.timestamp()[1]
        if not low * 1000 - 1 <= copy.due - written <= high * 1000 + 1:
            raise self.broken(f"{copy} is due {copy.due - written} ms after it was written, not {low} to {high} s")
        if copy.due < call.ended_ms + low * 1000 - 1 and call.process not in self.jumped:
            raise self.broken(f"{copy} is due before the wait is over")

    def deleted(self, at: TopicPartition, before: int) -> None:
        for copy in self.by_partition[at]:
            if copy.offset < before and not copy.deleted:
                copy.deleted = True
                self.note(f"{copy} deleted")

    def stored(self, who: Any, at: TopicPartition, position: Position) -> None:
        """A consumer has committed a position."""
        self.note(f"{at} committed {position.offset} {position.metadata}", who.process)
        before = self.positions.get((who.group_id, at))
        self.positions[who.group_id, at] = position
        epoch: Epoch | None = self.epochs.get((who.process, at))
        if (
            epoch is None
            or not epoch.alive
            or self.cluster.group(who.group_id, at.topic).owner.get(at.partition) is not (who._member)
        ):
            raise self.broken(f"{who.process.name} commits {at}, which is not its own")
        if before is not None and position.offset < before.offset:
            raise self.broken(f"the position of {at} goes back from {before.offset} to {position.offset}")
        ranges = read_metadata(*position) if position.metadata else []
        if ranges is None:
            raise self.broken(f"{position} cannot be read")
        most = epoch.task.settings["max_metadata"]
        if len(position.metadata) > most:
            raise self.broken(f"{position} is longer than {most}")
        for copy in self.by_partition[at]:
            offset = copy.offset
            done = offset < position.offset or any(start <= offset < end for start, end in ranges)
            if done and not copy.deleted and not any(call.settled for call in copy.calls):
                raise self.broken(f"{copy} is committed and not done: {position}")
        if not who.metadata_refused:
            self._check_complete(epoch, position, ranges, epoch.known, False)

    def _check_complete(
        self, epoch: Epoch, position: Position, ranges: Sequence[tuple[int, int]], known: int, products: bool
    ) -> None:
        """`products`: calls that have produced too, which the engine may hear of somewhat later."""
        if epoch.task.settings["max_metadata"] < 1000:
            return
        for offset, call in epoch.called.items():
            done = offset < position.offset or any(start <= offset < end for start, end in ranges)
            if not done and call.settled and (products or not call.products) and call.settled_at < known:
                raise self.broken(f"{call} was done before, and is not in {position}")

    # ---- memberships

    def assigned(self, consumer: Any, partitions: Sequence[TopicPartition]) -> None:
        self.machine.touch()
        for at in partitions:
            task, _ = self.stage_of(at.topic) or (None, 0)
            assert task is not None
            self.note(f"{at} assigned at {consumer.read.get(at)}", consumer.process)
            self.epochs[consumer.process, at] = Epoch(
                consumer.process,
                consumer.group_id,
                at,
                task,
                consumer._member,
                consumer.read.get(at),
                self.machine.steps,
            )

    def revoking(self, consumer: Any, partitions: Sequence[TopicPartition]) -> None:
        self.machine.touch()
        consumer.commit_failed = False
        for at in partitions:
            self.note(f"{at} is being revoked", consumer.process)
            epoch = self.epochs[consumer.process, at]
            epoch.revoking = self.machine.time
            epoch.revoking_since = self.machine.steps

    def revoked(self, consumer: Any, partitions: Sequence[TopicPartition], stopping: float | None) -> None:
        self.machine.touch()
        for at in partitions:
            epoch = self.epochs[consumer.process, at]
            epoch.ended, epoch.ended_at = "revoked", self.machine.time
            self.note(f"{at} revoked", consumer.process)
            assert epoch.revoking is not None
            now, settings = self.machine.time + 0.001, epoch.task.settings
            late = epoch.late = (
                now - epoch.revoking >= min(settings["drain_timeout"], consumer.max_poll_interval / 2)
                or (stopping is not None and now - stopping >= settings["shutdown_timeout"])
                or consumer.process in self.jumped
            )
            for call in epoch.called.values():
                if call.running and not late and not consumer.desk.failure:
                    raise self.broken(f"{at} was given up during {call}, after {now - epoch.revoking:.3f} s")
            if late or consumer.commit_failed or consumer.metadata_refused or consumer.desk.failure:
                continue
            if self.cluster.group(epoch.group, at.topic).owner.get(at.partition) is not consumer._member:
                continue
            position = self.cluster.group(epoch.group, at.topic).positions.get(at.partition)
            ranges = [] if position is None or not position.metadata else read_metadata(*position) or []
            self._check_complete(epoch, position or Position(0), ranges, epoch.revoking_since, True)

    def lost(self, consumer: Any, partitions: Sequence[TopicPartition]) -> None:
        self.machine.touch()
        for at in partitions:
            self.note(f"{at} lost", consumer.process)
            epoch = self.epochs[consumer.process, at]
            epoch.ended, epoch.ended_at = "lost", self.machine.time
        if consumer.process not in self.excused:
            raise self.broken(f"{consumer.process.name} lost {partitions}, and nothing had befallen it")

    def poll_begins(self, consumer: Any) -> None:
        for at in consumer.mine():
            epoch = self.epochs.get((consumer.process, at))
            if epoch is not None:
                epoch.known = epoch.returned

    def polled(self, consumer: Any, polled: Any) -> None:
        for at in consumer.mine():
            epoch = self.epochs.get((consumer.process, at))
            if epoch is not None:
                epoch.returned = self.machine.steps
        for batch in polled.batches:
            epoch = self.epochs[consumer.process, batch.partition]
            epoch.polls += 1
            for record in batch.records:
                copy = self.copies[batch.partition, record.at]
                epoch.delivered.setdefault(record.at, (copy.due, epoch.polls))
        self._check_bounds(consumer)

    def _check_bounds(self, consumer: Any) -> None:
        engine, constants = consumer.post.engine, self.scenario.constants
        task, stage = self.stage_of(consumer.post.settings.topic) or (None, 0)
        assert task is not None
        batch = constants.get("flux.core.engine.BATCH", 500)
        most = task.settings["max_waiting"] + batch + 10
        if engine.waiting > most:
            raise self.broken(f"{engine.waiting} records wait in memory, more than {most}")
        full = constants.get("flux.core.flow.FULL", 1000)
        for assignment in engine._assignments.values():
            if assignment.backlogged > 2 * full + batch:
                raise self.broken(f"{assignment.partition} has {assignment.backlogged} records that nobody has begun")
        hops = len(engine._hops)
        chunk = constants.get("flux.core.pace.CHUNK", 100)
        if hops > constants.get("flux.core.hops.MOST_OPEN", 5000) + batch + chunk * (task.settings["concurrency"] + 1):
            raise self.broken(f"{hops} hops are open")

    # ---- calls

    def begin(self, process: Process, message: Any, retries: int) -> Call:
        self.machine.touch()
        at, offset = TopicPartition(message.topic, message.partition), message.offset
        copy, epoch = self.copies[at, offset], self.epochs.get((process, at))
        if epoch is None or (epoch.ended and not self._was_taken(epoch)):
            raise self.broken(f"{copy} is called after its assignment is gone")
        call = Call(len(self.calls), copy, process, epoch, retries)
        self.note(f"call {call.number} of {copy}", process)
        self.calls.append(call)
        if epoch.ended:
            return call
        if epoch.revoking is not None and not self._was_taken(epoch):
            raise self.broken(f"{call} begins while the partition is given up")
        if offset in epoch.called:
            raise self.broken(f"{call} repeats {epoch.called[offset]}, by the same owner")
        if offset not in epoch.delivered:
            raise self.broken(f"{call}: it was not delivered")
        if epoch.was_done(offset):
            raise self.broken(f"{call}: it is done by {epoch.restored}")
        if message.attempt != copy.attempts + 1:
            raise self.broken(f"{call} is told to be attempt {message.attempt}")
        ahead = max(process.offset, self.jumped.get(process, process.offset))
        if copy.stage not in (0, DEAD) and copy.due > (EPOCH + self.machine.time + ahead) * 1000:
            raise self.broken(f"{call} is called before it is due, {copy.due}")
        self._check_prompt(call)
        self._check_order(call)
        self._check_alone(call)
        self._check_repeat(call)
        epoch.called[offset] = call
        copy.calls.append(call)
        return call

    def _check_prompt(self, call: Call) -> None:
        """With nothing in its way, a record is called when it is due: at once, or when a caller of few is free."""
        if not self.scenario.prompt or call.copy.stage == DEAD:
            return
        ready = max(call.copy.stored_at, call.copy.due / 1000 - EPOCH)
        if self.machine.time - ready > 0.3 and self.machine.time > 1.0:
            raise self.broken(f"{call} is called {self.machine.time - ready:.3f} s late")

    def _was_taken(self, epoch: Epoch) -> bool:
        """A caller that had taken a record before, and has not looked at it yet, is as one in a call."""
        epoch.begun_late += 1
        if epoch.begun_late > epoch.task.settings["concurrency"]:
            return False
        if not epoch.ended:
            return True
        return self.machine.time - epoch.ended_at < 0.5 and (epoch.late or epoch.ended == "lost")

    def _lane(self, copy: Copy, ordering: str) -> Any:
        if ordering == "partition":
            return True
        return copy.record.key() if ordering == "key" else None

    def _check_order(self, call: Call) -> None:
        copy, epoch = call.copy, call.epoch
        ordering = epoch.task.settings["ordering"]
        lane = self._lane(copy, ordering)
        if lane is None:
            return
        due, poll = epoch.delivered[copy.offset]
        if copy.stage in (0, DEAD):
            due = 0
        for offset, (its_due, its_poll) in epoch.delivered.items():
            other = self.copies[copy.at, offset]
            if other is copy or self._lane(other, ordering) != lane:
                continue
            its = epoch.called.get(offset)
            if its is None:
                if epoch.was_done(offset):
                    continue
                if copy.stage in (0, DEAD):
                    its_due = 0
                if (its_due, offset) < (due, copy.offset) and its_poll <= poll:
                    raise self.broken(f"{call} overtakes {other}")
            elif its.kept is not None and its.hop != "acked" and its.kept < epoch.known:
                raise self.broken(f"{call} overtakes {its}, whose hop is refused")

    def _check_alone(self, call: Call) -> None:
        copy, epoch = call.copy, call.epoch
        ordering = epoch.task.settings["ordering"]
        lane = self._lane(copy, ordering)
        for other in self.calls:
            if not other.running or other is call or other.copy.at != copy.at:
                continue
            if (lane is None or self._lane(other.copy, ordering) != lane) and other.copy is not copy:
                continue
            its = other.epoch
            if its is epoch:
                raise self.broken(f"{call} runs beside {other}")
            # given up during a call: `revoked` has seen to it that its time was over; else it was lost

    def _check_repeat(self, call: Call) -> None:
        for other in call.copy.calls:
            its = other.epoch
            if not (its.ended or its.process.dead):
                self.note(f"{other} may still be running")
        self.counted["repeats"] += bool(call.copy.calls)

    def end(self, call: Call, outcome: str, after: float | None = None) -> None:
        self.machine.touch()
        self.note(f"call {call.number}: {outcome}", call.process)
        call.outcome, call.after = outcome, after
        call.ended = call.settled_at = self.machine.steps
        call.ended_ms = int(call.process.now() * 1000)

    # ---- writes

    def _call_of(self, record: Any) -> Call | None:
        """The call that a hop, or a produced record, belongs to."""
        headers = dict(record._headers or ())
        match = _TAG.search((headers.get("flux-error-type") or b"") + (headers.get("flux-error-message") or b""))
        if match:
            return self.calls[int(match[1])]
        plan = self.plans[(record.value() or b"").partition(b" ")[0]]
        writer = self.machine.current.process if self.machine.current is not None else None
        failed_at = int(headers.get("flux-failed-at") or 0)
        found = [
            call
            for copy in self.by_plan[plan.number]
            for call in copy.calls
            if call.verdict in ("next", "dead")
            and copy.stage != DEAD
            and self._target(call, call.verdict == "dead") == record.topic()
        ]
        found.sort(key=lambda call: (call.process is not writer, call.ended_ms != failed_at, call.hop == "acked"))
        return found[0] if found else None

    def handed(self, process: Process, topic: str, records: Sequence[Any]) -> None:
        """A client was given these to write."""
        for record in records:
            known = self.stage_of(topic)
            if known is None:
                self._products(record.key, "flying")
                continue
            call = self._call_of(_Given(topic, record))
            if call is None:
                raise self.broken(f"{process.name} writes {record.value!r} to {topic} for no failed call")
            if _TAG.search(b"".join(value or b"" for name, value in record.headers if name.startswith("flux-error"))):
                if call.hop in ("flying", "acked"):
                    raise self.broken(f"the hop of {call} is written again while {call.hop}")
                if call.epoch.ended:
                    raise self.broken(f"the hop of {call} is written after its assignment has ended")
                call.hop = "flying"

    def answered(self, error: BrokerError | None, record: Any) -> None:
        """A client has told the end of a record."""
        known = self.stage_of(record.topic())
        if known is None:
            self._products(record.key(), "acked" if error is None else "failed")
            return
        if record.at >= 0:
            copy = self.copies[TopicPartition(record.topic(), record.partition()), record.at]
            call = copy.source
        else:
            call = self._call_of(record)
        assert call is not None
        if error is None:
            self.note(f"the hop of {call} is acknowledged")
            copy.acked = True
            call.hop = "acked"
            call.settled_at = self.machine.steps
        else:
            self.note(f"the hop of {call} is refused: {error.fault.value}")
            if call.hop != "acked":
                call.hop = "refused"
            if error.fault in _KEPT and call.kept is None:
                call.kept = self.machine.steps

    def _products(self, key: bytes | None, state: str) -> None:
        match = _TAG.search(key or b"")
        assert match and key
        call = self.calls[int(match[1])]
        self.note(f"product {key.decode()} {state}")
        call.products[key] = state
        call.settled_at = self.machine.steps

    # ---- the end

    def undone(self) -> list[Copy]:
        """What has not ended as its outcomes say."""
        return [
            copy
            for copy in self.copies.values()
            if copy.stage != DEAD and not copy.deleted and not any(call.settled for call in copy.calls)
        ]

    def check_end(self) -> None:
        undone = self.undone()
        if undone:
            raise self.broken(f"lost: {', '.join(map(str, undone[:5]))}")
        for copy in self.copies.values():
            for call in copy.calls:
                if call.outcome == "stop" and call.hop:
                    raise self.broken(f"{call} was a failure of the process, and moved")
            if copy.deleted and copy.calls and copy.stage != DEAD:
                last = copy.calls[-1]
                if last.verdict in ("next", "dead") and not last.settled and last.epoch.ended == "revoked":
                    self.counted["deleted under way"] += 1


class _Given:
    """An Outgoing as a record."""

    def __init__(self, topic: str, outgoing: Any) -> None:
        self._topic = topic
        self._outgoing = outgoing
        self._headers = outgoing.headers

    def topic(self) -> str:
        return self._topic

    def value(self) -> bytes | None:
        return self._outgoing.value  # type: ignore[no-any-return]
