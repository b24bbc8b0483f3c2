"""Errors that flux raises, by who can fix them.

`ConfigurationError`: the user; its message is one line that says what to do. `BrokerError`: the cluster; the adapter
translates its client's errors into it, and `fault` is the kind. `DeliveryError` and `BufferFull`: raised to users of a
producer. Any other exception from flux is a bug of flux.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import attrs


class FluxError(Exception):
    """The root of every error that flux raises."""


class ConfigurationError(FluxError):
    """Something the user wrote is wrong; the message is one line that says what to do."""


class Fault(enum.Enum):
    """Why the cluster did not do something, as far as flux reacts differently."""

    UNAVAILABLE = "unavailable"  # not reachable, timed out, leader moving: a retry may help
    TOO_LARGE = "too large"  # the record exceeds what the topic or the client takes
    UNKNOWN_TOPIC = "unknown topic"  # the topic or the partition does not exist
    DENIED = "denied"  # no permission
    LOGIN = "login refused"  # wrong credentials or certificate
    FENCED = "fenced"  # this member's generation is over, or another took its place
    METADATA = "metadata too large"  # the string stored with a committed offset is too long for the broker
    FATAL = "fatal"  # the client cannot go on
    OTHER = "other"  # refused for a reason that a retry does not fix


class BrokerError(FluxError):
    """The cluster, or its client, did not do what was requested."""

    def __init__(self, message: str, fault: Fault = Fault.OTHER) -> None:
        super().__init__(message)
        self.fault = fault

    @property
    def retriable(self) -> bool:
        """Whether the same request may succeed later although nobody fixes anything."""
        return self.fault is Fault.UNAVAILABLE


@attrs.frozen(repr=False)
class FailedRecord:
    """A record that could not be delivered, and why. Its repr does not show the value."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    error: Exception

    def __repr__(self) -> str:
        place = self.topic if self.partition is None else f"{self.topic}[{self.partition}]"
        return f"<record for {place}, key {self.key!r}: {self.error}>"


class DeliveryError(FluxError):
    """Records that were produced but not acknowledged. `failed` has all of them."""

    def __init__(self, failed: Sequence[FailedRecord]) -> None:
        self.failed = tuple(failed)
        shown = "; ".join(map(repr, self.failed[:3]))
        more = f"; and {len(self.failed) - 3} more" if len(self.failed) > 3 else ""
        super().__init__(f"{len(self.failed)} record(s) not delivered: {shown}{more}")


class WorkerFailed(FluxError):
    """A worker in a `with` block has ended although nobody stopped it. `__cause__`: why."""


class BufferFull(DeliveryError):
    """The producer's buffer is full, and the caller cannot wait because it runs in an event loop; or a task's call
    holds more than `max_queue_bytes`."""
