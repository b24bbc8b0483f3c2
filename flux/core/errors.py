"""What can go wrong, and whose fault it is.

`ConfigurationError` is the user's and says in one line what to do. `BrokerError` is the cluster's, translated by the
adapter at its edge; its `fault` says what kind. `DeliveryError` and `BufferFull` are what a producer's user hears.
Anything else that comes out of flux is a bug of flux.
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
    """What the cluster refused, as far as flux acts differently on it."""

    UNAVAILABLE = "unavailable"  # away, timed out, leader moving: trying again may help
    TOO_LARGE = "too large"  # the record exceeds what the topic or the client takes
    UNKNOWN_TOPIC = "unknown topic"  # the topic or the partition does not exist
    DENIED = "denied"  # no permission
    LOGIN = "login refused"  # wrong credentials or certificate
    FENCED = "fenced"  # this member's generation is over, or another took its place
    METADATA = "metadata too large"  # the string stored with a position is too long for the broker
    FATAL = "fatal"  # the client cannot go on
    OTHER = "other"  # refused for a reason that trying again will not mend


class BrokerError(FluxError):
    """The cluster, or the client on its behalf, did not do what was asked."""

    def __init__(self, message: str, fault: Fault = Fault.OTHER) -> None:
        super().__init__(message)
        self.fault = fault

    @property
    def retriable(self) -> bool:
        """Whether the same request may succeed later without anybody mending anything."""
        return self.fault is Fault.UNAVAILABLE


@attrs.frozen(repr=False)
class FailedRecord:
    """A record that could not be delivered: enough of it to find it, and why. The value is never printed."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    error: Exception

    def __repr__(self) -> str:
        place = self.topic if self.partition is None else f"{self.topic}[{self.partition}]"
        return f"<record for {place}, key {self.key!r}: {self.error}>"


class DeliveryError(FluxError):
    """Records that were produced and are not known to be on the cluster. `failed` has them all."""

    def __init__(self, failed: Sequence[FailedRecord]) -> None:
        self.failed = tuple(failed)
        shown = "; ".join(map(repr, self.failed[:3]))
        more = f"; and {len(self.failed) - 3} more" if len(self.failed) > 3 else ""
        super().__init__(f"{len(self.failed)} record(s) not delivered: {shown}{more}")


class BufferFull(DeliveryError):
    """The producer's buffer is full, and this caller may not wait (it runs in an event loop)."""
