"""The task that the worker processes load. It keeps books of its own, beside all that flux knows.

CHAOS is what it is to be, as JSON: `topic`, `group`, `out`, `books` (a directory), `slow` (number -> seconds), `tokens`
(how it logs in with some; null: it does not), and `settings`, the task's attributes.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import flux
from chaos import plan, tokens

CHAOS = json.loads(os.environ["CHAOS"])
SLOW = {int(number): float(seconds) for number, seconds in CHAOS["slow"].items()}


class Books:
    """Each call of this process, committed when it begins and before it ends. Only a machine's end could undo that, and
    that is not tested: so nothing is synchronised with the disk."""

    def __init__(self) -> None:
        path = Path(CHAOS["books"]) / f"{os.getpid()}-{time.monotonic_ns()}.db"
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = off")
        columns = "began, ended, number, stage, partition, offset, key, due, step"
        self._db.execute(f"create table calls (id integer primary key, {columns})")

    def begin(self, number: int, message: flux.Message) -> int:
        due = int(message.headers.get("flux-due") or 0) if message.stage else 0
        row = (time.monotonic_ns(), number, message.stage, message.partition, message.offset, message.key, due)
        with self._lock:
            into = "insert into calls (began, number, stage, partition, offset, key, due) values (?, ?, ?, ?, ?, ?, ?)"
            return self._db.execute(into, row).lastrowid or 0

    def end(self, call: int, step: str) -> None:
        with self._lock:
            self._db.execute("update calls set ended = ?, step = ? where id = ?", (time.monotonic_ns(), step, call))


ADAPTER = tokens.adapter(**CHAOS["tokens"]) if CHAOS["tokens"] else None


class Out(flux.Producer):
    topic = CHAOS["out"]
    adapter = ADAPTER


class Broken(Exception):
    """What the plan wants."""


class _Kept(flux.Task):
    topic = CHAOS["topic"]
    group_id = CHAOS["group"]
    adapter = ADAPTER

    def setup(self) -> None:
        self.books = Books()

    def conclude(self, call: int, number: int, stage: int) -> None:
        step = plan.step(number, stage)
        if step == "done" and plan.echoes(number):
            Out.produce(b"%d" % number, key=plan.key(number))
        self.books.end(call, step)
        if step == "fail":
            raise Broken(f"record {number} fails in stage {stage}")
        if step == "reject":
            raise flux.Reject(f"record {number} is refused in stage {stage}")
        if step == "again":
            raise flux.Retry(after=0.3)


class Work(_Kept):
    def call(self, message: flux.Message) -> None:
        number = plan.number_of(message.value)
        call = self.books.begin(number, message)
        seconds = SLOW.get(number, plan.seconds(number))
        if seconds:
            time.sleep(seconds)
        self.conclude(call, number, message.stage)


class AsyncWork(_Kept):
    async def call(self, message: flux.Message) -> Any:
        number = plan.number_of(message.value)
        call = self.books.begin(number, message)
        seconds = SLOW.get(number, plan.seconds(number))
        if seconds:
            await asyncio.sleep(seconds)
        self.conclude(call, number, message.stage)


for _name, _value in CHAOS["settings"].items():
    setattr(_Kept, _name, _value)
