"""What `flux demo` shows: some thousand orders, and a task that sometimes fails.

Everything is real except the broker, which is in memory, and the waits, which are seconds instead of minutes.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

import attrs

import flux
from flux.adapters.memory import MemoryAdapter, forget
from flux.core.ports import NewTopic
from flux.core.stage import Role, Stage
from flux.system import Lock

CLUSTER = "flux-demo"
TOPIC = "orders"
PARTITIONS = 4


@attrs.frozen
class DemoPlan:
    """The size of the demonstration. Times in seconds; `limit`: when to give up. `report`: whether the worker publishes
    reports."""

    records: int = 3000
    customers: int = 200
    produce_for: float = 2.5
    call_takes: float = 0.004
    wait: tuple[float, ...] = (1.0, 1.5, 2.0)
    limit: float = 60.0
    report: bool = False


class CardDeclined(Exception):
    """Fails at every attempt."""


class Unreachable(Exception):
    """Succeeds at the next attempt, or the one after it."""


@attrs.frozen
class DemoRow:
    """A stage at one moment."""

    stage: Stage
    arrived: int
    waiting: int
    done: int
    failed: int


@attrs.frozen
class Account:
    """The summary, from two sides: what the calls did, and what the broker has."""

    produced: int
    done: int
    """Orders whose call returned."""
    at_once: int
    """Those of them that needed one attempt."""
    again: int
    """Calls that returned for an order that was done already."""
    dead: dict[str, int]
    """Dead letters by reason."""
    lost: int
    """Orders that are neither done nor dead letters."""
    twice: int
    """Orders that are both, or are dead letters twice."""

    @property
    def adds_up(self) -> bool:
        return self.lost == self.again == self.twice == 0 and self.done + sum(self.dead.values()) == self.produced


class Demonstration:
    """`start` it, show `rows` until `over`, `stop` it, then show the `account`."""

    def __init__(self, plan: DemoPlan, beside: Sequence[type[flux.Task]] = ()) -> None:
        """`beside`: more tasks to run, which the account leaves out."""
        forget(CLUSTER)
        self.plan = plan
        self.adapter = adapter = MemoryAdapter(CLUSTER, default_partitions=PARTITIONS)
        self.produced = 0
        self.finished = Counter[str]()
        """Calls that returned, by the order's id."""
        self.tries: dict[str, int] = {}
        self.code: int | None = None
        self.problem: Exception | None = None
        self._lock = Lock()
        self._stop = threading.Event()
        self._all_produced = threading.Event()
        demonstration = self

        class Orders(flux.Producer):
            topic = TOPIC
            options = flux.ProducerOptions(flush_interval=0.1)

        class Billing(flux.Task):
            topic = TOPIC
            group_id = "billing"
            retries = len(plan.wait)
            wait = plan.wait
            offset_commit_interval = 0.2

            def call(self, message: flux.Message) -> None:
                time.sleep(plan.call_takes)
                bill(message)
                with demonstration._lock:
                    demonstration.finished[message.id] += 1
                    demonstration.tries[message.id] = message.attempt

        Orders.adapter = Billing.adapter = adapter
        for each in beside:
            each.adapter = adapter
        self.orders: type[flux.Producer] = Orders
        self.task: type[flux.Task] = Billing
        self.tasks: list[type[flux.Task]] = [self.task, *beside]
        self.stages = Billing.policy().stages
        self._admin = adapter.admin()
        self._admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)], 5)
        self._worker = flux.Worker(Billing, *beside, create_topics=True, report=plan.report)
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._produce, self._work)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._worker.stop()
        for thread in self._threads:
            thread.join(30)

    def _produce(self) -> None:
        draw, pause = Random(1), self.plan.produce_for / self.plan.records
        began = time.monotonic()
        try:
            for number in range(self.plan.records):
                customer = draw.randrange(self.plan.customers)
                self.orders.produce(f"order {number}", key=f"customer-{customer}", headers={"kind": kind(number)})
                self.produced += 1
                ahead = began + number * pause - time.monotonic()
                if ahead > 0.02 and self._stop.wait(ahead):
                    return
            self.orders.close(10)
        except flux.FluxError as error:
            self.problem = error
        finally:
            self._all_produced.set()

    def _work(self) -> None:
        try:
            self.code = self._worker.run()
        except Exception as error:
            self.problem = error

    @property
    def over(self) -> bool:
        """Whether everything is done, or the worker has stopped."""
        if not self._threads[1].is_alive():
            return True
        return self._all_produced.is_set() and all(row.waiting == 0 for row in self.rows()) and self._settled()

    def _settled(self) -> bool:
        return len(self.tries) + self._dead_letters() >= self.produced

    def _dead_letters(self) -> int:
        return self._held(self.stages[self.stages.dead])

    def _held(self, stage: Stage) -> int:
        if self._admin.topics([stage.topic], 1)[stage.topic] is None:
            return 0
        return sum(mark.high for mark in self._admin.watermarks(stage.topic, 1).values())

    def rows(self) -> list[DemoRow]:
        """The stages, from the worker's statistics and what the broker has."""
        stats = self._worker.stats()
        rows = []
        for stage in self.stages:
            ended = stats.get((self.task.__name__, stage.number))
            done, failed = (ended.done, ended.failed) if ended else (0, 0)
            arrived = self._held(stage)  # last: what has ended has arrived
            waiting = 0 if stage.role is Role.DEAD else max(0, arrived - done - failed)
            rows.append(DemoRow(stage, arrived, waiting, done, failed))
        return rows

    def account(self) -> Account:
        """After `stop`."""
        ids = Counter[str]()
        reasons = Counter[str]()
        for record in self.adapter.broker.records(self.stages[self.stages.dead].topic):
            headers = dict(record.headers() or ())
            origin = [headers.get(f"flux-origin-{part}") or b"" for part in ("topic", "partition", "offset")]
            ids[b"/".join(origin).decode()] += 1
            reasons[(headers.get("flux-reason") or b"unknown").decode()] += 1
        written = {f"{r.topic()}/{r.partition()}/{r.offset()}" for r in self.adapter.broker.records(TOPIC)}
        lost = max(self.produced - len(written), 0) + len(written - ids.keys() - self.finished.keys())
        return Account(
            produced=self.produced,
            done=len(self.finished),
            at_once=sum(tries == 1 for tries in self.tries.values()),
            again=self.finished.total() - len(self.finished),
            dead=dict(reasons.most_common()),
            lost=lost,
            twice=len(ids.keys() & self.finished.keys()) + ids.total() - len(ids),
        )


def kind(number: int) -> str:
    """What is wrong with an order: one in ten fails once, one in fifty twice, some always."""
    for name, every in (("malformed", 500), ("declined", 150), ("unlucky twice", 50), ("unlucky", 10)):
        if number % every == every - 1:
            return name
    return "fine"


def bill(message: flux.Message) -> None:
    """The handler: fails as the order's kind says."""
    match message.headers.get("kind"):
        case b"malformed":
            raise flux.Reject("an order without a price")
        case b"declined" if message.flux_headers.replays == 0:
            raise CardDeclined("the bank says no")
        case b"unlucky" if message.attempt < 2:
            raise Unreachable("the payment provider does not answer")
        case b"unlucky twice" if message.attempt < 3:
            raise Unreachable("the payment provider still does not answer")


ENDLESS = DemoPlan(records=100_000, produce_for=3600.0, call_takes=0.02, wait=(8.0, 20.0, 45.0), report=True)


class Shipping(flux.Task):
    """Another group on the same topic, whose carrier is sometimes slow."""

    topic = TOPIC
    group_id = "shipping"
    retries = 2
    wait = (15.0, 60.0)
    concurrency = 4
    offset_commit_interval = 1.0

    def call(self, message: flux.Message) -> None:
        number = int((message.value or b"0").rpartition(b" ")[2])
        time.sleep(20.0 if number % 1500 == 700 else 0.01)
        if number % 70 == 3 and message.flux_headers.replays == 0:
            raise LookupError(f"no carrier for order {number}")


def endless() -> Demonstration:
    """Runs for an hour with two tasks, for the pages."""
    return Demonstration(ENDLESS, [Shipping])


Watch = Callable[["Demonstration"], object]


def run(plan: DemoPlan, watch: Watch) -> tuple[Demonstration, bool]:
    """Runs all of it and calls `watch` several times a second. Returns False if it took longer than planned."""
    demonstration = Demonstration(plan)
    deadline = time.monotonic() + plan.limit
    demonstration.start()
    try:
        while not demonstration.over and time.monotonic() < deadline:
            watch(demonstration)
            time.sleep(0.1)
        in_time = demonstration.over
        watch(demonstration)
    finally:
        demonstration.stop()
    return demonstration, in_time
