from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import service
import webhooks
from fastapi.testclient import TestClient
from webhooks import DeliverWebhook, notify

import flux
from flux.testing import Kit

DAY = 24 * 60 * 60
URL = "https://shop.example/hooks"

Answer = httpx2.Response | httpx2.TransportError


class Endpoint:
    """The customer's server: returns its answers one after another, and then repeats the last one."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [httpx2.Response(200)]
        self.requests: list[tuple[str, dict[str, Any], str]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append((str(request.url), json.loads(request.content), request.headers["Idempotency-Key"]))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, httpx2.TransportError):
            raise answer
        return answer


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    made = Endpoint()
    monkeypatch.setattr(webhooks, "client", lambda: httpx2.AsyncClient(transport=httpx2.MockTransport(made)))
    return made


@pytest.fixture
def api(flux_kit: Kit) -> Iterator[TestClient]:
    with TestClient(service.app) as made:
        yield made


def test_what_the_service_accepts_is_delivered_and_receipted(
    flux_kit: Kit, endpoint: Endpoint, api: TestClient
) -> None:
    answer = api.post("/events", json={"customer": "ada", "url": URL, "data": {"order": 1}})
    assert (answer.status_code, answer.json()) == (202, {"id": "webhooks/0/0"})
    flux_kit.run(DeliverWebhook)
    assert endpoint.requests == [(URL, {"order": 1}, "webhooks/0/0")]
    flux_kit.assert_produced("webhook-receipts", key="ada", json={"webhook": "webhooks/0/0", "attempt": 1})


def test_the_service_accepts_nothing_that_kafka_does_not_have(flux_kit: Kit, api: TestClient) -> None:
    flux_kit.broker().fail_writes(lambda *_: flux.BrokerError("no permission"))
    answer = api.post("/events", json={"customer": "ada", "url": URL, "data": {}})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


def test_the_service_takes_no_url_that_is_none(flux_kit: Kit, api: TestClient) -> None:
    assert api.post("/events", json={"customer": "ada", "url": "shop.example", "data": {}}).status_code == 422
    assert flux_kit.topic("webhooks") == []


def test_an_outage_of_the_customer_is_waited_for(flux_kit: Kit, endpoint: Endpoint) -> None:
    endpoint.answers = [httpx2.ConnectError("nobody listens"), httpx2.Response(503), httpx2.Response(200)]
    notify("ada", URL, {"order": 1})
    flux_kit.run(DeliverWebhook)
    (waiting,) = flux_kit.waiting(DeliverWebhook)
    assert waiting.stage == 1
    assert 16 <= waiting.seconds <= 74  # type: ignore[operator]

    flux_kit.clock.advance(15)
    assert flux_kit.run(DeliverWebhook).done == 0, "it was tried before its time"

    flux_kit.run_to_the_end(DeliverWebhook)
    flux_kit.assert_produced("webhook-receipts", json={"webhook": "webhooks/0/0", "attempt": 3})
    assert {key for _, _, key in endpoint.requests} == {"webhooks/0/0"}


def test_a_customer_who_is_away_for_weeks_is_given_up_in_the_end(flux_kit: Kit, endpoint: Endpoint) -> None:
    endpoint.answers = [httpx2.Response(500)]
    before = flux_kit.clock.now()
    notify("ada", URL, {"order": 1})
    flux_kit.run_to_the_end(DeliverWebhook)
    assert len(endpoint.requests) == 26
    assert 20 * DAY < flux_kit.clock.now() - before < 30 * DAY
    letter = flux_kit.dead_letters(DeliverWebhook).one()
    assert (letter.key, letter.reason) == (b"ada", "exhausted")
    assert letter.json() == {"url": URL, "event": {"order": 1}}


def test_what_the_customer_has_to_mend_is_not_tried_again(flux_kit: Kit, endpoint: Endpoint) -> None:
    endpoint.answers = [httpx2.Response(410)]
    notify("ada", URL, {"order": 1})
    assert flux_kit.run(DeliverWebhook).dead == 1
    assert flux_kit.dead_letters(DeliverWebhook).one().error_message == f"{URL} answers 410"


def test_a_customer_who_asks_for_time_gets_it(flux_kit: Kit, endpoint: Endpoint) -> None:
    endpoint.answers = [httpx2.Response(429, headers={"Retry-After": "600"}), httpx2.Response(200)]
    notify("ada", URL, {"order": 1})
    flux_kit.run(DeliverWebhook)
    assert [each.seconds for each in flux_kit.waiting(DeliverWebhook)] == [600]
    flux_kit.clock.advance(600)
    assert flux_kit.run(DeliverWebhook).done == 1


def test_the_outage_of_one_customer_holds_nobody_else_up(flux_kit: Kit, endpoint: Endpoint) -> None:
    endpoint.answers = [httpx2.Response(500), httpx2.Response(200)]
    notify("ada", URL, {"order": 1})
    notify("bob", URL, {"order": 2})
    flux_kit.run(DeliverWebhook)
    assert flux_kit.topic("webhook-receipts").keys == [b"bob"]


@pytest.mark.parametrize("url", ["ftp://shop.example", "https://shop.example:port"])
def test_a_url_that_nothing_can_be_sent_to_is_a_dead_letter(flux_kit: Kit, url: str) -> None:
    notify("ada", url, {"order": 1})
    flux_kit.run(DeliverWebhook)
    assert flux_kit.dead_letters(DeliverWebhook).one().reason == "rejected"


def test_what_is_no_json_is_a_dead_letter(flux_kit: Kit) -> None:
    flux_kit.produce("webhooks", b"{broken", key="ada")
    flux_kit.run(DeliverWebhook)
    assert flux_kit.dead_letters(DeliverWebhook).one().reason == "undecodable"
