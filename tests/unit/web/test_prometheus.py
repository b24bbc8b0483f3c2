"""The history that a Prometheus has, and what a page shows when that has none."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from flux.core.errors import ConfigurationError
from flux.observe import names
from flux.system import SYSTEM
from flux.web import prometheus
from flux.web.prometheus import FRESH, POINTS, RANGES, PrometheusHistory, PrometheusUnavailable, queries
from unit.support.web_support import Web, text_of

Answer = Callable[[dict[str, str]], tuple[int, bytes]]


class FakePrometheus:
    """`answer`: from the fields of a query to status and body. `asked`: these fields; `headers` of the last one."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.headers: dict[str, str] = {}
        self.answer: Answer = lambda _: (200, values_of([]))
        self.hangs = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                address = urlsplit(self.path)
                outer.asked.append(
                    {"path": address.path} | {name: value[0] for name, value in parse_qs(address.query).items()}
                )
                outer.headers = dict(self.headers)
                status, body = outer.answer(outer.asked[-1])
                self.send_response(status)
                if status == 302:
                    self.send_header("location", f"http://127.0.0.1:{outer.port}/elsewhere")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def hang(self, _: dict[str, str]) -> tuple[int, bytes]:
        self.hangs.wait(60)
        return 200, b""


def values_of(values: list[tuple[float, str]]) -> bytes:
    result = [{"metric": {}, "values": values}] if values else []
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}).encode()


@pytest.fixture
def fake() -> Iterator[FakePrometheus]:
    found = FakePrometheus()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield found
    found.hangs.set()
    found.server.shutdown()
    found.server.server_close()
    thread.join(60)


def test_the_queries_name_flux_s_own_metrics_of_the_tasks_and_the_operators_labels() -> None:
    found = queries(["Billing", "Mails"], 300, ',namespace="shop"')
    tasks = 'task=~"Billing|Mails"'
    assert found["done"] == f'sum(rate(flux_calls_total{{{tasks},result="done",namespace="shop"}}[300s]))'
    assert found["lag"] == f'sum(flux_lag_records{{{tasks},namespace="shop"}})'
    assert set(found) == {"done", "failed", "lag", "waiting", "dead"}
    for each in (names.CALLS, names.LAG, names.DUE, names.DEAD):
        assert {"task", "stage"} <= set(each.labels)


def test_a_page_shows_the_chosen_range(fake: FakePrometheus) -> None:
    web = Web(prometheus=f"{fake.url}/prom/")
    web.take_sample()

    def answer(fields: dict[str, str]) -> tuple[int, bytes]:
        start, step = float(fields["start"]), float(fields["step"])
        last = "NaN" if "failed" in fields["query"] else "7300" if "dead" in fields["query"] else "41"
        return 200, values_of([(start, "1"), (start + step, last)])

    fake.answer = answer
    assert fake.asked == [], "nothing is read that nobody wants"
    page = web.get("/tasks/Billing?range=7d")
    assert 'aria-label="Lag over 42.0 minutes: now records 41; at most 41"' in page
    assert "Dead letters per hour 7,300" in text_of(page)
    assert '<a href="?range=7d" aria-current="true">7 days</a>' in page
    for asked in fake.asked:
        assert asked["path"] == "/prom/api/v1/query_range"
        assert float(asked["end"]) - float(asked["start"]) == RANGES["7d"]
        assert RANGES["7d"] / float(asked["step"]) <= POINTS + 1
    count = len(fake.asked)
    web.get("/tasks/Billing?range=7d")
    assert len(fake.asked) == count, "visitors share an answer"
    web.yard.system.time += FRESH + 1
    web.get("/?range=1h")
    assert len(fake.asked) == 2 * count


def test_without_a_prometheus_or_a_range_a_page_shows_its_own_history(fake: FakePrometheus) -> None:
    plain = Web()
    plain.take_sample()
    assert "range=" not in plain.get("/tasks/Billing?range=7d")
    web = Web(prometheus=fake.url)
    web.take_sample()
    for query in ("", "?range=", "?range=99y", "?range=<b>"):
        page = web.get(f"/tasks/Billing{query}")
        assert '<a href="?" aria-current="true">since the start</a>' in page
    assert fake.asked == []


def broken(status: int, body: bytes) -> Answer:
    return lambda _: (status, body)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (broken(400, b'{"status":"error","error":"invalid \\"step\\"\\n"}'), 'refuses the query: invalid "step"'),
        (broken(503, b"<html>"), "refuses the query: HTTP 503"),
        (broken(302, b""), "refuses the query: HTTP 302"),
        (broken(200, b"<html>"), "does not answer as Prometheus does"),
        (broken(200, b'{"data": {"result": [[1]]}}'), "does not answer as Prometheus does"),
        (broken(200, b'{"data": {"result": [{"values": [[1, "x"]]}]}}'), "does not answer as Prometheus does"),
        (broken(200, b"[" * 100_000), "does not answer as Prometheus does"),
        (broken(200, b" " * (prometheus.MAX_BYTES + 1)), "is longer than 4,000,000 bytes"),
    ],
)
def test_what_it_cannot_answer_is_one_line_of_the_page(fake: FakePrometheus, answer: Answer, line: str) -> None:
    fake.answer = answer
    web = Web(prometheus=fake.url)
    web.take_sample()
    page = text_of(web.get("/tasks/Billing?range=6h"))
    assert line in page
    assert "this is the history since the start of these pages" in page
    assert all(asked["path"] == "/api/v1/query_range" for asked in fake.asked), "a redirection is not followed"
    count = len(fake.asked)
    web.get("/tasks/Billing?range=1d")
    assert len(fake.asked) == count, "it is left alone for a while"
    fake.answer = broken(200, values_of([]))
    web.yard.system.time += FRESH + 1
    assert line not in text_of(web.get("/tasks/Billing?range=6h"))


def test_one_that_does_not_answer_holds_no_page(fake: FakePrometheus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "SECONDS", 0.1)
    fake.answer = fake.hang
    web = Web(prometheus=fake.url)
    web.take_sample()
    assert "has not answered within 0.1 seconds" in text_of(web.get("/tasks/Billing?range=6h"))
    assert len(fake.asked) == 1


def test_one_request_at_a_time_waits_for_it(fake: FakePrometheus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "_PATIENCE", 0.01)
    history = PrometheusHistory(fake.url, "", SYSTEM)
    with history._lock, pytest.raises(PrometheusUnavailable, match="has not answered another page yet"):
        history.history(["Billing"], "1h")


def test_one_that_is_not_there_is_named_without_its_password() -> None:
    web = Web(prometheus="http://me:s3cret@127.0.0.1:1")
    web.take_sample()
    page = web.get("/tasks/Billing?range=6h")
    assert "Prometheus at 127.0.0.1:1 is unavailable: Connection refused" in text_of(page)
    assert "s3cret" not in page
    assert "s3cret" not in repr(web.context.options)


def test_the_login_of_its_address_is_sent_to_it(fake: FakePrometheus) -> None:
    url = fake.url.replace("http://", "http://me:s%40cret@")
    PrometheusHistory(url, "", SYSTEM).history(["Billing"], "1h")
    assert fake.headers["Authorization"] == "Basic bWU6c0BjcmV0"


@pytest.mark.parametrize(
    "url", ["prometheus:9090", "file:///etc/passwd", "http://", "http://h:x", "http://h:9090/?a=1", "ftp://h"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="http://prometheus:9090"):
        PrometheusHistory(url, "", SYSTEM)
