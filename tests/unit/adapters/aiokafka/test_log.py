"""What aiokafka logs is passed on once a minute for each kind, and an unavailable broker is named."""

from __future__ import annotations

import logging

import pytest
from aiokafka import errors as theirs

from flux.adapters.aiokafka import log
from flux.adapters.aiokafka.log import quieten
from flux.adapters.authentication import Warnings
from flux.core.errors import BrokerError, Fault
from flux.core.monitoring.log_throttle import LogThrottle
from flux.system import SYSTEM

CLOSED = theirs.KafkaConnectionError("Connection at 127.0.0.1:9092 closed")
REFUSED = BrokerError("cannot connect to 127.0.0.1:9093: Connection refused", Fault.UNAVAILABLE)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(log, "LOG", Warnings(str, SYSTEM, LogThrottle()))
    quieten()
    return caplog


def lines(said: pytest.LogCaptureFixture) -> list[str]:
    ours = [record.getMessage() for record in said.records if record.name == "flux.kafka"]
    return [line.removeprefix("aiokafka: ") for line in ours]


def test_unavailable_brokers_are_one_line_whatever_the_request_was(said: pytest.LogCaptureFixture) -> None:
    theirs_log = logging.getLogger("aiokafka.client")
    theirs_log.error("Failed fetch messages from %s: %s", 1, CLOSED)
    theirs_log.error("Heartbeat send request failed: %s. Will retry.", CLOSED)
    theirs_log.error("Unable connect to node with id %s: %s", 2, REFUSED)
    assert lines(said) == [f"Failed fetch messages from 1: {CLOSED}"]


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("Group Coordinator Request failed: %s", theirs.GroupCoordinatorNotAvailableError()),
        ("Failed fetch messages from 1: %s", theirs.RequestTimedOutError()),
        ("Failed fetch messages from 1: %s", theirs.KafkaTimeoutError()),
        ("Unable to update metadata from %s", [1, 2]),
    ],
)
def test_what_names_no_broker_does_not_suppress_the_line_that_does(
    text: str, given: object, said: pytest.LogCaptureFixture
) -> None:
    theirs_log = logging.getLogger("aiokafka.client")
    theirs_log.error(text, given)
    theirs_log.error("Heartbeat send request failed: %s. Will retry.", CLOSED)
    assert lines(said)[1:] == [f"Heartbeat send request failed: {CLOSED}. Will retry."]
