"""When a record of a retry stage is due, and how long a forwarded record waits in its next stage."""

from __future__ import annotations

from collections.abc import Sequence
from operator import le

from flux.core import flux_headers
from flux.core.backoff import default_wait
from flux.core.engine.assignment import Assignment
from flux.core.engine.commands import Level
from flux.core.engine.key_order import KeyOrder
from flux.core.engine.order_places import place_of_copy
from flux.core.engine.slices import Slice
from flux.core.error_text import brief
from flux.core.message import Message
from flux.core.monitoring.log_events import LogEvents
from flux.core.monitoring.stats import Stats
from flux.core.named_work import NamedWork
from flux.core.policy import Policy
from flux.core.stage import Role, Stage


def whole_ms(seconds: float) -> int:
    """Whole milliseconds, rounded down, but up by at most a microsecond, because a float is rarely exact."""
    return int(seconds * 1000 + 0.001)


class DueTimes:
    """Of one stage. Due times in milliseconds since the epoch."""

    __slots__ = ("_key_order", "_log_events", "_policy", "_stage", "_stats")

    def __init__(
        self, policy: Policy, stage: Stage, log_events: LogEvents, stats: Stats, key_order: KeyOrder | None = None
    ) -> None:
        self._policy = policy
        self._stage = stage
        self._log_events = log_events
        self._stats = stats
        self._key_order = key_order

    def timed(self, assignment: Assignment, piece: Slice, now_ms: int) -> tuple[Slice, int]:
        """The records of a polled slice in due order, and the bytes of their keys and values."""
        messages: list[Message] = []
        due_times: list[int] = []
        size = 0
        unread = flux_headers.UnreadHeaders(
            self._stage.number, now_ms, int(self._policy.max_delay * 1000), self._ignored
        )
        of, due_of = Message.of, unread.due
        for record in piece.records:
            value, key = record.value(), record.key()
            message = of(record, value, unread)
            size += len(value or b"") + len(key or b"")
            due = due_of(message.read_headers() or ())
            if due is None:
                due = self._due(message, assignment.jitter, now_ms)
                named = message.flux_headers.named
                if named is not None and self._stage.has_names:
                    due = self._named(named, assignment, message.offset, due, now_ms)
            if due > now_ms and self._key_order is not None:
                due = self._following(self._key_order, message, due, now_ms)
            due_times.append(due)
            messages.append(message)
        if all(map(le, due_times, due_times[1:])):
            return Slice(piece.records, piece.end, messages, due_times), size
        order = sorted(range(len(due_times)), key=due_times.__getitem__)
        records, ends = piece.records, list(map(piece.after, range(len(due_times))))
        return Slice(
            [records[index] for index in order],
            0,
            [messages[index] for index in order],
            [due_times[index] for index in order],
            [ends[index] for index in order],
        ), size

    def wait(self, target: Stage, after: float | None, jitter: int) -> float:
        """Seconds to wait in `target`. `after`: the wait that the call requested."""
        if target.role is Role.DEAD:
            return 0.0
        longest = self._policy.max_delay
        if after is None:
            return self._setting(target, jitter)
        if after > longest:
            self._log_events.add(
                Level.WARNING,
                f"Retry(after={after:g}) is longer than max_delay: clipped to {longest:g} s",
                kind="clipped",
            )
        return min(after, longest)

    def _due(self, message: Message, jitter: int, now_ms: int) -> int:
        """The due time of a record without a plain, valid header for it."""
        if not message.headers_readable:
            self._log_events.add(
                Level.WARNING,
                f"{message!r}: its headers cannot be read and are left out (logged once)",
                "headers",
                message,
            )
        due = message.flux_headers.due
        return self._from_timestamp(message, jitter, now_ms) if due is None else due

    def _following(self, key_order: KeyOrder, message: Message, due: int, now_ms: int) -> int:
        """A follower is due earlier than was written if what it follows is."""
        place = place_of_copy(message)
        earlier = None if place is None else key_order.due(*place)
        return due if earlier is None else min(due, max(earlier, now_ms))

    def _named(self, named: NamedWork, assignment: Assignment, offset: int, due: int, now_ms: int) -> int:
        """A record with a name has arrived. Returns its due time: what is void is out of the way at once."""
        self._stats.replaced += assignment.names.arrived(named, offset, due)
        return min(due, now_ms) if named.void else due

    def _ignored(self, message: Message, names: Sequence[str]) -> None:
        for name in names:
            self._log_events.add(
                Level.WARNING,
                f"{message!r}: header {name} is invalid and ignored (logged once)",
                name,
                message,
            )

    def _from_timestamp(self, message: Message, jitter: int, now_ms: int) -> int:
        """For a record without a due time (the Ruby library writes none): the stage's wait after its timestamp, or
        after now if the timestamp is missing or in the future."""
        written = message.timestamp
        if not 0 < written <= now_ms:
            written = now_ms
        return written + int(self._setting(self._stage, jitter) * 1000)

    def _setting(self, stage: Stage, jitter: int) -> float:
        try:
            return self._policy.wait(stage, jitter)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            wait = float(min(default_wait(stage.number, jitter), self._policy.max_delay))
            self._log_events.add(
                Level.ERROR, f"wait failed for stage {stage.number} ({brief(error)}): waiting {wait:g} s", "wait"
            )
            return wait
