"""`Outbox`: writes records to a table, in the transaction of the user's own work."""

from __future__ import annotations

import secrets
import time
import uuid
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from flux.config import AdapterChoice
from flux.core.errors import ConfigurationError
from flux.core.outbox.rows import ID_HEADER, dump_headers, key_hash, lane_of
from flux.core.type_variables import V
from flux.core.validation import MOST, plain
from flux.outbox.connections import execution
from flux.outbox.statements import checked_table, insert
from flux.producer import Producer
from flux.producing.encoding import HeadersLike, check_number, encode, encode_headers, encode_value
from flux.serde.parameters import assigned, parameter_of, serializer_of

_serializers: WeakKeyDictionary[type[Producer], tuple[object, Any]] = WeakKeyDictionary()
"""What a producer's serializer was made of, and the serializer: to make one may ask a schema registry."""


class Outbox:
    """A table of records that `flux relay` moves to Kafka. Call its methods on the class. For another table, subclass
    it with another `table`; create it as `flux relay --print-table` shows.

    A record is in the table if, and only if, the transaction is committed. It reaches Kafka at least once, as
    `Producer.produce` would have written it, with one more header, `outbox-id`, by which readers recognize a
    repetition. Records of one key keep their order."""

    table: ClassVar[str] = "flux_outbox"
    adapter: ClassVar[AdapterChoice] = None
    """The cluster to which this outbox's relay writes. Only for producers that have an `adapter` of their own, which
    must be the same one: a row names a topic and no cluster."""

    @classmethod
    def produce(
        cls,
        connection: Any,
        producer: type[Producer[V]] | Producer[V],
        value: V,
        *,
        key: str | bytes | None = None,
        headers: HeadersLike | None = None,
        partition_key: str | bytes | None = None,
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> str:
        """Writes a record to the table. `connection`: the Session or Connection of SQLAlchemy, the Connection of
        psycopg 3 or sqlite3, or `django.db.connection`, in whose transaction the work is done. The rest is as in
        `Producer.produce`; `timestamp` is by default the time of this call. Returns the record's outbox-id. Raises
        ConfigurationError, and what the connection raises."""
        how = execution(connection, f"{cls.__name__}.produce")
        if how.awaited:
            raise ConfigurationError(f"an async connection needs: await {cls.__name__}.aproduce(…)")
        id, row = cls._row(producer, value, key, headers, partition_key, partition, timestamp)
        how.run(lambda marks: insert(checked_table(cls.table), marks), row)
        return id

    @classmethod
    async def aproduce(
        cls,
        connection: Any,
        producer: type[Producer[V]] | Producer[V],
        value: V,
        *,
        key: str | bytes | None = None,
        headers: HeadersLike | None = None,
        partition_key: str | bytes | None = None,
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> str:
        """`produce` for an AsyncSession or AsyncConnection of SQLAlchemy, or an AsyncConnection of psycopg 3."""
        how = execution(connection, f"{cls.__name__}.aproduce")
        if not how.awaited:
            raise ConfigurationError(f"a connection that blocks needs: {cls.__name__}.produce(…)")
        id, row = cls._row(producer, value, key, headers, partition_key, partition, timestamp)
        await how.run(lambda marks: insert(checked_table(cls.table), marks), row)
        return id

    @classmethod
    def _row(
        cls,
        producer: type[Producer] | Producer,
        value: Any,
        key: str | bytes | None,
        headers: HeadersLike | None,
        partition_key: str | bytes | None,
        partition: int | None,
        timestamp: int | None,
    ) -> tuple[str, tuple[object, ...]]:
        """The record's outbox-id, and the values of `flux.outbox.statements.COLUMNS`."""
        made = producer if isinstance(producer, type) else type(producer)
        if not issubclass(made, Producer):
            raise ConfigurationError(f"{cls.__name__}: give a flux.Producer, not {type(producer).__name__}")
        topic = cls._topic(made)
        with_none = parameter_of(made, Producer).with_none if value is None else ""
        encoded = encode_value(value, _serializer(made, topic), made.__qualname__, with_none)
        key_data, placing = encode(key, "a key"), encode(partition_key, "partition_key")
        if placing is not None and partition is not None:
            raise ConfigurationError("give partition or partition_key, not both")
        if partition is not None:
            check_number(partition, "partition", 0, 2**31 - 1)
        if timestamp is None:
            timestamp = int(time.time() * 1000)
        check_number(timestamp, "timestamp (milliseconds since the epoch)", 1, MOST)
        id = str(uuid.uuid4())
        pairs = [*(() if headers is None else encode_headers(headers)), (ID_HEADER, id.encode())]
        hashed = key_hash(topic, key_data, placing, partition, secrets.randbits(64))
        row = (topic, key_data, encoded, dump_headers(pairs), partition, placing, timestamp, hashed, lane_of(hashed))
        return id, row

    @classmethod
    def _topic(cls, producer: type[Producer]) -> str:
        topic = plain(producer.topic)
        if not topic or not isinstance(topic, str):
            raise ConfigurationError(f'{producer.__qualname__} has no topic: give it a class attribute topic = "…"')
        if producer.adapter is not None and producer.adapter != cls.adapter:
            raise ConfigurationError(
                f"{producer.__qualname__} has an adapter of its own: use a subclass of Outbox with its own table and"
                " that adapter"
            )
        return topic


def _serializer(producer: type[Producer], topic: str) -> Any:
    made_of = (assigned(producer, "serializer"), producer.values, topic)
    known = _serializers.get(producer)
    if known is None or known[0] != made_of:
        known = _serializers[producer] = (made_of, serializer_of(producer, Producer, topic))
    return known[1]
