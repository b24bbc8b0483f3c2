"""Every call fails, on a machine that has no time: does anything stand still?

    PYTHONPATH=tests python -m integration.storm URL SECONDS [NEIGHBOURS]

Both stages of a task run in this process, two threads feed it, another thread and NEIGHBOURS processes (default 4)
compute beside them, and the interpreter switches threads very often or hardly ever. Exits with 1, and shows where all
threads are, when no record has moved for long; else prints how many did.
"""

from __future__ import annotations

import faulthandler
import itertools
import os
import secrets
import subprocess
import sys
import threading
import time

import flux
from flux.config import adapter_from_url
from flux.core.ports import NewTopic
from flux.observe.prometheus import Metrics

STANDS = 20.0
"""Seconds in which no record has moved: longer than a rebalance takes."""
AHEAD = 5_000
"""Records that wait at most."""
_INTERVALS = (1e-5, 0.005, 0.03)
_EACH = 3.0  # seconds with one of them
_COMPUTING = 1  # threads
_COMPUTE = "import os; parent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"


class Storm:
    """`fed`: records that the cluster has; `dead`: those of them that are dead letters, by their numbers."""

    def __init__(self, url: str) -> None:
        self.fed = itertools.count()
        self.given = 0
        self.moved = 0
        self.dead: set[int] = set()
        self.feeds = True
        self.failures: list[object] = []
        self._topic = f"storm-{secrets.token_hex(4)}"
        adapter = adapter_from_url(url)
        storm = self

        class Storms(flux.Task):
            topic, group_id, retries, wait = self._topic, f"g-{self._topic}", 1, 0
            concurrency = 4

            def call(self, message: flux.Message) -> None:
                number = int(message.value)
                if number % 3 == 0:
                    raise ValueError(f"customer {number} has no address")
                if number % 3 == 1:
                    raise KeyError("tax_id")
                raise flux.Reject(f"order {number}: amount is negative")

        class Count(flux.Hooks):
            def on_retry(self, *_: object) -> None:
                storm.moved += 1

            def on_dead_letter(self, where: object, message: flux.Message, *_: object) -> None:
                storm.dead.add(int(message.value))
                storm.moved += 1

        class Orders(flux.Producer):
            topic = self._topic
            options = flux.ProducerOptions(max_buffer_size=500, flush_interval=0.05)

        Storms.adapter = Orders.adapter = adapter
        Storms.hooks = [Count()]
        self._orders = Orders
        admin = adapter.admin()
        admin.create_topics([NewTopic(self._topic, 4, 1)], 30)
        admin.close()
        self.worker = flux.Worker(Storms, create_topics=True)
        self._metrics = Metrics(None)  # as deployments have them
        self._metrics.watch(self.worker)

    def feed(self) -> None:
        while self.feeds:
            if self.given - len(self.dead) > AHEAD:
                time.sleep(0.01)
                continue
            for _ in range(500):
                number = next(self.fed)
                try:
                    self._orders.produce(b"%d" % number, key=b"k%d" % (number % 1000))
                except flux.DeliveryError as error:
                    self.failures.append(error)
                self.given = max(self.given, number + 1)

    def compute(self) -> None:
        while self.feeds:
            sum(range(10_000))

    def play(self, seconds: float) -> str:
        """What was found; empty when all is well."""
        threads = [threading.Thread(target=self.feed, daemon=True) for _ in range(2)]
        threads += [threading.Thread(target=self.compute, daemon=True) for _ in range(_COMPUTING)]
        working = threading.Thread(target=self.worker.run, daemon=True)
        for thread in [working, *threads]:
            thread.start()
        began = since = time.monotonic()
        moved, intervals, changes = -1, itertools.cycle(_INTERVALS), began
        while self.feeds or len(self.dead) < self.given:
            time.sleep(0.2)
            now = time.monotonic()
            if self.feeds and now >= changes:
                sys.setswitchinterval(next(intervals))
                changes = now + _EACH
                self._metrics.text()
            if self.feeds and now - began >= seconds:
                self.feeds = False
                sys.setswitchinterval(0.005)
                for thread in threads[:2]:
                    thread.join(STANDS)
                    if thread.is_alive():
                        return "a producer stands still"
            if moved != self.moved:
                moved, since = self.moved, now
            elif now - since > STANDS:
                return "the worker stands still"
        self._orders.flush(30)
        self.worker.stop()
        working.join(60)
        if working.is_alive():
            return "the worker does not stop"
        return f"not delivered: {self.failures[:3]}" if self.failures else ""


def main(url: str, seconds: float, neighbours: int = 4) -> int:
    beside = [subprocess.Popen([sys.executable, "-c", _COMPUTE]) for _ in range(neighbours)]
    try:
        storm = Storm(url)
        found = storm.play(seconds)
        print(f"{found or 'well'}: {storm.given} records, {len(storm.dead)} dead letters", flush=True)
        if found:
            faulthandler.dump_traceback(sys.stdout)
        return int(bool(found))
    finally:
        for neighbour in beside:
            neighbour.kill()


if __name__ == "__main__":
    code = main(sys.argv[1], float(sys.argv[2]), *map(int, sys.argv[3:]))
    sys.stdout.flush()
    os._exit(code)  # what stands still must not keep it
