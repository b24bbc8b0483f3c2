"""`Task.enqueue`: writes a record for a task, to be processed at once or at a given time."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import attrs

from flux import config
from flux.config import ProducerOptions
from flux.core import flux_headers
from flux.core.errors import ConfigurationError
from flux.core.policy import Policy
from flux.core.validation import Seconds, is_number, seconds, shown
from flux.producer import Producer
from flux.producing.delivery import Delivery
from flux.producing.encoding import HeadersLike
from flux.producing.registry import PRODUCERS


def enqueue(
    task: Any,
    policy: Policy,
    serializer: Callable[[Any], Any] | None,
    value: Any,
    key: str | bytes | None,
    headers: HeadersLike | None,
    delay: Seconds | None,
    at: datetime | None,
) -> Delivery:
    """See `flux.Task.enqueue`. `task`: its class, or an instance."""
    due = _due(policy, delay, at)
    if due is None:
        return _producer(task, policy.stages.topic, None, serializer).send(value, key=key, headers=headers)
    if policy.stages.retries < 1:
        raise ConfigurationError(f"{_name(task)}.enqueue with a delay needs a retry topic: set retries to 1 or more")
    own = _pairs(headers)
    if forged := [name for name, _ in own if str(name).startswith(flux_headers.PREFIX)]:
        raise ConfigurationError(f"header {forged[0]!r}: names that begin with {flux_headers.PREFIX} are flux's own")
    stage = policy.stages[1]
    all_headers = [
        *own,
        (flux_headers.STAGE, "1"),
        (flux_headers.ATTEMPTS, "0"),
        (flux_headers.DUE, str(due)),
        (flux_headers.GROUP, policy.stages.group),
        (flux_headers.ORIGIN_TIMESTAMP, str(due)),  # its age counts from its due time
    ]
    options = attrs.evolve(config.current.producer, acks="all")
    return _producer(task, stage.topic, options, serializer).send(value, key=key, headers=all_headers)


def _due(policy: Policy, delay: Seconds | None, at: datetime | None) -> int | None:
    """Milliseconds since the epoch; None: at once."""
    if delay is None and at is None:
        return None
    now = PRODUCERS.system.now()
    if at is not None:
        if delay is not None:
            raise ConfigurationError("enqueue: give delay or at, not both")
        if not isinstance(at, datetime):
            raise ConfigurationError(f"enqueue(at={at!r}): give a datetime with a time zone")
        if at.tzinfo is None:
            raise ConfigurationError(f"enqueue(at={at.isoformat()}): give a datetime with a time zone")
        delay = max(at.timestamp() - now, 0.0)
    wait: float = seconds(delay)
    if not is_number(wait, 0, math.inf) or wait == math.inf:
        raise ConfigurationError(f"enqueue(delay={shown(wait)}): give seconds, 0 or more")
    if wait > policy.max_delay:
        raise ConfigurationError(
            f"enqueue: {shown(wait)} s is longer than max_delay = {policy.max_delay:g} s, for which retry topics are"
            " kept"
        )
    return math.ceil(round((now + wait) * 1000, 3))  # as `whole_ms`, rounded up


def _pairs(headers: HeadersLike | None) -> list[tuple[str, Any]]:
    if headers is None:
        return []
    pairs: Iterable[Any] = headers.items() if hasattr(headers, "items") else headers
    return list(pairs)


def _name(task: Any) -> str:
    return str((task if isinstance(task, type) else type(task)).__name__)


def _producer(
    task: Any, topic: str, options: ProducerOptions | None, serializer: Callable[[Any], Any] | None
) -> type[Producer]:
    """The task's producer, which its class or instance keeps; another one when its cluster or options have changed."""
    wanted = (topic, task.adapter, options, serializer)
    producers: dict[str, tuple[tuple[Any, ...], type[Producer]]] = task.__dict__.get("_producers", {})
    known = producers.get(topic)
    if known is None or known[0] != wanted:
        name = f"{_name(task)}.enqueue"
        attributes = {
            "__module__": (task if isinstance(task, type) else type(task)).__module__,
            "__qualname__": name,
            "topic": topic,
            "adapter": task.adapter,
            "options": options,
            "serializer": None if serializer is None else staticmethod(serializer),
        }
        producer: type[Producer] = types.new_class(name, (Producer,), exec_body=lambda names: names.update(attributes))
        known = wanted, producer
        task._producers = {**producers, topic: known}
    return known[1]
