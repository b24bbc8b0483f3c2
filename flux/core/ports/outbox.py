"""The table of a transactional outbox, as the relay uses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs

from flux.core.errors import FluxError
from flux.core.ports.values import ProducerRecord


class StoreUnavailable(FluxError):
    """The database cannot be reached, or ended the connection. A retry may help."""


@attrs.frozen
class OutboxRow:
    """A record in the table. Rows with the same `key_hash` leave in the order of `id`. `partition_key`: places the
    record, as in `Producer.produce`."""

    id: int
    topic: str
    record: ProducerRecord = attrs.field(hash=False)
    partition_key: bytes | None
    key_hash: int


@attrs.frozen
class Excluded:
    """What is not taken now."""

    topics: tuple[str, ...] = ()
    key_hashes: tuple[int, ...] = ()


@attrs.frozen
class RefusedRow:
    """A row that Kafka refused, and why. `age`: seconds since it was written."""

    id: int
    topic: str
    key: bytes | None
    error: str
    age: float


@attrs.frozen
class OutboxStatus:
    """`rows` and `refused` are counted up to COUNTED. `oldest`: seconds since the oldest row was written; None if
    there is none. `examples`: the first of the refused rows."""

    rows: int
    oldest: float | None
    refused: int
    examples: Sequence[RefusedRow] = ()


COUNTED = 100_000
"""A count of many rows reads all of them."""


class OutboxStore(Protocol):
    """One connection to one table. Used by one thread. Methods raise StoreUnavailable, and ConfigurationError for what
    only the user can fix, such as a table that does not exist. After an error the next method connects again."""

    def take(self, excluded: Excluded, most: int, most_bytes: int) -> Sequence[OutboxRow]:
        """The oldest rows of some lanes, in the order of their ids: at most `most`, and one or more of at most
        `most_bytes` in all. No other relay takes rows of these lanes until `finish`, or until the database ends the
        connection. Rows of a key are a beginning of those that it has in the table, unless it is excluded."""
        ...

    def finish(self, done: Sequence[int], refused: Mapping[int, str]) -> None:
        """Deletes rows, and stores why others were refused; then other relays may take them. Called after each `take`
        that returned rows."""
        ...

    def status(self) -> OutboxStatus: ...
    def create(self) -> None:
        """Creates the table and its indexes if they are missing."""
        ...

    def close(self) -> None: ...
