"""The fixture `flux_kafka`, as the suite of an application uses it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from brokers import KafkaNode
from confluent_kafka.admin import AdminClient

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "testing.md"


def run(directory: Path, source: str, *chosen: str, **environment: str) -> str:
    (directory / "test_application.py").write_text(source)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", *chosen],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**os.environ, **environment},
    )
    return ended.stdout + ended.stderr


def samples() -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE))


def test_the_sample_of_the_page_works(
    tmp_path: Path,
    bootstrap: str,
    make_topic: Callable[..., str],
    kafka_admin: AdminClient,
) -> None:
    orders, receipts = make_topic(), make_topic()
    source = samples().replace('"orders"', repr(orders)).replace('"receipts"', repr(receipts))
    try:
        printed = run(tmp_path, source, "-k", "real_kafka", FLUX_TEST_BOOTSTRAP=bootstrap)
        assert "1 passed" in printed, printed
        assert kafka_admin.list_topics(timeout=10).topics[f"{orders}-billing-dlq"].partitions
    finally:
        names = kafka_admin.list_topics(timeout=10).topics
        kafka_admin.delete_topics([name for name in names if name.startswith(f"{orders}-")])


def test_where_docker_answers_a_container_lives_as_long_as_the_session(tmp_path: Path, broker: KafkaNode) -> None:
    if "container" not in broker.source:
        pytest.skip(f"this session's Kafka is none in a container: {broker.source}")
    source = f"""
{samples()}

class Others(flux.Producer):
    topic = "others"

def test_real_kafka_one(flux_kafka):
    flux.configure(adapter=f"confluent://{{flux_kafka}}?allow.auto.create.topics=true")
    assert Others.send(b"one").result(30).offset == 0

def test_real_kafka_two(flux_kafka):
    assert Others.send(b"two").result(30).offset == 1
"""
    printed = run(tmp_path, source, "-k", "real_kafka")
    assert "3 passed" in printed, printed
