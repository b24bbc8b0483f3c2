"""What is written to the next stage: for which call, with what in it, and how often."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flux.core.backoff import default_wait
from flux.core.errors import BrokerError, Fault
from flux.core.ports import TopicPartition
from simulation.machine import Process
from simulation.records import DEAD, Call, Copy

if TYPE_CHECKING:
    from simulation.truth import Truth

_TAG = re.compile(rb"#(\d+);")
"""Names a call: in its error, and in the keys of what it produces."""
_KEPT = (Fault.DENIED, Fault.UNKNOWN_TOPIC, Fault.OTHER)


class Hops:
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
        origin = next((each for each in self._truth.by_plan[plan.number] if each.stage == 0), None)
        assert origin is not None
        kept = [pair for pair in record._headers or () if not pair[0].startswith("flux-")]
        wanted = [pair for pair in plan.headers if not pair[0].startswith("flux-")]
        if (record.key(), record.value(), kept) != (origin.record.key(), origin.record.value(), wanted):
            raise self._truth.broken(f"{copy} has another key, value or headers than {origin}")
        told = tuple(headers.get(f"flux-origin-{name}") for name in ("topic", "partition", "offset"))
        true = (origin.at.topic.encode(), b"%d" % origin.at.partition, b"%d" % origin.offset)
        if told != true:
            raise self._truth.broken(f"{copy} says it came from {told}, not {true}")
        if copy.attempts != call.copy.attempts + 1:
            raise self._truth.broken(f"{copy} counts {copy.attempts} attempts after {call}")
        target = self.target(call, call.verdict == "dead")
        if copy.at.topic != target:
            raise self._truth.broken(f"{copy} was to go to {target}")
        if call.outcome == "stop":
            raise self._truth.broken(f"{call} was a failure of the process, and moved")
        count = len(self._truth.cluster.topics[copy.at.topic].logs)
        if copy.at.partition != call.copy.at.partition % count:
            raise self._truth.broken(f"{copy} is in another partition than {call}")
        if copy.stage != DEAD:
            self._check_due(copy, call)

    def _check_due(self, copy: Copy, call: Call) -> None:
        task, stage = self._truth.tasks[call.copy.at.topic.partition("-")[0]], copy.stage
        setting = task.settings["wait"]
        if call.after is not None:
            low = high = call.after
        elif setting is None:
            low, high = float(default_wait(stage, 0)), float(default_wait(stage, 29))
        else:
            low = high = setting[min(stage, len(setting)) - 1] if isinstance(setting, list) else setting
        written = copy.record.timestamp()[1]
        if not low * 1000 - 1 <= copy.due - written <= high * 1000 + 1:
            after = copy.due - written
            raise self._truth.broken(f"{copy} is due {after} ms after it was written, not {low} to {high} s")
        if copy.due < call.ended_ms + low * 1000 - 1 and call.process not in self._truth.jumped:
            raise self._truth.broken(f"{copy} is due before the wait is over")

    def call_of(self, record: Any) -> Call | None:
        """The call that a hop, or a produced record, belongs to."""
        headers = dict(record._headers or ())
        match = _TAG.search((headers.get("flux-error-type") or b"") + (headers.get("flux-error-message") or b""))
        if match:
            return self._truth.calls[int(match[1])]
        writer = self._truth.machine.current.process if self._truth.machine.current is not None else None
        failed_at = int(headers.get("flux-failed-at") or 0)
        found = self._without_details(record)
        found.sort(key=lambda call: (call.process is not writer, call.ended_ms != failed_at, call.hop == "acked"))
        return found[0] if found else None

    def _without_details(self, record: Any) -> list[Call]:
        """The calls that a hop may belong to which does not say."""
        plan = self._truth.plans[(record.value() or b"").partition(b" ")[0]]
        return [
            call
            for copy in self._truth.by_plan[plan.number]
            for call in copy.calls
            if call.verdict in ("next", "dead")
            and copy.stage != DEAD
            and self.target(call, call.verdict == "dead") == record.topic()
        ]

    def _alike(self, call: Call, record: Any) -> list[Call]:
        """When nothing in a hop tells which of several calls it belongs to: those."""
        if _TAG.search(b"".join(value or b"" for name, value in record._headers or () if "error" in name)):
            return []
        found = [each for each in self._without_details(record) if each.process is call.process]
        return found if len(found) > 1 else []

    def not_taken(self, topic: str, records: Sequence[Any]) -> None:
        """A client was given these, and took them not."""
        for record in records:
            if self._truth.stage_of(topic) is not None:
                call = self.call_of(_Given(topic, record))
                if call is not None and call.hop == "flying":
                    call.hop = "refused"

    def handed(self, process: Process, topic: str, records: Sequence[Any]) -> None:
        """A client was given these to write."""
        for record in records:
            known = self._truth.stage_of(topic)
            if known is None:
                self._products(record.key, "flying")
                continue
            call = self.call_of(_Given(topic, record))
            if call is None:
                raise self._truth.broken(f"{process.name} writes {record.value!r} to {topic} for no failed call")
            if _TAG.search(b"".join(value or b"" for name, value in record.headers if name.startswith("flux-error"))):
                if call.hop in ("flying", "acked"):
                    raise self._truth.broken(f"the hop of {call} is written again while {call.hop}")
                if call.epoch.ended and not self._was_under_way(call):
                    raise self._truth.broken(f"the hop of {call} is written after its assignment has ended")
                call.hop = "flying"

    def _was_under_way(self, call: Call) -> bool:
        """One hop may be on its way to the client at the very moment in which its partition goes."""
        epoch = call.epoch
        epoch.written_late += 1
        return epoch.written_late == 1 and self._truth.machine.time - epoch.ended_at < 0.5

    def answered(self, error: BrokerError | None, record: Any) -> None:
        """A client has told the end of a record."""
        known = self._truth.stage_of(record.topic())
        if known is None:
            self._products(record.key(), "acked" if error is None else "failed")
            return
        if record.at >= 0:
            copy = self._truth.copies[TopicPartition(record.topic(), record.partition()), record.at]
            call = copy.source
        else:
            call = self.call_of(record)
        assert call is not None
        if error is None:
            self._truth.note(f"the hop of {call} is acknowledged")
            copy.acked = True
            alike = self._alike(call, copy.record)
            for each in alike:
                each.perhaps = True
            if not alike:
                call.hop = "acked"
            call.settled_at = self._truth.machine.steps
        else:
            self._truth.note(f"the hop of {call} is refused: {error.fault.value}")
            if call.hop != "acked":
                call.hop = "refused"
            if error.fault in _KEPT and call.kept is None:
                call.kept = self._truth.machine.steps

    def _products(self, key: bytes | None, state: str) -> None:
        match = _TAG.search(key or b"")
        assert match
        assert key
        call = self._truth.calls[int(match[1])]
        self._truth.note(f"product {key.decode()} {state}")
        call.products[key] = state
        call.settled_at = self._truth.machine.steps


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
