"""A process of the soak: `python -m proof.soak.work worker|guest|fast`; SOAK is its JSON, see `Given`.

`worker` runs until SIGTERM. `guest` starts a worker, stops it when it has had partitions for a moment, and does so
again and again in one process; after each it writes its memory in use. `fast` is a worker whose handler does nothing.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

import attrs

import flux
from proof.soak.marks import Marks
from proof.soak.memory import in_use

FAILS, REFUSED, PRODUCES = 20, 500, 10
"""One record of as many fails once, is a dead letter until it is replayed, produces another record."""
_HELD = 0.5  # seconds that a guest keeps its partitions
_PATIENCE = 10.0
_PAUSE = 0.3


@attrs.frozen
class Given:
    topic: str
    group: str
    out: str
    adapter: str
    marks: str
    report: str

    @property
    def is_async(self) -> bool:
        return self.adapter.startswith("aiokafka")


def guest_report(given: Given) -> str:
    return f"{given.report}-guest"


class Watch(flux.Hooks):
    """Counts how often partitions came and went."""

    def __init__(self) -> None:
        self.moves = 0
        self.assigned = threading.Event()

    def on_assigned(self, where: flux.StageInfo, partitions: Any) -> None:
        self.moves += 1
        if where.stage == 0 and partitions:
            self.assigned.set()

    def on_revoked(self, where: flux.StageInfo, partitions: Any) -> None:
        self.moves += 1


def task_of(given: Given, marks: Marks, latencies: list[float], watch: Watch) -> type[flux.Task]:
    class Out(flux.Producer):
        topic = given.out
        adapter = given.adapter

    def work(message: flux.Message) -> None:
        written, sent = message.value.split()
        number = int(written)
        if message.stage == 0 and message.attempt == 1:
            latencies.append(time.time() - int(sent) / 1e9)
        if number % FAILS == 0 and message.stage == 0:
            raise ValueError("fails once")
        if number % REFUSED == 7 and not marks.was_refused(number):
            marks.refused(number)
            raise flux.Reject("until it is replayed")
        if number % PRODUCES == 0:
            Out.produce(b"%d" % number)
        marks.succeeded(number)

    class Soak(flux.Task):
        topic = given.topic
        group_id = given.group
        retries = 5  # six groups that rebalance
        wait = 1
        hooks = (watch,)

    async def call_async(self: Soak, message: flux.Message) -> None:
        work(message)

    def call(self: Soak, message: flux.Message) -> None:
        work(message)

    setattr(Soak, "call", call_async if given.is_async else call)  # noqa: B010  # a method of one of two kinds
    return Soak


def fast_task_of(given: Given, watch: Watch) -> type[flux.Task]:
    class Fast(flux.Task):
        topic = given.topic
        group_id = given.group
        retries = 0
        hooks = (watch,)

    async def call_async(self: Fast, message: flux.Message) -> None:
        message.value  # noqa: B018

    def call(self: Fast, message: flux.Message) -> None:
        message.value  # noqa: B018

    setattr(Fast, "call", call_async if given.is_async else call)  # noqa: B010  # as above
    return Fast


def _report(
    worker: flux.Worker, file: IO[str], latencies: list[float], watch: Watch, marks: Marks, counts: bool
) -> None:
    """A line a second. `counts`: `marks.done` follows the calls, five times as often."""
    turn = 0
    while True:
        time.sleep(0.2)
        stats = list(worker.stats().values())
        done = sum(each.done for each in stats)
        if counts:
            marks.done = done
        turn += 1
        if turn % 5:
            continue
        taken = sorted(latencies[:])
        del latencies[: len(taken)]
        line = {
            "calls": done + sum(each.failed for each in stats),
            "failures": sum(each.failed for each in stats),
            "moves": watch.moves,
            "p50": taken[len(taken) // 2] * 1000 if taken else None,
            "p99": taken[len(taken) * 99 // 100] * 1000 if taken else None,
        }
        file.write(json.dumps(line) + "\n")
        file.flush()


def _work(given: Given, marks: Marks, fast: bool) -> int:
    latencies: list[float] = []
    watch = Watch()
    task = fast_task_of(given, watch) if fast else task_of(given, marks, latencies, watch)
    worker = flux.Worker(task, adapter=given.adapter, create_topics=True)
    with Path(given.report).open("a") as file:
        arguments = (worker, file, latencies, watch, marks, fast)
        threading.Thread(target=_report, args=arguments, daemon=True).start()
        return worker.run()


def _visit(given: Given, marks: Marks) -> int:
    ended = threading.Event()
    current: list[flux.Worker] = []

    def end(number: int, frame: object) -> None:
        ended.set()
        for worker in current:
            worker.stop()

    def leave() -> None:
        watch.assigned.wait(_PATIENCE)
        ended.wait(_HELD)
        worker.stop()

    signal.signal(signal.SIGTERM, end)
    while not ended.is_set():
        watch = Watch()
        worker = flux.Worker(task_of(given, marks, [], watch), adapter=given.adapter, create_topics=True)
        current[:] = [worker]
        leaver = threading.Thread(target=leave)
        leaver.start()
        code = _run(worker)
        leaver.join()
        if code:
            return code
        del worker, leaver, watch
        current.clear()
        with Path(guest_report(given)).open("a") as file:
            file.write(f"{in_use()}\n")
        ended.wait(_PAUSE)
    return 0


def _run(worker: flux.Worker) -> int:
    """On a thread of its own, so that the worker leaves the signals to this process."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(worker.run()))
    thread.start()
    while thread.is_alive():  # a signal is handled between two waits
        thread.join(0.2)
    return codes[0] if codes else 1


def main() -> int:
    given = Given(**json.loads(os.environ["SOAK"]))
    marks = Marks(Path(given.marks))
    kind = sys.argv[1]
    return _visit(given, marks) if kind == "guest" else _work(given, marks, fast=kind == "fast")


if __name__ == "__main__":
    sys.exit(main())
