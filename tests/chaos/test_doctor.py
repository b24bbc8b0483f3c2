"""`flux doctor` where topics can have several replicas. No chaos: it takes the cluster of three that is there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner
from confluent_kafka.cimpl import NewTopic

from chaos.cluster import Cluster
from flux import config
from flux.cli.main import cli

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]

CODE = """
import flux

class Billing(flux.Task):
    topic, group_id, retries = "{topic}", "billing", 1

    def call(self, message): ...
"""
ROOM = {"max.message.bytes": "2000000", "retention.ms": "-1"}


@pytest.fixture(autouse=True)
def _configured_anew() -> Iterator[None]:
    yield
    config.reset()


def make(cluster: Cluster, name: str, replicas: int, settings: Mapping[str, str]) -> None:
    made = NewTopic(name, 1, replicas, config={**ROOM, **settings})
    cluster.admin.create_topics([made])[name].result(30)


@pytest.mark.parametrize("client", ["confluent", "aiokafka"])
def test_replicas_that_are_too_few_or_acknowledge_too_little_are_found(
    cluster: Cluster, client: str, tmp_path: Path
) -> None:
    topic = f"doctor-{client}"
    cluster.start()
    make(cluster, topic, 3, {"min.insync.replicas": "2", "max.message.bytes": "1000000"})
    make(cluster, f"{topic}-billing-try-1", 3, {"min.insync.replicas": "1"})
    make(cluster, f"{topic}-billing-dlq", 1, {"min.insync.replicas": "1"})
    names = [topic, f"{topic}-billing-try-1", f"{topic}-billing-dlq"]
    file = tmp_path / f"doctor_{client}.py"
    file.write_text(CODE.format(topic=topic))
    arguments = ["doctor", "--load", str(file), "--adapter", f"{client}://{cluster.bootstrap}", "--json"]
    until = time.monotonic() + 30
    try:
        while True:  # a broker hears of a new topic a moment later
            report = json.loads(CliRunner().invoke(cli, arguments).stdout)
            if "topics" not in {finding["check"] for finding in report["findings"]}:
                break
            assert time.monotonic() < until, report
    finally:
        for deleted in cluster.admin.delete_topics(names).values():  # whose one replica would never be in sync of three
            deleted.result(30)
    assert [(finding["check"], finding["about"]) for finding in report["findings"]] == [
        ("replication", f"{topic}-billing-try-1"),
        ("replication", f"{topic}-billing-dlq"),
    ]
    assert "lost with it" in report["findings"][0]["problem"]
    assert report["findings"][1]["problem"].startswith("has 1 replica on 3 brokers")
    assert [each["what"] for each in report["not_checked"]] == ["the clocks' difference"]
