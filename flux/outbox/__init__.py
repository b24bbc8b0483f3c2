"""Records and a database: `Outbox` writes records to Kafka if, and only if, a transaction is committed; `Guard` does a
record's work once."""

from flux.outbox.databases import open_store
from flux.outbox.guard import Guard
from flux.outbox.outbox import Outbox
from flux.outbox.relay import Relay

__all__ = ["Guard", "Outbox", "Relay", "open_store"]
