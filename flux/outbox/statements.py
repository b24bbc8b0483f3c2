"""The SQL of the outbox, for PostgreSQL and SQLite."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

import attrs

from flux.core.errors import ConfigurationError
from flux.core.ports.outbox import COUNTED, Excluded
from flux.core.validation import plain, shown

Dialect = Literal["postgresql", "sqlite"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*\.)?[A-Za-z_][A-Za-z0-9_]*\Z")

COLUMNS = ("topic", "key", "value", "headers", "partition", "partition_key", "timestamp_ms", "key_hash", "lane")
"""Of a new row; the others have defaults."""

_TYPES = {
    "postgresql": {
        "id": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "bytes": "BYTEA",
        "created_at": "TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()",
    },
    "sqlite": {
        "id": "INTEGER PRIMARY KEY AUTOINCREMENT",
        "bytes": "BLOB",
        "created_at": "TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))",
    },
}
_AGE = {
    "postgresql": "EXTRACT(EPOCH FROM clock_timestamp() - created_at)",
    "sqlite": "(julianday('now') - julianday(created_at)) * 86400",
}


def checked_table(name: object) -> str:
    """Raises ConfigurationError for what is no name of a table."""
    name = plain(name)
    if not isinstance(name, str) or not _NAME.match(name):
        raise ConfigurationError(f"{shown(name)} is no table's name: give letters, digits and _, as in flux_outbox")
    return name


def create_outbox(table: str, dialect: Dialect) -> list[str]:
    """The statements that create the table and its indexes where they are missing."""
    types = _TYPES[dialect]
    index = table.rpartition(".")[2]
    return [
        f"""\
CREATE TABLE IF NOT EXISTS {table} (
    id {types["id"]},
    topic TEXT NOT NULL,
    key {types["bytes"]},
    value {types["bytes"]},
    headers TEXT NOT NULL,            -- JSON: [[name, value], …]
    partition INTEGER,                -- where the producer names one
    partition_key {types["bytes"]},
    timestamp_ms BIGINT NOT NULL,
    key_hash BIGINT NOT NULL,         -- rows with the same one leave in the order of id
    lane INTEGER NOT NULL,            -- what one relay takes at a time
    created_at {types["created_at"]},
    error TEXT                        -- why Kafka refused the row
)""",
        f"CREATE INDEX IF NOT EXISTS {index}_lane ON {table} (lane, id)",
        f"CREATE INDEX IF NOT EXISTS {index}_refused ON {table} (id) WHERE error IS NOT NULL",
    ]


def insert(table: str, marks: Sequence[str]) -> str:
    """`marks`: the parameters of COLUMNS, as the driver writes them."""
    return f"INSERT INTO {table} ({', '.join(COLUMNS)}) VALUES ({', '.join(marks)})"


@attrs.frozen
class Statements:
    """`mark`: a parameter, as the driver writes it."""

    table: str
    dialect: Dialect
    mark: str

    def take(self, lanes: Sequence[int], excluded: Excluded, most: int, most_bytes: int) -> tuple[str, list[object]]:
        """The oldest rows of these lanes. Their sizes are added up without reading the values."""
        where, parameters = self._where(lanes, excluded)
        return (
            f"""\
SELECT id, topic, key, value, headers, partition, partition_key, timestamp_ms, key_hash
FROM (
    SELECT oldest.*, SUM(size) OVER (ORDER BY id) - size AS before
    FROM (
        SELECT *, coalesce(length(key), 0) + coalesce(length(value), 0) + length(headers) AS size
        FROM {self.table}
        WHERE {where}
        ORDER BY id
        LIMIT {most}
    ) AS oldest
) AS counted
WHERE before < {most_bytes}
ORDER BY id""",
            parameters,
        )

    def _where(self, lanes: Sequence[int], excluded: Excluded) -> tuple[str, list[object]]:
        conditions = [f"lane IN ({self.marks(lanes)})"]
        for column, values in (("topic", excluded.topics), ("key_hash", excluded.key_hashes)):
            if values:
                conditions.append(f"{column} NOT IN ({self.marks(values)})")
        return " AND ".join(conditions), [*lanes, *excluded.topics, *excluded.key_hashes]

    def marks(self, values: Sequence[object]) -> str:
        return ", ".join([self.mark] * len(values))

    def delete(self, ids: Sequence[int]) -> str:
        return f"DELETE FROM {self.table} WHERE id IN ({self.marks(ids)})"

    @property
    def refuse(self) -> str:
        return f"UPDATE {self.table} SET error = {self.mark} WHERE id = {self.mark}"

    @property
    def oldest(self) -> str:
        return f"SELECT {_AGE[self.dialect]} FROM {self.table} ORDER BY id LIMIT 1"

    def count(self, condition: str = "") -> str:
        return f"SELECT count(*) FROM (SELECT 1 FROM {self.table} {condition} LIMIT {COUNTED}) AS counted"

    @property
    def examples(self) -> str:
        return (
            f"SELECT id, topic, key, error, {_AGE[self.dialect]} FROM {self.table}"
            " WHERE error IS NOT NULL ORDER BY id LIMIT 20"
        )


def create_guard(table: str, dialect: Dialect) -> str:
    """The statement that creates the table of a Guard where it is missing."""
    return f"""\
CREATE TABLE IF NOT EXISTS {table} (
    name TEXT NOT NULL,
    id TEXT NOT NULL,
    created_at {_TYPES[dialect]["created_at"]},
    PRIMARY KEY (name, id)
)"""


def forget_guarded(table: str, dialect: Dialect, name: str, seconds: str) -> str:
    """`name`, `seconds`: the parameters, as the driver writes them."""
    return f"DELETE FROM {table} WHERE name = {name} AND {_AGE[dialect]} > {seconds}"
