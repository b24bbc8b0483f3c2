"""Copies the changes of one database into another one: for each row, the newest state must win.

A change that fails moves to a retry topic. Later changes of the same row follow it and are written after it
(`retry_order`), while the changes of other rows go on. A change that can never be written stops its row, and no other
one, until somebody decides (`on_dead`). Try it against a Kafka at localhost:9092:

    export FLUX_ADAPTER=confluent://localhost:9092
    flux process --load examples/change_data.py --create-topics
    echo 'ada|{"op": "u", "after": {"cents": 1999}}' | flux produce shop.accounts --key-separator '|'
    flux status --load examples/change_data.py
"""

from __future__ import annotations

import sqlite3
import threading
from typing import Any

import flux

SCHEMA = "CREATE TABLE IF NOT EXISTS accounts (id TEXT PRIMARY KEY, cents INTEGER NOT NULL CHECK (cents >= 0))"


class Table:
    """The accounts in SQLite. One connection and a lock serve all threads: SQLite has one writer at a time anyway."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False)
        self._connection.execute(SCHEMA)
        self._lock = threading.Lock()

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, self._connection:
            return self._connection.execute(statement, values).fetchall()

    def close(self) -> None:
        self._connection.close()


class CopyAccounts(flux.Task[dict[str, Any]]):
    topic = "shop.accounts"
    group_id = "reporting"
    retries = 10
    retry_order = "key"
    on_dead = "hold"
    pause_on = (sqlite3.OperationalError,)  # the file is locked, or the disk is full: no change is at fault

    def setup(self) -> None:
        self.table = Table("accounts.sqlite")

    def call(self, message: flux.Message[dict[str, Any]]) -> None:
        account, change = (message.key or b"").decode(), message.value
        if change["op"] == "d":
            self.table.execute("DELETE FROM accounts WHERE id = ?", account)
            return
        self.table.execute(
            "INSERT INTO accounts VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET cents = excluded.cents",
            account,
            change["after"]["cents"],
        )

    def close(self) -> None:
        self.table.close()
