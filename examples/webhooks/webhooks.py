"""Delivers webhooks: a few bytes of JSON to a customer's URL, for days if need be, and never lost.

Try it against a Kafka at localhost:9092:

    export FLUX_ADAPTER=confluent://localhost:9092
    flux process --load examples/webhooks/webhooks.py --create-topics DeliverWebhook

Its tests need no Kafka: `pytest examples/webhooks`.
"""

import json
import urllib.error
import urllib.request
from typing import Any

import flux
from flux.serde import json_deserializer, json_serializer

GIVE_UP_STATUSES = {400, 401, 403, 404, 410}
"""What the customer has to mend: trying again will not."""


class Webhooks(flux.Producer):
    topic = "webhooks"
    serializer = json_serializer


class Receipts(flux.Producer):
    topic = "webhook-receipts"
    serializer = json_serializer


def notify(customer: str, url: str, event: dict[str, Any]) -> None:
    """What the rest of the application calls. The key keeps one customer's events in order, while none fails."""
    Webhooks.produce({"url": url, "event": event}, key=customer)


class DeliverWebhook(flux.Task):
    topic = "webhooks"
    group_id = "delivery"
    retries = 25  # the default waits add up to 25 days
    deserializer = json_deserializer

    def call(self, message: flux.Message) -> None:
        webhook = message.value
        status, retry_after = post(webhook["url"], webhook["event"], {"Idempotency-Key": message.id})
        if status in GIVE_UP_STATUSES:
            raise flux.Reject(f"{webhook['url']} answers {status}")
        if status == 429 and retry_after is not None:
            raise flux.Retry("asked to slow down", after=retry_after)
        if status >= 300:
            raise ConnectionError(f"{webhook['url']} answers {status}")
        Receipts.produce({"webhook": message.id, "attempt": message.attempt}, key=message.key)


def post(url: str, event: dict[str, Any], headers: dict[str, str]) -> tuple[int, float | None]:
    """(status, seconds that the other side asks to wait). Raises OSError when nobody answers."""
    data = json.dumps(event).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, None
    except urllib.error.HTTPError as answer:
        wait = answer.headers.get("Retry-After", "")
        return answer.code, float(wait) if wait.isdecimal() else None
