"""A record whose call ends its process, on a real Kafka, with two processes: that record alone is dead."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flux

RECORDS, KILLER = 1000, 617
MOST_CALLS = 5
SECONDS = 150.0

BOOT = """
import os
import flux

class Fatal(flux.BASE):
    topic, group_id, retries, concurrency = os.environ["SOURCE"], os.environ["GROUP"], 1, 5
    exactly_once = EXACTLY_ONCE

    def call(self, given):
        for message in [given] if isinstance(given, flux.Message) else given:
            with open(os.environ["JOURNAL"], "a") as journal:
                journal.write(f"{message.value.decode()}\\n")
            if message.value == b"617":
                os.kill(os.getpid(), 9)
"""
CONFLUENT = "confluent://{}?session.timeout.ms=6000&heartbeat.interval.ms=1500"
AIOKAFKA = "aiokafka://{}?session_timeout_ms=6000&heartbeat_interval_ms=1500"


@pytest.mark.parametrize(
    ("url", "base", "exactly_once"),
    [
        pytest.param(CONFLUENT, "Task", False, id="confluent"),
        pytest.param(AIOKAFKA, "Task", False, id="aiokafka"),
        pytest.param(f"{CONFLUENT}&group.instance.id=member", "Task", True, id="confluent-static-exactly-once"),
        pytest.param(f"{AIOKAFKA}&group_instance_id=member", "BatchTask", False, id="aiokafka-static-batches"),
    ],
)
def test_a_record_that_kills_its_process_is_dead_and_all_others_are_done(
    bootstrap: str,
    make_topic: Callable[..., str],
    read_all: Callable[..., list[Any]],
    tmp_path: Path,
    url: str,
    base: str,
    exactly_once: bool,
) -> None:
    source = make_topic(4)
    group = f"{source}-crashes"
    dead = make_topic(name=f"{source}-{group}-dlq")

    class In(flux.Producer):
        topic = source

    In.adapter = flux.adapter_from_url(f"confluent://{bootstrap}")
    for number in range(RECORDS):
        In.produce(str(number).encode(), key=str(number))
    In.close()
    boot, journal, log = tmp_path / "boot.py", tmp_path / "journal", tmp_path / "log"
    boot.write_text(BOOT.replace("BASE", base).replace("EXACTLY_ONCE", str(exactly_once)))
    journal.touch()
    flux_command = str(Path(sys.executable).with_name("flux"))
    command = [flux_command, "process", "--load", str(boot), "--adapter", url.format(bootstrap), "--create-topics"]
    with log.open("w") as output:
        worker = subprocess.Popen(
            [*command, "--processes", "2", "Fatal"],
            stderr=output,
            stdout=output,
            env={**os.environ, "SOURCE": source, "GROUP": group, "JOURNAL": str(journal)},
        )
    try:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until and worker.poll() is None:
            if len(set(journal.read_text().split())) == RECORDS and read_all(dead):
                break
            time.sleep(0.5)
        assert worker.poll() is None, log.read_text()
    finally:
        worker.terminate()
        worker.wait(60)
    calls = Counter(journal.read_text().split())
    assert len(calls) == RECORDS, log.read_text()
    [record] = read_all(dead)
    headers = dict(record.headers())
    assert (record.value(), headers["flux-reason"]) == (str(KILLER).encode(), b"crashed")
    assert 4 <= calls[str(KILLER)] <= MOST_CALLS
    assert "restarting" in log.read_text()
