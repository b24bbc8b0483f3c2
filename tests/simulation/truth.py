"""What really happened, and what must hold of it: kept beside flux, fed by handlers, broker and clients.

It knows every copy of every record on the broker, every call, every assignment and every write. The properties are
those that flux promises whatever happens; each check names what it holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from flux.core.engine.offset_tracker import read_mark, read_metadata
from flux.core.ports import CommittedOffset, TopicPartition
from simulation.forwards import Forwards, is_enqueued
from simulation.gates import Gates, by_share
from simulation.machine import EPOCH, Machine, Process
from simulation.order import check_alone, check_order, check_prompt
from simulation.records import DEAD, PRODUCTS, Call, Copy, Epoch, Violation
from simulation.scenario import Scenario, TaskPlan
from simulation.tries import check_again, check_age, check_batch, tries_before
from simulation.visible import Added, Visible

MOST_KILLS = 20


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
        self.stalled: set[Process] = set()
        """Processes that have stood still for a while."""
        self.stopping: Callable[[Process], float | None] = lambda process: None
        """Since when a process is stopping."""
        self.most_put_back = 0
        """Records that waited in memory and are to be called alone."""
        self.gates = Gates(self)
        self.enqueued_at: dict[int, float] = {}
        """By the record's number: when an application enqueued it, in seconds since the epoch."""
        self.forwards = Forwards(self)
        self.visible = Visible(self)
        self.positions: dict[tuple[str, TopicPartition], CommittedOffset] = {}
        self.named: dict[tuple[str, TopicPartition], tuple[Process, int]] = {}
        """The record that a committed offset names as called alone, and who says so."""
        self.blamed: set[tuple[TopicPartition, int]] = set()
        """Those whose owner gave the partition up and could not withdraw that, as its commits failed."""

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

    # ---- the broker

    def appended(self, topic: str, partition: int) -> None:
        """A record was stored."""
        self.machine.touch()
        record = self.cluster.topics[topic].logs[partition].records[-1]
        if self.visible.is_inside:
            self.note(f"{topic}[{partition}]@{record.at} {record._key!r} stored in a transaction")
        elif self.stage_of(topic) is None:
            self.note(f"{topic}[{partition}]@{record.at} {record._key!r} stored")
        else:
            self.visible_copy(record)

    def visible_copy(self, record: Any) -> Copy:
        """Readers can see a record of a task."""
        topic, partition = record.topic(), record.partition()
        known = self.stage_of(topic)
        if known is None:
            raise self.broken(f"{topic} is no task's")
        _, stage = known
        value = record.value() or b""
        plan = self.plans.get(value.partition(b" ")[0])
        if plan is None:
            raise self.broken(f"{topic} got {value[:20]!r}, which nobody wrote")
        headers = dict(record._headers or ()) if stage else {}
        due = int(headers.get("flux-due") or 0)
        at = TopicPartition(topic, partition)
        copy = Copy(
            at,
            record.at,
            plan,
            stage,
            record,
            int(headers.get("flux-attempts") or 0),
            due,
            self.machine.time,
            int(headers.get("flux-origin-timestamp") or record.timestamp()[1]),
        )
        self.note(f"{copy} stored")
        name = headers.get("flux-id")
        for earlier in self.by_partition[at] if name else ():
            earlier.replaced |= dict(earlier.record._headers or ()).get("flux-id") == name
        self.copies[at, record.at] = copy
        self.by_partition[at].append(copy)
        self.by_plan[plan.number].append(copy)
        if stage == 0 and plan.delay is not None:
            raise self.broken(f"{copy} was to wait in a retry topic")
        if stage:
            if is_enqueued(headers):
                self.forwards.check_enqueued(copy, headers)
            else:
                self.forwards.check(copy, headers)
            if due:
                for seconds in (0.0, self.patience(known[0])):
                    self.machine.at(due / 1000 - EPOCH + seconds, self.machine.touch)
        return copy

    def deleted(self, at: TopicPartition, before: int) -> None:
        for copy in self.by_partition[at]:
            if copy.offset < before and not copy.deleted:
                copy.deleted = True
                self.note(f"{copy} deleted")

    def stored(self, who: Any, at: TopicPartition, position: CommittedOffset, added: Added | None = None) -> None:
        """A consumer has committed a position. `added`: in a transaction."""
        self.note(f"{at} committed {position.offset} {position.metadata}", who.process)
        before = self.positions.get((who.group_id, at))
        self.positions[who.group_id, at] = position
        mark = read_mark(*position)
        if mark is None or mark.alone is None or mark.rests:
            self.named.pop((who.group_id, at), None)
        else:
            self.named[who.group_id, at] = (who.process, mark.alone)
        epoch: Epoch | None = self.epochs.get((who.process, at)) if added is None else added.epoch
        if added is None and epoch is not None and epoch.task.settings.get("exactly_once"):
            raise self.broken(f"{who.process.name} commits {at} outside of a transaction")
        if added is None and (
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
        task, _ = self.stage_of(at.topic) or (None, 0)
        assert task is not None
        most = task.settings["max_metadata"]
        if len(position.metadata) > most:
            raise self.broken(f"{position} is longer than {most}")
        for copy in self.by_partition[at]:
            offset = copy.offset
            done = offset < position.offset or any(start <= offset < end for start, end in ranges)
            if done and not copy.void and not any(call.settled or call.perhaps for call in copy.calls):
                raise self.broken(f"{copy} is committed and not done: {position}")
        if added is not None:
            if epoch is not None:
                self._check_complete(epoch, position, ranges, added.known, True)
        elif not who.metadata_refused and epoch is not None:
            self._check_complete(epoch, position, ranges, epoch.known, False)

    def _check_complete(
        self, epoch: Epoch, position: CommittedOffset, ranges: Sequence[tuple[int, int]], known: int, products: bool
    ) -> None:
        """`products`: calls that have produced too, which the engine may hear of somewhat later."""
        if epoch.task.settings["max_metadata"] < 1000:
            return
        for offset, call in epoch.called.items():
            done = offset < position.offset or any(start <= offset < end for start, end in ranges)
            if (
                not done
                and call.settled
                and not call.perhaps
                and not call.may_be_tried_in_place
                and (products or not call.products)
                and call.settled_at < known
            ):
                raise self.broken(f"{call} was done before, and is not in {position}")

    # ---- memberships

    def assigned(self, consumer: Any, partitions: Sequence[TopicPartition]) -> None:
        self.machine.touch()
        for at in partitions:
            task, _ = self.stage_of(at.topic) or (None, 0)
            assert task is not None
            self.note(f"{at} assigned at {consumer.read.get(at)}", consumer.process)
            self.gates.assigned(task.topic)
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
            self._blame(epoch)
            assert epoch.revoking is not None
            now, settings = self.machine.time + 0.001, epoch.task.settings
            late = epoch.late = (
                now - epoch.revoking >= min(settings["drain_timeout"], consumer.max_poll_interval / 2)
                or (stopping is not None and now - stopping >= settings["shutdown_timeout"])
                or consumer.process in self.jumped
            )
            for call in epoch.called.values():
                if call.running and not late:
                    raise self.broken(f"{at} was given up during {call}, after {now - epoch.revoking:.3f} s")
            if late or consumer.commit_failed or consumer.metadata_refused:
                continue
            if settings.get("exactly_once") and self.visible.hampered(consumer.process):
                continue
            if self.cluster.group(epoch.group, at.topic).owner.get(at.partition) is not consumer._member:
                continue
            if self.scenario.clean:
                self._check_moved(epoch)
            position = self.cluster.group(epoch.group, at.topic).committed.get(at.partition)
            ranges = [] if position is None or not position.metadata else read_metadata(*position) or []
            self._check_complete(epoch, position or CommittedOffset(0), ranges, epoch.revoking_since, True)

    def _check_moved(self, epoch: Epoch) -> None:
        for call in epoch.called.values():
            moves = call.verdict in ("next", "dead") and call.copy.stage != DEAD and not call.perhaps
            if moves and not call.forward:
                raise self.broken(f"{epoch.at} was given up, and nothing was written of {call}")

    def lost(self, consumer: Any, partitions: Sequence[TopicPartition]) -> None:
        self.machine.touch()
        for at in partitions:
            self.note(f"{at} lost", consumer.process)
            epoch = self.epochs[consumer.process, at]
            epoch.ended, epoch.ended_at = "lost", self.machine.time
            self._blame(epoch)
        if consumer.process not in self.excused:
            raise self.broken(f"{consumer.process.name} lost {partitions}, and nothing had befallen it")

    def _blame(self, epoch: Epoch) -> None:
        who, offset = self.named.get((epoch.group, epoch.at), (None, -1))
        if who is epoch.process:
            self.blamed.add((epoch.at, offset))

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
                if epoch.came_at.setdefault(record.at, self.machine.time) == self.machine.time:
                    self.machine.at(self.machine.time + self.patience(epoch.task), self.machine.touch)
        self._check_bounds(consumer)

    def _check_bounds(self, consumer: Any) -> None:
        engine, constants = consumer.runtime.engine, self.scenario.constants
        task, _ = self.stage_of(consumer.runtime.settings.topic) or (None, 0)
        assert task is not None
        batch = constants.get("flux.core.engine.common.BATCH", 500)
        # each partition may be given a batch before it is full
        most = task.settings["max_waiting"] + max(batch + 10, batch * len(engine.partitions))
        if engine.waiting > most:
            raise self.broken(f"{engine.waiting} records wait in memory, more than {most}")
        full = max(constants.get("flux.core.limits.backpressure.FULL", 1000), 2 * task.settings.get("max_batch", 0))
        for assignment in engine._partitions.assignments.values():
            in_queues = 0 if engine.held_back is None or engine.stage.number else assignment.in_key_queues
            if in_queues > full + batch:
                raise self.broken(f"{assignment.partition} has {in_queues} records in key queues")
            if assignment.backlogged > 2 * full + batch + self.most_put_back:
                raise self.broken(f"{assignment.partition} has {assignment.backlogged} records that nobody has begun")
        forwards = engine.open_forwards
        chunk = max(constants.get("flux.core.limits.dispatch_mode.CHUNK", 100), task.settings.get("max_batch", 0))
        if forwards > self.most_uncalled(most) + constants.get(
            "flux.core.engine.retries.MOST_OPEN", 5000
        ) + batch + chunk * (task.settings["concurrency"] + 1):
            raise self.broken(f"{forwards} forwards are open")

    def most_uncalled(self, most: int) -> int:
        """Forwards of records that were not called. `most`: records in memory."""
        return 0

    # ---- calls

    def begin(
        self, process: Process, message: Any, retries: int, batch: list[Call] | None = None, refused: bool = False
    ) -> Call:
        """`batch`: the calls that are made as one, to which this one is added. `refused`: too old to be made."""
        self.machine.touch()
        at, offset = TopicPartition(message.topic, message.partition), message.offset
        copy, epoch = self.copies[at, offset], self.epochs.get((process, at))
        if epoch is None or (epoch.ended and not self._was_taken(epoch, batch)):
            raise self.broken(f"{copy} is called after its assignment is gone")
        made = len(self.calls), copy, process, epoch, retries, message.attempt - refused
        call = Call(*made, refused=refused, batch=batch, began=self.machine.steps, began_at=self.machine.time)
        self.note(f"call {call.number} of {copy}{', too old' if refused else ''}", process)
        self.calls.append(call)
        if batch is not None:
            batch.append(call)
        if epoch.ended:
            self.gates.task_of(call).running += [] if refused or (batch and len(batch) > 1) else [call]
            return call
        if epoch.revoking is not None and not self._was_taken(epoch, batch):
            raise self.broken(f"{call} begins while the partition is given up")
        last, call.tries = epoch.called.get(offset), tries_before(self, epoch, offset)
        if offset not in epoch.delivered:
            raise self.broken(f"{call}: it was not delivered")
        if epoch.was_done(offset):
            raise self.broken(f"{call}: it is done by {epoch.restored}")
        if message.attempt != copy.attempts + 1 + call.tries:
            raise self.broken(f"{call} is told to be attempt {message.attempt}, after {call.tries} in place")
        ahead = max(process.offset, self.jumped.get(process, process.offset))
        if copy.stage not in (0, DEAD) and copy.due > (EPOCH + self.machine.time + ahead) * 1000:
            raise self.broken(f"{call} is called before it is due, {copy.due}")
        check_age(self, call)
        if last is not None:
            check_again(self, call, last)
        check_prompt(self, call)
        if refused and epoch.task.batched:
            epoch.left_out.append(call)  # before the calls of the same batch, which may precede it
        else:
            check_order(self, call)
            check_alone(self, call)
        if not refused and (batch is None or len(batch) == 1):
            self.gates.begin(call)
        self.counted["repeats"] += bool(copy.calls) and last is None
        epoch.called[offset] = call
        epoch.calls.append(call)
        copy.calls.append(call)
        return call

    def begin_batch(self, process: Process, messages: Sequence[Any], retries: int) -> list[Call]:
        batch: list[Call] = []
        for message in messages:
            self.begin(process, message, retries, batch)
        self.counted["batches"] += 1
        epoch = batch[0].epoch
        if not epoch.ended:
            for call in epoch.left_out:
                check_order(self, call)
            check_batch(self, batch)
        epoch.left_out.clear()
        return batch

    def refuse(self, process: Process, message: Any, retries: int) -> Call:
        """A record is too old to be called."""
        call = self.begin(process, message, retries, refused=True)
        self.end(call, "dead")
        return call

    def relieve(self, process: Process, message: Any, retries: int) -> Call:
        """A record of a paused name moves on without a call."""
        self.machine.touch()
        at, offset = TopicPartition(message.topic, message.partition), message.offset
        copy, epoch = self.copies[at, offset], self.epochs[process, at]
        call = Call(len(self.calls), copy, process, epoch, retries, message.attempt - 1)
        call.began, call.began_at = self.machine.steps, self.machine.time
        self.note(f"call {call.number} of {copy}, not made, as its name is paused", process)
        self.counted["moved on without a call"] += 1
        if self.gates.of(call).paused_at is None or copy.stage:
            raise self.broken(f"{copy} moves on without a call")
        last = epoch.called.get(offset)
        if last is not None:
            last.again = True
        check_order(self, call)
        for calls in (self.calls, epoch.calls, copy.calls):
            calls.append(call)
        epoch.called[offset] = call
        self._end(call, "next", None)
        return call

    def judged(self, process: Process, message: Any, outage: bool) -> None:
        """A call has failed: by an outage, or by its record's fault."""
        copy = self.copies[TopicPartition(message.topic, message.partition), message.offset]
        call = next(each for each in reversed(copy.calls) if each.process is process)
        if call.refused or call.outcome == "stop" or not by_share(call.epoch.task.settings):
            return
        if outage:
            self.note(f"call {call.number}: by an outage", process)
            call.outcome = "pause"
        self.gates.judged(call, outage)

    def place(self, epoch: Epoch, offset: int) -> tuple[int, int]:
        """Of a record in the order of its partition."""
        copy = self.copies[epoch.at, offset]
        return (copy.due if copy.stage else 0, offset)

    def due_at(self, copy: Copy) -> float:
        """The machine's time; before any, in the main topic."""
        return copy.due / 1000 - EPOCH if copy.stage else -1.0

    def patience(self, task: TaskPlan) -> float:
        """Seconds for which a record that could be called waits for others."""
        return task.settings["max_wait"] if task.batched else 0.0

    def slack(self, task: TaskPlan) -> float:
        """Seconds that a caller may be late: a batch's wait begins when its records are looked at, and those of keys
        that are held are looked at first."""
        return 1.5 if task.batched or task.settings.get("in_place_retries") else 0.3

    def is_stopping(self, process: Process) -> bool:
        return self.stopping(process) is not None

    def _was_taken(self, epoch: Epoch, batch: list[Call] | None = None) -> bool:
        """A caller that had taken a record before, and has not looked at it yet, is as one in a call."""
        epoch.begun_late += not batch
        if epoch.begun_late > epoch.task.settings["concurrency"]:
            return False
        if not epoch.ended:
            return True
        return self.machine.time - epoch.ended_at < 0.5 and (epoch.late or epoch.ended == "lost")

    def end(self, call: Call, outcome: str, after: float | None = None, pause: float | None = None) -> None:
        """`pause`: its seconds, where the outcome is one and the call knows."""
        self._end(call, outcome, after)
        judged = outcome in ("next", "dead") and by_share(call.epoch.task.settings)
        if not (call.refused or judged):
            self.gates.end(call, outcome == "pause", pause)

    def end_batch(
        self, calls: Sequence[Call], outcomes: Sequence[tuple[str, float | None]], pause: float | None
    ) -> None:
        """`outcomes`: of each call, with the seconds after which it is to be tried again, where it says."""
        for call, (outcome, after) in zip(calls, outcomes, strict=True):
            self._end(call, outcome, after)
        self.gates.end(calls[0], any(outcome == "pause" for outcome, _ in outcomes), pause)

    def _end(self, call: Call, outcome: str, after: float | None) -> None:
        self.machine.touch()
        self.note(f"call {call.number}: {outcome}", call.process)
        call.outcome, call.after = outcome, after
        call.ended = call.settled_at = self.machine.steps
        call.ended_at, call.ended_ms = self.machine.time, int(call.process.now() * 1000)
        settings = call.epoch.task.settings
        if outcome == "next" and settings.get("in_place_retries"):
            self.machine.at(self.machine.time + settings["in_place_wait"] * 2**call.tries, self.machine.touch)
        limit = settings.get("timeout")
        lasted = call.ended_at - call.began_at
        if limit and call.epoch.task.awaited and lasted > limit + 0.5 and call.process not in self.stalled:
            raise self.broken(f"{call} has lasted {lasted:.3f} s, and the time limit is {limit:g} s")

    def kills(self, call: Call) -> None:
        """A call is about to end its process, and its record is to be a dead letter in the end."""
        self.counted["kills"] += 1
        self._end(call, "dead", None)
        end = self.scenario.end  # before, commits may fail, and with them what would be known of a process
        times = sum(each.outcome == "dead" and each.began_at > end for each in call.copy.calls)
        if times > MOST_KILLS:
            raise self.broken(f"{call.copy} has ended {times} processes, and there is no fault any more")

    # ---- the end

    def undone(self) -> list[Copy]:
        """What has not ended as its outcomes say."""
        return [
            copy
            for copy in self.copies.values()
            if copy.stage != DEAD and not copy.void and not any(call.settled or call.perhaps for call in copy.calls)
        ]

    def check_end(self) -> None:
        undone = self.undone()
        if undone:
            raise self.broken(f"lost: {', '.join(map(str, undone[:5]))}")
        self.visible.check_end([record for log in self.cluster.topics[PRODUCTS].logs for record in log.settled()])
