"""Plays the cases, each with new processes, and measures these from outside."""

from __future__ import annotations

import re
import secrets
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
from brokers.router import NoRouter, Router, routed
from chaos.cluster import Cluster, running
from chaos.trial import wait_for

from proof.network.cases import CASES, Case, Scene
from proof.network.checks import AGAIN, Measured
from proof.network.subjects import Producer, Subject, Worker
from proof.network.watch import Watch, slowness, wait_until_back, wait_until_settled
from proof.stage import Cell, Outcome, Stage, Table

ADAPTERS = ("confluent", "aiokafka")
_CALM, _USUAL = 3.0, 3.0  # seconds until clients have made their connections; of which CPU time is usual
_SETTLES = 20.0
_COLUMNS = (
    "case", "process", "lost", "back after s", "outage s", "CPU %", "librdkafka's CPU %", "usual CPU %",
    "lines a minute", "before", "after",
)  # fmt: skip


@attrs.define
class Row:
    case: Case
    subject: Subject
    measured: Measured
    lost: int = 0

    def __str__(self) -> str:
        return f"{self.case.name}, {self.subject.kind} of {self.subject.adapter}"

    def cells(self) -> Sequence[Cell]:
        m = self.measured
        back: Cell = "never" if m.back is None else round(m.back, 1)
        return (
            self.case.name,
            f"{self.subject.kind}, {self.subject.adapter}",
            self.lost,
            back,
            round(m.outage, 1),
            round(100 * m.cpu, 1),
            round(100 * m.brokers, 1),
            round(100 * m.usual, 1),
            round(m.lines_a_minute),
            str(m.before),
            str(m.after),
        )


def offsets_partition(group: str) -> int:
    """Which of the cluster's 4 partitions of committed offsets has a group's: the hash of Java's strings decides."""
    number = 0
    for letter in group:
        number = (31 * number + ord(letter)) % 2**32
    return min(number, 2**32 - number) % 4


def coordinated_alike() -> tuple[str, str]:
    """Two names of groups that have one coordinator."""
    first = second = f"g{secrets.token_hex(4)}"
    while second == first or offsets_partition(second) != offsets_partition(first):
        second = f"g{secrets.token_hex(4)}"
    return first, second


@contextmanager
def subjects(cluster: Cluster, directory: Path, accompanied: bool) -> Iterator[Scene]:
    workers: list[Worker] = []
    producers: list[Producer] = []
    with ExitStack() as stack:
        for adapter, group in zip(ADAPTERS, coordinated_alike(), strict=True):
            own = directory / adapter
            own.mkdir(parents=True)
            workers.append(worker := Worker(cluster, own, adapter, group, accompanied))
            stack.callback(worker.close)
            producers.append(Producer(cluster, own, adapter, f"{worker.trial.topic}-produced", worker.trial))
            stack.callback(producers[-1].close)
        yield Scene(cluster, workers, producers)


def play(cases: Sequence[Case], cluster: Cluster, directory: Path) -> tuple[list[Row], list[str], list[str]]:
    """The same processes go through one case after the other. Problems with what was measured, and with records."""
    with subjects(cluster, directory, any(case.accompanied for case in cases)) as scene:
        everyone: list[Subject] = [*scene.workers, *scene.producers]
        wait_for(lambda: all(subject.works() for subject in everyone), "all processes work", 60)
        time.sleep(_CALM)
        rows = [row for case in cases for row in _measured(case, scene, everyone)]
        cluster.wait_in_sync()
        with ThreadPoolExecutor(len(everyone)) as pool:
            ends = list(pool.map(lambda subject: subject.finish(), everyone))
    measured = [f"{row}: {each}" for row in rows for each in row.measured.problems()]
    records = []
    last = rows[-len(everyone) :]
    for row, (lost, found) in zip(last, ends, strict=True):
        row.lost = lost
        records += [f"{row}: {each}" for each in found]
    return rows, measured, records


def play_twice(cases: Sequence[Case], cluster: Cluster, directory: Path) -> tuple[list[Row], list[str]]:
    """A second time, if only what was measured is a problem: a machine that does something else may be the reason."""
    for number in (1, 2):
        rows, measured, records = play(cases, cluster, directory / str(number))
        if not measured or records:
            break
        print(f"  try {number}: {'; '.join(measured)}", flush=True)
    return rows, measured + records


def _measured(case: Case, scene: Scene, everyone: Sequence[Subject]) -> list[Row]:
    watches = [Watch(subject) for subject in everyone]
    for watch in watches:
        watch.begin()
    time.sleep(_USUAL)
    for watch in watches:
        watch.broken()
    with ExitStack() as noted:
        for worker in scene.workers:
            noted.enter_context(worker.trial.noted(case.name))
        with case.fault(scene) as named:
            for watch in watches:
                watch.subject.mark()
            slow = slowness()
            time.sleep(case.seconds)
            if not case.heals_itself:
                for watch in watches:
                    watch.over()
        for watch in watches:
            watch.subject.mark()
        wait_until_back(watches, AGAIN)
        if case.heals_itself:
            for watch in watches:
                watch.over()
    wait_until_settled(watches, _SETTLES)
    if case.waits_busily:
        for watch in watches:
            watch.settle()
        time.sleep(_USUAL)
    return [Row(case, watch.subject, watch.measured(case, named, slow)) for watch in watches]


def _run(scale: float, directory: Path) -> Outcome:
    rows: list[Row] = []
    problems: list[str] = []
    with ExitStack() as stack:
        router, network = _network(stack)
        print(f"  the network: {network}", flush=True)
        able = [case for case in CASES if router or not case.needs_router]
        played = [[case] for case in able] if scale >= 1 else [[case for case in able if case.is_quick]]
        cluster = stack.enter_context(running(router))
        for cases in played:
            names = ", ".join(case.name for case in cases)
            try:
                found, wrong = play_twice(cases, cluster, directory / re.sub(r"\W+", "-", names))
                rows += found
                problems += wrong
            except Exception:
                problems.append(f"{names}: {traceback.format_exc()}")
                cluster.start()
            print(f"  {names}: {len(problems)} problems so far", flush=True)
    table = Table("Threads/descriptors/memory before and after", _COLUMNS, [row.cells() for row in rows])
    return Outcome(
        problems,
        {
            "cases": sum(map(len, played)),
            "processes": len({id(row.subject) for row in rows}),
            "lost": sum(row.lost for row in rows),
        },
        [table],
        [f"The network: {network}."],
    )


def _network(stack: ExitStack) -> tuple[Router | None, str]:
    """None where there can be no router; and what there is, in words."""
    try:
        return stack.enter_context(routed()), "network namespaces and the kernel's packet filter"
    except NoRouter as reason:
        return None, f"proxies, as there can be no network namespaces ({reason})"


NETWORK = Stage(
    "network",
    "Workers and producers of both adapters on a network, or a cluster, that fails and heals: nothing is lost, they"
    " work again within 30 s, and an outage costs next to nothing.",
    _run,
)
