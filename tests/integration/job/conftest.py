"""The main job on a real Kafka: tasks, their retry topics and dead letters, worked by real workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka.admin import AdminClient

pytest.register_assert_rewrite("integration.job.support")

if TYPE_CHECKING:
    from integration.job.support import Lab


@pytest.fixture
def lab(
    bootstrap: str,
    kafka_admin: AdminClient,
    unique: Callable[[], str],
    make_topic: Callable[..., str],
    read_all: Callable[..., list[Any]],
    tmp_path: Path,
) -> Iterator[Lab]:
    from integration.job.support import Lab

    lab = Lab(bootstrap, kafka_admin, unique, make_topic, read_all, tmp_path)
    yield lab
    for process in lab.processes:
        if process.poll() is None:
            process.kill()
        process.wait(60)
