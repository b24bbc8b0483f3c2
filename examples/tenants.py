"""Sends events to the systems of many tenants: a large tenant does not crowd out the others, a system that is down
holds up nobody else, and no system gets more than it can take.

Try it against a Kafka at localhost:9092:

    export FLUX_ADAPTER=confluent://localhost:9092
    flux process --load examples/tenants.py --create-topics
    flux status --load examples/tenants.py
"""

from __future__ import annotations

import logging
from typing import Any

import flux

logger = logging.getLogger("tenants")


def tenant(message: flux.Message[Any]) -> bytes | None:
    """flux decides by it before the call, so it looks at a header and not at the value."""
    return message.headers.get("tenant")


class Export(flux.Task[dict[str, Any]]):
    topic = "events"
    group_id = "export"
    retries = 10
    concurrency = 50
    concurrency_key = tenant
    concurrency_per_key = 5  # of the 50 calls, for one tenant
    rate_limit = 20  # calls a second for one tenant, of all processes together
    rate_limit_key = tenant
    rate_limit_scope = "group"
    pause_when = flux.FailureRate(0.5, of=20, within=60, by=tenant)

    def call(self, message: flux.Message[dict[str, Any]]) -> None:
        post((tenant(message) or b"").decode(), message.value)


def post(to: str, event: dict[str, Any]) -> None:
    logger.info("%s gets %s", to, event)
