"""The string beside a position, as both clients can read it: confluent-kafka ends its own with a NUL, and reads beyond
the end of one that has none."""

from __future__ import annotations

_END = "\0"


def ended(metadata: str) -> str:
    """As it is written."""
    return metadata + _END if metadata else ""


def unended(metadata: str | None) -> str:
    """What was meant by whichever client."""
    return (metadata or "").rstrip(_END)
