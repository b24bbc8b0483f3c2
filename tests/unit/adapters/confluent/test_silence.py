"""Which brokers are named as silent, by librdkafka's statistics."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flux.adapters.confluent.log import ClientLog
from flux.adapters.confluent.silence import INTERVAL_MS, Silence
from unit.support.memory_support import ScriptedSystem


def broker(name: str, state: str = "UP", waits: int = 0, came: int = 0, source: str = "learned", age: float = 0) -> Any:
    return {
        "nodename": name,
        "source": source,
        "state": state,
        "stateage": int(age * 1e6),
        "waitresp_cnt": waits,
        "rxbytes": came,
    }


class Watched:
    def __init__(self, **properties: Any) -> None:
        self.system = ScriptedSystem()
        self.silence = Silence(properties, ClientLog(str, self.system), self.system.now)

    def look(self, *brokers: Any) -> None:
        shown = {str(number): each for number, each in enumerate(brokers)}
        self.silence.on_statistics(f'{{"name": "x", "brokers":{json.dumps(shown)}, "topics": {{ not read')
        self.system.time += INTERVAL_MS / 1000


def test_a_broker_that_answers_nothing_is_named_within_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    for _ in range(4):
        watched.look(broker("a:1", waits=3, came=17), broker("b:2", waits=0, came=17))
    assert [line.getMessage() for line in caplog.records] == ["a:1 has not answered for 6 s"]


def test_a_broker_that_answers_now_and_then_is_not_named(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    for number in range(20):
        watched.look(broker("a:1", waits=1, came=number // 2))
    assert caplog.records == []


def test_an_idle_connection_is_not_named_when_it_is_used_again(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    for waits in (0, 0, 0, 0, 1, 0, 1, 0):
        watched.look(broker("a:1", waits=waits, came=17))
    assert caplog.records == []


def test_a_broker_that_takes_no_connection_is_named(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    watched.look(broker("a:1", "CONNECT", age=2.0), broker("b:2", "TRY_CONNECT", age=60), broker("c:3", "INIT", age=60))
    assert caplog.records == []
    watched.look(broker("a:1", "APIVERSION_QUERY", age=6.0))
    assert "a:1 has not answered for 6 s" in caplog.text


def test_who_waits_for_other_members_is_not_named(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    for _ in range(9):
        watched.look(broker("a:1", waits=1, source="logical"), broker("", waits=1, source="internal"))
    assert caplog.records == []


def test_a_fetch_that_waits_for_records_on_purpose_is_no_silence(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(**{"fetch.wait.max.ms": 10_000})
    for _ in range(4):
        watched.look(broker("a:1", waits=1, came=17))
    assert caplog.records == []


def test_a_user_s_callback_hears_the_statistics_too_and_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []

    def users(statistics: str) -> None:
        heard.append(statistics)
        raise ValueError("mine")

    silence = Silence({"stats_cb": users}, ClientLog(str, ScriptedSystem()), lambda: 0.0)
    given = silence.properties({"statistics.interval.ms": 60_000, "stats_cb": users})
    assert given["statistics.interval.ms"] == 60_000
    given["stats_cb"]("{}")
    assert heard == ["{}"]
    assert "a callback for statistics failed" in caplog.text
