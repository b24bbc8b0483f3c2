"""A transactional outbox: records that are written to Kafka if, and only if, a database transaction is committed."""

from flux.outbox.databases import open_store
from flux.outbox.outbox import Outbox
from flux.outbox.relay import Relay

__all__ = ["Outbox", "Relay", "open_store"]
