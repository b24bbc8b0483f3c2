"""Which cluster a task and a producer use, and several in one process."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

import flux
from flux import config
from flux.adapters.memory import MemoryAdapter, forget
from flux.cli.main import cli


class Clusters:
    """In-memory ones, by their names; each holds one record, its name, on the topic "orders"."""

    def __init__(self) -> None:
        self.run = secrets.token_hex(4)
        self.made: set[str] = set()

    def url(self, name: str) -> str:
        url = f"memory://{name}-{self.run}"
        if name not in self.made:
            self.made.add(name)
            self.add(name, name.encode())
        return url

    def adapter(self, name: str) -> MemoryAdapter:
        return MemoryAdapter(f"{name}-{self.run}")

    def add(self, name: str, value: bytes) -> None:
        class Orders(flux.Producer):
            topic = "orders"

        orders = Orders(adapter=self.adapter(name))
        orders.produce(value)
        orders.close(5)

    def values(self, name: str, topic: str = "orders") -> list[bytes | None]:
        return [record.value() for record in self.adapter(name).broker.records(topic)]


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clusters]:
    monkeypatch.delenv("FLUX_ADAPTER", raising=False)
    config.reset()
    made = Clusters()
    yield made
    for name in made.made:
        forget(f"{name}-{made.run}")
    config.reset()


def choose(clusters: Clusters, monkeypatch: pytest.MonkeyPatch, levels: list[str]) -> None:
    """Each of these levels that counts for the whole process names a cluster of its own."""
    if "command line" in levels:
        config.override_adapter(clusters.url("command line"))
    if "environment" in levels:
        monkeypatch.setenv("FLUX_ADAPTER", clusters.url("environment"))
    if "configured" in levels:
        flux.configure(adapter=clusters.url("configured"))


TASK_LEVELS = ["instance", "class", "worker", "command line", "environment", "configured"]
PRODUCER_LEVELS = ["instance", "class", "command line", "environment", "configured"]


@pytest.mark.parametrize("first", range(len(TASK_LEVELS)), ids=TASK_LEVELS)
def test_who_decides_on_a_task_s_cluster(clusters: Clusters, monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    levels = TASK_LEVELS[first:]
    choose(clusters, monkeypatch, levels)
    got: list[Any] = []

    class Billing(flux.Task):
        topic = "orders"
        group_id = "billing"
        adapter = clusters.url("class") if "class" in levels else None

        def call(self, message: flux.Message) -> None:
            got.append(message.value.decode())
            worker.stop()

    task = Billing()
    if "instance" in levels:
        task.adapter = clusters.url("instance")
    worker = flux.Worker(
        task, adapter=clusters.url("worker") if "worker" in levels else None, create_topics=True, exit_when_idle=0.1
    )
    assert worker.run() == 0
    assert got == [TASK_LEVELS[first]]


@pytest.mark.parametrize("first", range(len(PRODUCER_LEVELS)), ids=PRODUCER_LEVELS)
def test_who_decides_on_a_producer_s_cluster(clusters: Clusters, monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    levels = PRODUCER_LEVELS[first:]
    choose(clusters, monkeypatch, levels)

    class Orders(flux.Producer):
        topic = "orders"
        adapter = clusters.url("class") if "class" in levels else None

    orders = Orders(adapter=clusters.url("instance")) if "instance" in levels else Orders()
    orders.produce(b"new")
    orders.close(5)
    assert [name for name in levels if b"new" in clusters.values(name)] == [PRODUCER_LEVELS[first]]


def test_the_option_adapter_goes_before_the_environment_and_behind_the_class(
    clusters: Clusters, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("FLUX_ADAPTER", clusters.url("environment"))
    code = f"""
import flux

class Mine(flux.Task):
    topic, group_id = "orders", "mine"
    adapter = {clusters.url("class")!r}
    def call(self, message): print("Mine", message.value)

class Anybodys(flux.Task):
    topic, group_id = "orders", "anybodys"
    def call(self, message): print("Anybodys", message.value)
"""
    path = tmp_path / f"tasks_{secrets.token_hex(4)}.py"
    path.write_text(code)
    options = ["--load", str(path), "--adapter", clusters.url("command line"), "--create-topics"]
    done = CliRunner().invoke(cli, ["process", *options, "--exit-when-idle", "0.01", "Mine", "Anybodys"])
    assert done.exit_code == 0, done.output
    assert sorted(line for line in done.stdout.splitlines() if "b'" in line) == [
        "Anybodys b'command line'",
        "Mine b'class'",
    ]


def test_without_any_of_them_a_worker_and_a_producer_are_refused(clusters: Clusters) -> None:
    class Orders(flux.Producer):
        topic = "orders"

    task = flux.task(topic="orders", group_id="billing")(lambda message: None)
    with pytest.raises(flux.ConfigurationError, match=r"no adapter: .*flux\.configure.*FLUX_ADAPTER.*--adapter"):
        flux.Worker(task)
    with pytest.raises(flux.ConfigurationError, match="no adapter: "):
        Orders.produce(b"x")


def test_one_task_class_works_two_clusters_at_once_and_failures_stay_on_theirs(clusters: Clusters) -> None:
    got: list[tuple[str, Any, int]] = []

    class Billing(flux.Task):
        topic = "orders"
        group_id = "billing"
        retries = 1
        wait = 0

        def __init__(self, name: str) -> None:
            self.name = name
            self.adapter = clusters.url(name)

        def call(self, message: flux.Message) -> None:
            got.append((self.name, message.value, message.stage))
            raise ConnectionError

    assert flux.Worker(Billing("east"), Billing("west"), create_topics=True, exit_when_idle=0.01).run() == 0
    assert sorted(got) == [("east", b"east", 0), ("east", b"east", 1), ("west", b"west", 0), ("west", b"west", 1)]
    for name in ("east", "west"):
        assert clusters.values(name, "orders-billing-dlq") == [name.encode()]
        assert clusters.adapter(name).broker.committed_offsets("billing", "orders")[0].offset == 1


def test_the_same_topic_and_group_is_refused_on_one_cluster_by_whatever_client(clusters: Clusters) -> None:
    def task(adapter: Any) -> flux.Task:
        return flux.task(topic="orders", group_id="billing", adapter=adapter)(lambda message: None)

    pytest.importorskip("aiokafka")
    kafka = task("confluent://127.0.0.1:9")
    assert flux.Worker(task(clusters.url("east")), task(clusters.url("west")), kafka).tasks
    with pytest.raises(flux.ConfigurationError, match="both consume topic orders as group billing"):
        flux.Worker(kafka, task(clusters.url("east")), task("aiokafka://127.0.0.1:9"))


def test_two_instances_of_one_class_are_told_apart_in_the_worker_s_figures() -> None:
    first, second = Copy(), Copy()
    first.adapter, second.adapter = "memory://copies-1", "memory://copies-2"
    worker = flux.Worker(first, second)
    assert [job.name for job in worker.jobs] == ["Copy", "Copy#2"]


class Copy(flux.Task):
    topic, group_id = "copies", "g"

    def call(self, message: flux.Message) -> None: ...


def test_a_group_id_that_two_tasks_share_is_warned_of_on_one_cluster_only(
    clusters: Clusters, caplog: pytest.LogCaptureFixture
) -> None:
    bills = flux.task(topic="bills", group_id="shared")(lambda message: None)
    refunds = flux.task(topic="refunds", group_id="shared")(lambda message: None)
    flux.Worker(bills, refunds, adapter=clusters.url("one"))
    [warning] = caplog.messages
    assert "have the same group_id, 'shared'" in warning
    refunds.adapter = clusters.url("other")
    caplog.clear()
    flux.Worker(bills, refunds, adapter=clusters.url("one"))
    assert caplog.messages == []
