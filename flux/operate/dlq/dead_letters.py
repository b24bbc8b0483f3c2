"""A dead letter: the record, and what its flux headers say."""

from __future__ import annotations

from functools import cached_property

from flux.core import flux_headers
from flux.core.message import Message
from flux.core.policy import Policy
from flux.core.ports import Record


class DeadLetter:
    """One record of a dead-letter topic. Times in milliseconds since the epoch. A text is empty where the record does
    not have it, such as one that the Ruby library wrote."""

    def __init__(self, message: Message) -> None:
        self.message = message

    @property
    def partition(self) -> int:
        return self.message.partition

    @property
    def offset(self) -> int:
        return self.message.offset

    @property
    def place(self) -> str:
        """`partition:offset`, as commands accept it."""
        return f"{self.partition}:{self.offset}"

    @property
    def written_at(self) -> int:
        """When it became a dead letter: the record's own timestamp."""
        return self.message.timestamp

    @property
    def attempts(self) -> int:
        """Calls, since its last replay."""
        return self.message.flux_headers.attempts

    @property
    def replays(self) -> int:
        return self.message.flux_headers.replays

    @property
    def first_failed_at(self) -> int | None:
        return self.message.flux_headers.first_failed_at

    @property
    def failed_at(self) -> int:
        """The last failure; where that is not known, when it was written."""
        text = self._text(flux_headers.FAILED_AT)
        return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else self.written_at

    @property
    def reason(self) -> str:
        return self._text(flux_headers.REASON)

    @property
    def error_type(self) -> str:
        return self._text(flux_headers.ERROR_TYPE)

    @property
    def error_message(self) -> str:
        return self._text(flux_headers.ERROR_MESSAGE)

    @property
    def error(self) -> str:
        """`type: message`, or the one of them that is known."""
        return ": ".join(part for part in (self.error_type, self.error_message) if part)

    @property
    def trace(self) -> str:
        return self._text(flux_headers.ERROR_TRACE)

    def _text(self, name: str) -> str:
        value = self._own.get(name)
        return "" if value is None else value.decode("utf-8", "replace")

    @cached_property
    def _own(self) -> dict[str, bytes | None]:
        return {name: value for name, value in self.message.headers if name.startswith(flux_headers.PREFIX)}


def dead_letter_of(record: Record, policy: Policy, now_ms: int) -> DeadLetter:
    message = Message.of(record, record.value(), flux_headers.of_main_topic())
    parsed = flux_headers.read(message.headers, policy.stages.dead, now_ms, int(policy.max_delay * 1000))
    message.place(parsed)
    return DeadLetter(message)
