"""The task that the worker processes load. It keeps books of its own, beside all that flux knows.

CHAOS is what it is to be, as JSON: `topic`, `group`, `out`, `books` (a directory), `slow` (number -> seconds), `tokens`
(how it logs in with some; null: it does not), and `settings`, the task's attributes.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

from proof.history.events import Began, Ended, Event, line, now

import flux
from chaos import plan, tokens

CHAOS = json.loads(os.environ["CHAOS"])
SLOW = {int(number): float(seconds) for number, seconds in CHAOS["slow"].items()}


class Books:
    """Each call of this process, written when it begins and before it ends. What is written outlives the process."""

    def __init__(self) -> None:
        self._file = (Path(CHAOS["books"]) / f"{os.getpid()}-{time.monotonic_ns()}.jsonl").open("ab", buffering=0)
        self._calls = itertools.count()

    def _write(self, event: Event) -> None:
        self._file.write(line(event).encode())

    def begin(self, number: int, message: flux.Message) -> int:
        due = int(message.headers.get("flux-due") or 0) if message.stage else 0
        key = None if message.key is None else message.key.decode()
        call = next(self._calls)
        place = message.stage, message.partition, message.offset
        self._write(Began(call, os.getpid(), number, *place, key, due, now()))
        return call

    def end(self, call: int, number: int, stage: int) -> None:
        step, target, after = plan.step(number, stage), plan.next_stage(number, stage), plan.after(number, stage)
        self._write(Ended(call, os.getpid(), step, target, after, plan.outputs(number, stage), now()))


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
        if plan.outputs(number, stage):
            Out.produce(b"%d" % number, key=plan.key(number))
        self.books.end(call, number, stage)
        if step == "fail":
            raise Broken(f"record {number} fails in stage {stage}")
        if step == "reject":
            raise flux.Reject(f"record {number} is refused in stage {stage}")
        if step == "again":
            raise flux.Retry(after=plan.AGAIN)


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
