"""`Task.enqueue` and `cancel`: write records for a task, to be processed at once, at a given time, or not."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import attrs

from flux import config
from flux.config import AdapterChoice, ProducerOptions
from flux.core import flux_headers
from flux.core.delayed_work import checked_name, delayed_headers
from flux.core.errors import ConfigurationError
from flux.core.policy import Policy
from flux.core.ports import Cluster
from flux.core.validation import Seconds, is_number, seconds, shown
from flux.producer import Producer
from flux.producing.delivery import Delivery
from flux.producing.encoding import HeadersLike, encode_headers
from flux.producing.registry import PRODUCERS

if TYPE_CHECKING:
    from flux.task import Task


def enqueue(
    task: Any,
    policy: Policy,
    serializer: Callable[[Any], Any] | None,
    value: Any,
    key: str | bytes | None,
    headers: HeadersLike | None,
    delay: Seconds | None,
    at: datetime | None,
    id: str | None,
) -> Delivery:
    """See `flux.Task.enqueue`. `task`: its class, or an instance."""
    due = _due(policy, delay, at)
    if due is None:
        if id is not None:
            raise ConfigurationError(
                "enqueue(id=…) needs delay or at: only work that waits has an id; delay=0: at once"
            )
        return _producer(task, policy.stages.topic, None, serializer).send(value, key=key, headers=headers)
    name = None if id is None else (flux_headers.ID, checked_name(id, "id"))
    return _send(task, policy, serializer, "enqueue with a delay", due, value, key, own_headers(headers), name)


def cancel(task: type[Task] | Task, id: str) -> Delivery:
    """The same as `task.cancel(id)`. `task`: its class, or an instance."""
    if not callable(getattr(task, "cancel", None)) or not hasattr(task, "enqueue"):
        raise ConfigurationError(f"cancel({shown(task)}, …): give the task's class, then the id")
    return task.cancel(id)


def write_cancellation(task: Any, policy: Policy, serializer: Callable[[Any], Any] | None, id: str) -> Delivery:
    """See `flux.Task.cancel`."""
    due = math.ceil(PRODUCERS.system.now() * 1000)
    name = (flux_headers.CANCELLED, checked_name(id, "id"))
    return _send(task, policy, serializer, "cancel", due, None, None, [], name)


def _send(
    task: Any,
    policy: Policy,
    serializer: Callable[[Any], Any] | None,
    what: str,
    due: int,
    value: Any,
    key: str | bytes | None,
    headers: list[tuple[str, Any]],
    name: tuple[str, str] | None,
) -> Delivery:
    """Writes a record to the first retry topic, all records of a name to one partition."""
    if policy.stages.retries < 1:
        raise ConfigurationError(f"{name_of(task)}.{what} needs a retry topic: set retries to 1 or more")
    options = attrs.evolve(config.current.producer, acks="all")
    producer = _producer(task, policy.stages[1].topic, options, serializer)
    all_headers = delayed_headers(policy, headers, due, name)
    return producer.send(value, key=key, headers=all_headers, partition_key=None if name is None else name[1])


def own_headers(headers: HeadersLike | None) -> list[tuple[str, Any]]:
    """A user's headers as pairs. Raises ConfigurationError for one of flux's own."""
    own: list[tuple[str, Any]] = [] if headers is None else [*encode_headers(headers)]
    if forged := [name for name, _ in own if name.startswith(flux_headers.PREFIX)]:
        raise ConfigurationError(f"header {forged[0]!r}: names that begin with {flux_headers.PREFIX} are flux's own")
    return own


def _due(policy: Policy, delay: Seconds | None, at: datetime | None) -> int | None:
    """Milliseconds since the epoch; None: at once."""
    if delay is None and at is None:
        return None
    now = PRODUCERS.system.now()
    if at is not None:
        if delay is not None:
            raise ConfigurationError("enqueue: give delay or at, not both")
        if not isinstance(at, datetime):
            raise ConfigurationError(f"enqueue(at={shown(at)}): give a datetime with a time zone")
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


def name_of(task: Any) -> str:
    return str((task if isinstance(task, type) else type(task)).__name__)


def producer_class(
    module: str,
    name: str,
    topic: str,
    adapter: AdapterChoice | Cluster,
    options: ProducerOptions | None,
    serializer: Callable[[Any], Any] | None = None,
) -> type[Producer]:
    """A producer of flux's own. `module` and `name`: as messages show it."""
    attributes = {
        "__module__": module,
        "__qualname__": name,
        "topic": topic,
        "adapter": adapter,
        "options": options,
        "serializer": None if serializer is None else staticmethod(serializer),
    }
    return types.new_class(name, (Producer,), exec_body=lambda names: names.update(attributes))


def _producer(
    task: Any, topic: str, options: ProducerOptions | None, serializer: Callable[[Any], Any] | None
) -> type[Producer]:
    """The task's producer, which its class or instance keeps; another one when its cluster or options have changed."""
    wanted = (topic, task.adapter, options, serializer)
    producers: dict[str, tuple[tuple[Any, ...], type[Producer]]] = task.__dict__.get("_producers", {})
    known = producers.get(topic)
    if known is None or known[0] != wanted:
        module = (task if isinstance(task, type) else type(task)).__module__
        name = f"{name_of(task)}.enqueue"
        known = wanted, producer_class(module, name, topic, task.adapter, options, serializer)
        task._producers = {**producers, topic: known}
    return known[1]
