"""Calls for which librdkafka has no time limit, such as closing a client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from flux.core.errors import BrokerError, Fault

_LEAVING = 1.0  # seconds: reached when the cluster is unavailable, and with KIP-848, whose members keep their ids


def ended_within(seconds: float, call: Callable[[], object], thread_name: str = "flux-close") -> bool:
    """Whether `call` has ended in time. Else it continues on a daemon thread. Raises what it raises until then."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name=thread_name, daemon=True)
    thread.start()
    thread.join(seconds)
    if failures:
        raise failures[0]
    return not thread.is_alive()


def leave_and_close(client: Any, static: bool) -> None:
    """Closes a consumer. Under the cooperative protocol librdkafka lets a member without partitions close without
    leaving, and the group waits until its session ends. A static member must not leave. Raises KafkaException."""
    if not static and not client.assignment():
        client.unsubscribe()
        # While it joins, librdkafka leaves only when it is polled once more; then it forgets its member id.
        until = time.monotonic() + _LEAVING
        while client.memberid() and time.monotonic() < until:
            client.consume(1, 0.01)
    client.close()


class ClosedConsumer:
    """Replaces the client of a closed consumer: every use raises BrokerError (FATAL)."""

    def __getattr__(self, name: str) -> Any:
        raise BrokerError("the consumer is closed", Fault.FATAL)
