"""What is written to the next stage: for which call, with what in it, and how often."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flux.core.backoff import default_wait
from flux.core.errors import BrokerError, Fault
from flux.core.ports import ProducerRecord, TopicPartition
from simulation.machine import EPOCH, Process
from simulation.records import DEAD, SENT, Call, Copy, is_own
from simulation.scenario import RecordPlan
from simulation.tries import expires_before, moved_early

if TYPE_CHECKING:
    from simulation.truth import Truth

_TAG = re.compile(rb"([#%])(\d+);")
"""Names a call: in its error, and in the keys of what it produces; with %, the first call of a batch that failed as
one."""
_KEPT = (Fault.DENIED, Fault.UNKNOWN_TOPIC, Fault.OTHER)


def is_enqueued(headers: dict[str, bytes | None]) -> bool:
    """Whether a record of a retry topic was written by an application."""
    return "flux-origin-topic" not in headers


class Forwards:
    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    def target(self, call: Call, dead: bool) -> str:
        at = call.copy
        task, stage = self._truth.stage_of(at.at.topic) or (None, 0)
        assert task is not None
        if dead or stage >= call.retries:
            return f"{task.topic}-{task.group}-dlq"
        return f"{task.topic}-{task.group}-try-{stage + 1}"

    def check(self, copy: Copy, headers: dict[str, bytes | None]) -> None:
        record, plan = copy.record, copy.plan
        call = copy.source = self.call_of(record)
        if call is None:
            raise self._truth.broken(f"{copy} was written for no failed call")
        origin = copy.root
        kept = [pair for pair in record._headers or () if not pair[0].startswith("flux-")]
        wanted = [pair for pair in plan.headers if not pair[0].startswith("flux-")]
        if (record.key(), record.value(), kept) != (origin.record.key(), origin.record.value(), wanted):
            raise self._truth.broken(f"{copy} has another key, value or headers than {origin}")
        told, true = _told(headers), _origin(copy)
        if told != true:
            raise self._truth.broken(f"{copy} says it came from {told}, not {true}")
        if copy.born != origin.born:
            raise self._truth.broken(f"{copy} says its work began at {copy.born}, not {origin.born}")
        if copy.attempts != call.attempt:
            raise self._truth.broken(f"{copy} counts {copy.attempts} attempts after {call}, the {call.attempt}th")
        if call.verdict not in ("next", "dead"):
            raise self._truth.broken(f"{call} has ended as {call.verdict or 'nothing'}, and moved")
        failed_at = int(headers.get("flux-failed-at") or 0)
        if not moved_early(self._truth, call, failed_at):
            raise self._truth.broken(f"{call} moved although it could be tried in place")
        self._check_target(copy, call, headers.get("flux-reason"), failed_at)
        count = len(self._truth.cluster.topics[copy.at.topic].logs)
        if copy.at.partition != call.copy.at.partition % count:
            raise self._truth.broken(f"{copy} is in another partition than {call}")
        if copy.stage != DEAD:
            self._check_due(copy, call)

    def _check_target(self, copy: Copy, call: Call, reason: bytes | None, failed_at: int) -> None:
        settings = call.epoch.task.settings
        target, usual = copy.at.topic, self.target(call, call.verdict == "dead")
        if reason == b"expired":
            if target != self.target(call, True):
                raise self._truth.broken(f"{copy} has expired, and is no dead letter")
            longest = 0.0 if call.refused else self._waits(call, call.copy.stage + 1)[1]
            too_old = expires_before(settings, call, failed_at + longest * 1000 + 1)
            if not too_old or not (call.refused or call.verdict == "next"):
                raise self._truth.broken(f"{copy} is said to have expired, and has not")
            return
        if reason == b"crashed" and (call.copy.at, call.copy.offset) in self._truth.blamed:
            return
        if (reason == b"crashed") is not call.copy.plan.kills:
            raise self._truth.broken(f"{copy}: its reason is {reason!r}")
        if call.refused:
            raise self._truth.broken(f"{copy} was too old for a call, and its reason is {reason!r}")
        if target != usual:
            raise self._truth.broken(f"{copy} was to go to {usual}")
        written = copy.record.timestamp()[1]
        if copy.stage != DEAD and expires_before(settings, call, failed_at + copy.due - written - 1):
            raise self._truth.broken(f"{copy} waits longer than its work may take")

    def check_enqueued(self, copy: Copy, headers: dict[str, bytes | None]) -> None:
        plan, task = copy.plan, self._truth.tasks[copy.at.topic.partition("-")[0]]
        if plan.delay is None or copy.at.topic != f"{task.topic}-{task.group}-try-1":
            raise self._truth.broken(f"{copy} was not to be enqueued there")
        kept = tuple(pair for pair in copy.record._headers or () if not pair[0].startswith("flux-"))
        if (copy.record.key(), kept, copy.attempts) != (plan.key, plan.headers, 0):
            raise self._truth.broken(f"{copy} is not as it was enqueued")
        given = self._truth.enqueued_at[plan.number] + plan.delay
        latest = max(given, copy.stored_at + EPOCH)
        if not given * 1000 - 1 <= copy.due <= latest * 1000 + 2 or copy.born != copy.due:
            raise self._truth.broken(f"{copy} is due at {copy.due}, and was to be at {given:.3f} s")

    def _waits(self, call: Call, stage: int) -> tuple[float, float]:
        """The shortest and the longest wait in a stage after a call, in seconds."""
        setting = call.epoch.task.settings["wait"]
        if call.after is not None:
            return call.after, call.after
        if setting is None:
            return float(default_wait(stage, 0)), float(default_wait(stage, 29))
        wait = setting[min(stage, len(setting)) - 1] if isinstance(setting, list) else setting
        return wait, wait

    def _check_due(self, copy: Copy, call: Call) -> None:
        low, high = self._waits(call, copy.stage)
        written = copy.record.timestamp()[1]
        if not low * 1000 - 1 <= copy.due - written <= high * 1000 + 1:
            after = copy.due - written
            raise self._truth.broken(f"{copy} is due {after} ms after it was written, not {low} to {high} s")
        if copy.due < call.ended_ms + low * 1000 - 1 and call.process not in self._truth.jumped:
            raise self._truth.broken(f"{copy} is due before the wait is over")

    def call_of(self, record: Any) -> Call | None:
        """The call that a forwarded copy, or a produced record, belongs to."""
        headers = dict(record._headers or ())
        named = self._named(record)
        if named is not None:
            return named
        writer = self._truth.machine.current.process if self._truth.machine.current is not None else None
        failed_at, attempts = int(headers.get("flux-failed-at") or 0), int(headers.get("flux-attempts") or 0)
        found = self._without_details(record)
        found.sort(
            key=lambda call: (
                call.process is not writer,
                _origin(call.copy) != _told(headers),
                call.attempt != attempts,
                call.ended_ms != failed_at,
                call.forward == "acked",
            )
        )
        return found[0] if found else None

    def _named(self, record: Any) -> Call | None:
        """The call that the error in a forwarded copy names."""
        headers, calls = dict(record._headers or ()), self._truth.calls
        own = _TAG.search(headers.get("flux-error-type") or b"")
        match = own or _TAG.search(headers.get("flux-error-message") or b"")
        if match is None:
            return None
        call = calls[int(match[2])]
        if call.batch is None or (own and match[1] == b"#"):
            return call
        # its batch has failed as one, or what one record of it produced was not delivered
        number = self._plan_of(record).number
        found = [each for each in call.batch if each.copy.plan.number == number]
        return found[0] if len(found) == 1 else None  # work that was written twice may be in one batch twice

    def _plan_of(self, record: Any) -> RecordPlan:
        return self._truth.plans[(record.value() or b"").partition(b" ")[0]]

    def _without_details(self, record: Any) -> list[Call]:
        """The calls that a forwarded copy may belong to which does not say."""
        plan = self._plan_of(record)
        reason = dict(record._headers or ()).get("flux-reason")
        return [
            call
            for copy in self._truth.by_plan[plan.number]
            for call in copy.calls
            if call.verdict in ("next", "dead")
            and copy.stage != DEAD
            and not call.superseded
            and (reason == b"expired" or not call.refused)
            and self.target(call, call.verdict == "dead" or reason == b"expired") == record.topic()
        ]

    def alike(self, call: Call, record: Any) -> list[Call]:
        """When nothing in a forwarded copy tells which of several calls it belongs to: those."""
        if self._named(record) is not None:
            return []
        found = [each for each in self._without_details(record) if each.process is call.process]
        return found if len(found) > 1 else []

    def not_taken(self, topic: str, records: Sequence[Any]) -> None:
        """A client was given these, and took them not."""
        for record in records:
            if self._truth.stage_of(topic) is not None and not is_enqueued(dict(record.headers)):
                call = self.call_of(_Given(topic, record))
                if call is not None and call.forward == "flying":
                    call.forward = "refused"

    def handed(self, process: Process, topic: str, records: Sequence[Any]) -> None:
        """A client was given these to write."""
        for record in records:
            known = self._truth.stage_of(topic)
            if known is None:
                self.mark_product(record.key, "flying")
                self.check_product(process, record.key)
                if self.tagged(record.key).epoch.task.settings.get("exactly_once"):
                    raise self._truth.broken(f"{record.key!r} is written outside of a transaction")
                continue
            if is_enqueued(dict(record.headers)) and self._plan_of(_Given(topic, record)).delay is not None:
                continue
            call = self.given(process, topic, record)
            if call.epoch.task.settings.get("exactly_once"):
                raise self._truth.broken(f"the forward of {call} is written outside of a transaction")
            if self._named(_Given(topic, record)) is not None:
                if call.forward in ("flying", "acked"):
                    raise self._truth.broken(f"the forward of {call} is written again while {call.forward}")
                if call.epoch.ended and not self._was_under_way(call):
                    raise self._truth.broken(f"the forward of {call} is written after its assignment has ended")
                call.forward = "flying"

    def given(self, process: Process | None, topic: str, record: ProducerRecord) -> Call:
        """The call of a forwarded copy that a client was given."""
        given = _Given(topic, record)
        call = self.call_of(given)
        if call is None:
            name = "" if process is None else process.name
            raise self._truth.broken(f"{name} writes {record.value!r} to {topic} for no failed call")
        if self._named(given) is not None and call.superseded:
            raise self._truth.broken(f"{call} was tried again in place, and moves")
        return call

    def tagged(self, key: bytes | None) -> Call:
        """The call that a product's key names."""
        match = _TAG.search(key or b"")
        assert match
        return self._truth.calls[int(match[2])]

    def without_room(self, records: Sequence[ProducerRecord]) -> None:
        """A call has returned, and its products got no room."""
        for record in records:
            self.mark_product(record.key, "failed")

    def check_product(self, process: Process, key: bytes) -> None:
        """What is produced and not sent leaves only when its call has returned."""
        call = self.tagged(key)
        own = call.batch is None or is_own(key, call)
        if not key.endswith(SENT) and not any(each.outcome == "done" for each in ([call] if own else call.batch or ())):
            raise self._truth.broken(f"{process.name} writes {key!r}, and {call} is {call.outcome or 'running'}")

    def _was_under_way(self, call: Call) -> bool:
        """One forwarded copy may be on its way to the client at the very moment in which its partition goes."""
        epoch = call.epoch
        epoch.written_late += 1
        return epoch.written_late == 1 and self._truth.machine.time - epoch.ended_at < 0.5

    def any_flying(self, process: Process) -> bool:
        """Whether any forwarded copy of a process may still be under way."""
        return any(
            call.process is process and call.verdict in ("next", "dead", "") and not call.settled and not call.again
            for call in self._truth.calls
        )

    def answered(self, error: BrokerError | None, record: Any) -> None:
        """A client has told the end of a record."""
        known = self._truth.stage_of(record.topic())
        if known is None:
            self.mark_product(record.key(), "acked" if error is None else "failed")
            return
        if record.at >= 0:
            copy = self._truth.copies[TopicPartition(record.topic(), record.partition()), record.at]
            call = copy.source
            if call is None:
                return
        elif is_enqueued(dict(record._headers or ())):
            return
        else:
            call = self.call_of(record)
        assert call is not None
        if error is None:
            self._truth.note(f"the forward of {call} is acknowledged")
            copy.acked = True
            alike = self.alike(call, copy.record)
            for each in alike:
                each.perhaps = True
            if not alike:
                call.forward = "acked"
            call.settled_at = self._truth.machine.steps
        else:
            self.refused(call, error)

    def refused(self, call: Call, error: BrokerError) -> None:
        self._truth.note(f"the forward of {call} is refused: {error.fault.value}")
        if call.forward != "acked":
            call.forward = "refused"
        if error.fault in _KEPT and call.kept is None:
            call.kept = self._truth.machine.steps

    def mark_product(self, key: bytes | None, state: str) -> None:
        assert key
        call = self.tagged(key)
        self._truth.note(f"product {key.decode()} {state}")
        for each in call.batch or (call,):
            each.products[key] = state
            each.settled_at = self._truth.machine.steps


def _origin(copy: Copy) -> tuple[bytes | None, ...]:
    root = copy.root
    return root.at.topic.encode(), b"%d" % root.at.partition, b"%d" % root.offset


def _told(headers: dict[str, bytes | None]) -> tuple[bytes | None, ...]:
    return tuple(headers.get(f"flux-origin-{name}") for name in ("topic", "partition", "offset"))


class _Given:
    """An ProducerRecord as a record."""

    def __init__(self, topic: str, outgoing: Any) -> None:
        self._topic = topic
        self._outgoing = outgoing
        self._headers = outgoing.headers

    def topic(self) -> str:
        return self._topic

    def value(self) -> bytes | None:
        return self._outgoing.value  # type: ignore[no-any-return]
