from __future__ import annotations

from typing import Any

import pytest
import webhooks
from webhooks import DeliverWebhook, notify

from flux.testing import Kit

DAY = 24 * 60 * 60
URL = "https://shop.example/hooks"

Answer = tuple[int, float | None]


class Endpoint:
    """The customer's side: gives its answers one after another, and the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[Answer | OSError] = [(200, None)]
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []

    def post(self, url: str, event: dict[str, Any], headers: dict[str, str]) -> Answer:
        self.requests.append((url, event, headers))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    made = Endpoint()
    monkeypatch.setattr(webhooks, "post", made.post)
    return made


def test_a_webhook_is_delivered_and_receipted(flux_kit: Kit, endpoint: Endpoint) -> None:
    notify("ada", URL, {"order": 1})
    flux_kit.run(DeliverWebhook)
    assert endpoint.requests == [(URL, {"order": 1}, {"Idempotency-Key": "webhooks/0/0"})]
    flux_kit.assert_produced("webhook-receipts", key="ada", json={"webhook": "webhooks/0/0", "attempt": 1})


def test_an_outage_of_the_customer_is_waited_for(flux_kit: Kit, endpoint: Endpoint) -> None:
    endpoint.answers = [ConnectionRefusedError("nobody listens"), (503, None), (200, None)]
    notify("ada", URL, {"order": 1})
    flux_kit.run(DeliverWebhook)
    (waiting,) = flux_kit.waiting(DeliverWebhook)
    assert waiting.stage == 1
    assert 16 <= waiting.seconds <= 74  # type: ignore[operator]

    flux_kit.clock.advance(15)
    assert flux_kit.run(DeliverWebhook).done == 0, "it was tried before its time"

    flux_kit.run_to_the_end(DeliverWebhook)
    flux_kit.assert_produced("webhook-receipts", json={"webhook": "webhooks/0/0", "attempt": 3})
    assert {headers["Idempotency-Key"] for _, _, headers in endpoint.requests} == {"webhooks/0/0"}


def test_a_customer_who_is_away_for_weeks_is_given_up_in_the_end(flux_kit: Kit, endpoint: Endpoint) -> None:
    endpoint.answers = [(500, None)]
    before = flux_kit.clock.now()
    notify("ada", URL, {"order": 1})
    flux_kit.run_to_the_end(DeliverWebhook)
    assert len(endpoint.requests) == 26
    assert 20 * DAY < flux_kit.clock.now() - before < 30 * DAY
    letter = flux_kit.dead_letters(DeliverWebhook).one()
    assert (letter.key, letter.reason) == (b"ada", "exhausted")
    assert letter.json() == {"url": URL, "event": {"order": 1}}


def test_what_the_customer_has_to_mend_is_not_tried_again(flux_kit: Kit, endpoint: Endpoint) -> None:
    endpoint.answers = [(410, None)]
    notify("ada", URL, {"order": 1})
    assert flux_kit.run(DeliverWebhook).dead == 1
    assert flux_kit.dead_letters(DeliverWebhook).one().error_message == f"{URL} answers 410"


def test_a_customer_who_asks_for_time_gets_it(flux_kit: Kit, endpoint: Endpoint) -> None:
    endpoint.answers = [(429, 600.0), (200, None)]
    notify("ada", URL, {"order": 1})
    flux_kit.run(DeliverWebhook)
    assert [each.seconds for each in flux_kit.waiting(DeliverWebhook)] == [600]
    flux_kit.clock.advance(600)
    assert flux_kit.run(DeliverWebhook).done == 1


def test_the_outage_of_one_customer_holds_nobody_else_up(flux_kit: Kit, endpoint: Endpoint) -> None:
    endpoint.answers = [(500, None), (200, None)]
    notify("ada", URL, {"order": 1})
    notify("bob", URL, {"order": 2})
    flux_kit.run(DeliverWebhook)
    assert flux_kit.topic("webhook-receipts").keys == [b"bob"]


def test_what_is_no_json_is_a_dead_letter(flux_kit: Kit) -> None:
    flux_kit.produce("webhooks", b"{broken", key="ada")
    flux_kit.run(DeliverWebhook)
    assert flux_kit.dead_letters(DeliverWebhook).one().reason == "undecodable"
