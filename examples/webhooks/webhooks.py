"""Delivers webhooks: JSON to a customer's URL, retried for days if necessary, and never lost.

See README.md beside it for how to run it; its tests need no Kafka: `pytest examples/webhooks`.
"""

from typing import Any

import httpx2

import flux

GIVE_UP_STATUSES = {400, 401, 403, 404, 410}
"""The customer must fix these: a retry is pointless."""


class Webhooks(flux.Producer[dict[str, Any]]):
    topic = "webhooks"


class Receipts(flux.Producer[dict[str, Any]]):
    topic = "webhook-receipts"


def notify(customer: str, url: str, event: dict[str, Any]) -> flux.Delivery:
    """For the rest of the application, which may await it. The key keeps one customer's events in order until one
    fails."""
    return Webhooks.send({"url": url, "event": event}, key=customer)


class DeliverWebhook(flux.Task[dict[str, Any]]):
    topic = "webhooks"
    group_id = "delivery"
    retries = 25  # the default waits add up to 25 days
    concurrency = 200  # calls that only wait are cheap in an event loop
    reject_on = (httpx2.InvalidURL, httpx2.UnsupportedProtocol)

    async def setup(self) -> None:
        self.http = client()

    async def call(self, message: flux.Message[dict[str, Any]]) -> None:
        webhook = message.value
        url, headers = webhook["url"], {"Idempotency-Key": message.id}
        answer = await self.http.post(url, json=webhook["event"], headers=headers)
        if answer.status_code in GIVE_UP_STATUSES:
            raise flux.Reject(f"{url} answers {answer.status_code}")
        if answer.status_code == 429 and answer.headers.get("Retry-After", "").isdecimal():
            raise flux.Retry("asked to slow down", after=float(answer.headers["Retry-After"]))
        if not answer.is_success:
            raise ConnectionError(f"{url} answers {answer.status_code}")
        # The webhook counts as done when its receipt is acknowledged.
        await Receipts.aproduce({"webhook": message.id, "attempt": message.attempt}, key=message.key)

    async def close(self) -> None:
        await self.http.aclose()


def client() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(timeout=10, limits=httpx2.Limits(max_connections=DeliverWebhook.concurrency))
