"""Three tasks under load, and what flux shows of them, each figure beside the bounds that their ledgers give."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
from confluent_kafka import Producer as Client
from starlette.testclient import TestClient

import flux
from flux.adapters.confluent import ConfluentAdapter
from flux.cli.status import Watched
from flux.operate.status.status import read_status
from flux.web.app import app_of
from flux.web.options import WebOptions
from flux.web.page_context import PageContext
from integration.job.support import Lab
from integration.ledger import Ledger, tables_of

WAIT = 2.0
"""Seconds in each retry topic."""
RETRIES = 2
PARTITIONS = 3
RATE = 60
"""Records per second and task."""
KINDS = ("done", "failed", "retried", "dead")
SLACK = 1.5
"""Seconds by which a busy machine may be late."""
STILL = 1.0
"""Seconds that a machine stands still before what it shows says nothing of flux."""
MOST_LOAD = 90.0


class Outputs(flux.Producer):
    topic = "set by the test"


def verdict(value: bytes, stage: int) -> Exception | None:
    """Of 20 records one fails always, one twice, one is rejected, one fails once."""
    number = int(value) % 20
    if number == 19 or (number == 18 and stage < 2) or (number == 17 and stage < 1):
        return ValueError(f"{number} in stage {stage}")
    return flux.Reject("no") if number == 16 else None


def noted(ledger: Ledger, stage: int, error: Exception | None) -> None:
    ledger.note("failed" if error else "done", stage)
    if error:
        ledger.note("dead" if isinstance(error, flux.Reject) or stage == RETRIES else "retried", stage)


def tasks_of(names: dict[str, str], hold: threading.Event) -> dict[type[flux.Task], Ledger]:
    """Three tasks, each with the ledger of its handler."""
    one, many, exact = Ledger(), Ledger(), Ledger()

    class One(flux.Task):
        topic, group_id = names["one"], f"{names['one']}-g"
        retries, wait, concurrency, stalled_after = RETRIES, WAIT, 4, 30.0

        def call(self, message: flux.Message) -> None:
            with one.call([message]):
                if message.value == b"0":
                    hold.wait(60)
                time.sleep(0.02)
                error = verdict(message.value, message.stage)
            noted(one, message.stage, error)
            if error:
                raise error

    class Many(flux.BatchTask):
        topic, group_id = names["many"], f"{names['many']}-g"
        retries, wait, concurrency, max_batch, max_wait = RETRIES, WAIT, 2, 20, 0.2

        def call(self, messages: Sequence[flux.Message]) -> None:
            with many.call(messages):
                time.sleep(0.02)
                errors = {message: verdict(message.value, message.stage) for message in messages}
            for message, error in errors.items():
                noted(many, message.stage, error)
            failed = {message: error for message, error in errors.items() if error}
            if failed:
                raise flux.BatchFailure(failed)

    class Exact(flux.Task):
        topic, group_id = names["exact"], f"{names['exact']}-g"
        retries, wait, concurrency, exactly_once = RETRIES, WAIT, 4, True

        def call(self, message: flux.Message) -> None:
            with exact.call([message]):
                Outputs.produce(message.value)
                error = verdict(message.value, message.stage)
            noted(exact, message.stage, error)
            if error:
                raise error

    return {One: one, Many: many, Exact: exact}


@attrs.frozen
class Between:
    """A number that was shown, and the least and the most that it may be."""

    what: str
    shown: float | None
    least: float
    most: float

    @property
    def true(self) -> bool:
        return self.shown is not None and self.least <= self.shown <= self.most


class Pulse:
    """Notes when the machine stands still."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self._last, self._stood = time.time(), 0.0
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self.over.wait(0.02):
            before, self._last = self._last, time.time()
            if self._last - before > STILL:
                self._stood = self._last

    def stood(self, since: float) -> bool:
        """Whether it has done so since then."""
        return self._stood > since or time.time() - self._last > STILL


class Scene:
    """The tasks with their load, and what flux shows of them."""

    def __init__(self, lab: Lab, hold: threading.Event, report_topic: str) -> None:
        self.lab = lab
        self.report_topic = report_topic
        self.adapter = ConfluentAdapter(lab.bootstrap)
        flux.configure(adapter=self.adapter)
        names = {name: lab.unique() for name in ("one", "many", "exact")}
        Outputs.topic = lab.make_topic(1)
        self.tasks = tasks_of(names, hold)
        self.written: dict[type[flux.Task], Ledger] = {task: Ledger() for task in self.tasks}
        for task in self.tasks:
            for stage in task.policy().stages:
                lab.make_topic(PARTITIONS, stage.topic)
        self.context = PageContext(list(self.tasks), WebOptions(every=1.0, report_topic=report_topic))
        self.browser = TestClient(app_of(self.context), base_url="http://127.0.0.1:7373")
        self.admin = self.adapter.admin()
        self.watched = {task: Watched(task.__name__, "", self._reader(task), named=False) for task in self.tasks}

    def _reader(self, task: type[flux.Task]) -> Callable[[Any], Any]:
        policy = task.policy()
        return lambda before: read_status(self.adapter, self.admin, policy, self.report_topic, before)

    def load(self, seconds: float, enough: threading.Event) -> None:
        """Writes at an even rate, to all tasks alike, for so long and until it is enough. Record 0 is not written."""
        client, number, until = Client({"bootstrap.servers": self.lab.bootstrap, "linger.ms": 5}), 0, time.time()
        ends, last = until + seconds, until + MOST_LOAD

        def counted(written: Ledger) -> Callable[..., None]:
            return lambda error, record: written.note("written", 0)

        while until < ends or (until < last and not enough.is_set()):
            number += 1
            for task, written in self.written.items():
                client.produce(
                    task.topic,
                    b"%d" % number,
                    b"%d" % (number % 97),
                    number % PARTITIONS,
                    on_delivery=counted(written),
                )
            until += 1 / RATE
            client.poll(0)
            time.sleep(max(0.0, until - time.time()))
        assert client.flush(30) == 0

    def status(self, task: type[flux.Task]) -> dict[str, Any]:
        watched = self.watched[task]
        watched.read()
        found: dict[str, Any] = json.loads(watched.json())
        return found

    def sample(self) -> None:
        for watch in self.context.watches.values():
            watch.take()
            assert not watch.error, watch.error
        self.context.sampler.add_up()

    def page(self, path: str) -> list[list[dict[str, str]]]:
        answer = self.browser.get(path)
        assert answer.status_code == 200, answer.text
        return tables_of(answer.text)

    def came(self, task: type[flux.Task], stage: int, least: bool, at: float) -> int:
        """Records in a stage's topic by then: surely, or at most."""
        if stage == 0:
            return self.written[task].count("written", 0, at)
        return self.tasks[task].count("retried", stage - 1, at - SLACK if least else at)

    def ended(self, task: type[flux.Task], stage: int, at: float) -> int:
        ledger = self.tasks[task]
        return ledger.count("done", stage, at) + ledger.count("failed", stage, at)

    def lag(self, what: str, task: type[flux.Task], stage: int, shown: float, began: float, ended: float) -> Between:
        """Committed within `SLACK`: the lag of a healthy worker is what it has not finished."""
        least = self.came(task, stage, True, began) - self.ended(task, stage, ended)
        most = self.came(task, stage, False, ended) - self.ended(task, stage, began - SLACK)
        return Between(f"{what} lag", shown, max(0, least), max(0, most))

    def waiting(
        self, what: str, task: type[flux.Task], stage: int, shown: float, began: float, ended: float
    ) -> Between:
        ledger = self.tasks[task]
        if stage == 0:
            return Between(f"{what} waiting", shown, 0, 0)
        least = ledger.count("retried", stage - 1, began - SLACK, ended - WAIT + 0.5)
        most = ledger.count("retried", stage - 1, ended, began - WAIT - SLACK)
        return Between(f"{what} waiting", shown, min(least, most), most)

    def dead(self, what: str, task: type[flux.Task], shown: float, began: float, ended: float) -> Between:
        ledger = self.tasks[task]
        least, most = (
            sum(ledger.count("dead", stage, at) for stage in range(RETRIES + 1)) for at in (began - SLACK, ended)
        )
        return Between(f"{what} dead letters", shown, least, most)

    def of_status(self, task: type[flux.Task]) -> Iterator[Between]:
        name, ledger = task.__name__, self.tasks[task]
        began = time.time()
        found = self.status(task)
        ended = time.time()
        for stage in found["stages"]:
            n, what = stage["stage"], f"status {name} stage {stage['stage']}"
            yield self.lag(what, task, n, stage["lag"], began, ended)
            yield self.waiting(what, task, n, stage["waiting"], began, ended)
            yield Between(f"{what} members", len(stage["members"]), 1, 1)
        yield self.dead(f"status {name}", task, found["dead_letters"], began, ended)
        yield Between(f"status {name} blockers {found['blockers']}", len(found["blockers"]), 0, 0)
        yield Between(f"status {name} held back", len(found["held_back"]), 0, 0)
        for process in found["processes"]:
            at = found["at"] / 1000 - process["age"]
            yield Between(f"status {name} tasks of a process", len({s["task"] for s in process["stages"]}), 1, 1)
            for stage in process["stages"]:
                n, what = stage["stage"], f"report {stage['task']} stage {stage['stage']}"
                if stage["task"] != name:
                    continue
                for kind, late in (("done", SLACK), ("failed", SLACK), ("retried", 2 * SLACK), ("dead", 2 * SLACK)):
                    least, most = ledger.count(kind, n, at - late), ledger.count(kind, n, at + SLACK)
                    yield Between(f"{what} {kind}", stage[kind], least, most)
                yield Between(f"{what} in flight", stage["in_flight"], 0, task.concurrency)
                for call in stage["calls"]:
                    started = ledger.ran((stage["topic"], call["partition"], call["offset"]), at, 0.5)
                    yield Between(f"{what} running call {call}", started, at - 60, at + 0.5)
                    if started is not None:
                        shown, took = call["seconds"], max(0.0, at - started)
                        yield Between(f"{what} seconds of {call}", shown, took - 0.6, took + 0.6)
                for kind, rate in (("done", "done_rate"), ("failed", "failed_rate")):
                    if ledger.count(kind, n, at - 6):
                        low, high = (ledger.count(kind, n, at + e, at - 5 - e) / 5 for e in (-SLACK, SLACK))
                        yield Between(f"{what} {rate}", stage[rate], low - 0.1, high + 0.1)

    def reported(self) -> bool:
        """Whether the pages have a report of the worker."""
        self.sample()
        return bool(self.page("/workers"))

    def of_pages(self) -> Iterator[Between]:
        began = time.time()
        self.sample()
        ended = time.time()
        overview = self.page("/")
        by_task = {row["Task"].split()[0]: row for row in overview[0]}
        lags: Counter[str] = Counter()
        for task in self.tasks:
            name = task.__name__
            stages = self.page(f"/tasks/{name}")
            rows = next(table for table in stages if table and "Topic" in table[0])
            for number, row in enumerate(rows[: RETRIES + 1]):
                what = f"page {name} stage {number}"
                lags[name] += _number(row["Lag"])
                yield self.lag(what, task, number, _number(row["Lag"]), began, ended)
                if number:
                    yield self.waiting(what, task, number, _number(row["Waiting"]), began, ended)
                yield Between(f"{what} members", _number(row["Members"]), 1, 1)
            dead = next(row for row in rows if row["Stage"] == "dead letters")
            yield self.dead(f"page {name}", task, _number(dead["Lag"]), began, ended)
            row = by_task[name]
            yield Between(f"overview {name} lag", _number(row["Lag"]), lags[name], lags[name])
            yield self.dead(f"overview {name}", task, _number(row["Dead letters"]), began, ended)
            state = row["State"]
            yield Between(f"overview {name} state {state}", float(state in ("running", "up to date")), 1, 1)
        workers = self.page("/workers")
        [process] = workers[0]
        yield Between("workers in flight", _number(process["In flight"]), 0, 10)
        for row in workers[1] if len(workers) > 1 else ():
            topic, _, rest = row["Record"].partition("[")
            partition, _, rest = rest.partition("]@")
            record = topic, int(partition), int(rest.split()[0])
            ledger = next(ledger for task, ledger in self.tasks.items() if topic.startswith(task.topic))
            yield Between(f"workers: call of {record}", ledger.ran(record, ended - 3, 3.5), began - 60, ended)


def _number(text: str) -> int:
    return int(text.replace(",", "").replace("—", "0") or 0)
