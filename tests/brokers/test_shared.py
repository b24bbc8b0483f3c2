"""One broker for all processes of a test run."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import brokers
from brokers import KafkaNode, shared


def test_the_first_starts_it_and_stops_it_when_the_last_has_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []

    @contextmanager
    def running() -> Iterator[KafkaNode]:
        happened.append("started")
        yield KafkaNode("127.0.0.1:9", source="a fake")
        happened.append("stopped")

    monkeypatch.setattr(brokers, "running", running)
    run = secrets.token_hex(8)
    first, second = shared(run), shared(run)
    assert first.__enter__() == second.__enter__() == KafkaNode("127.0.0.1:9", source="a fake")
    ending = threading.Thread(target=first.__exit__, args=(None, None, None))
    ending.start()
    ending.join(0.1)
    assert happened == ["started"]
    second.__exit__(None, None, None)
    ending.join(60)
    assert happened == ["started", "stopped"]
    with shared(run):
        assert happened == ["started", "stopped", "started"]
