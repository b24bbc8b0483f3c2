"""A task's settings, read from its class or instance and checked."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec

from flux.core.backoff import Waits
from flux.core.engine.batches import OpenBatch
from flux.core.engine.verdicts import PROCESS, Rules
from flux.core.errors import ConfigurationError
from flux.core.policy import Policy
from flux.core.stage import Stages
from flux.core.type_variables import R
from flux.core.validation import check_switch, shown
from flux.serde.parameters import assigned

P = ParamSpec("P")


class on_both(Generic[P, R]):  # noqa: N801
    """A method that can be called on a class and on its instances, which may have their own settings."""

    def __init__(self, function: Callable[Concatenate[Any, P], R]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: object, owner: type) -> Callable[P, R]:
        return partial(self._function, owner if instance is None else instance)


def policy_of(task: Any, cls: type, batch: OpenBatch | None) -> Policy:
    """The policy of a task: of its class `cls`, or of an instance with settings of its own. Raises ConfigurationError,
    in one line that names the task."""
    for name in ("topic", "group_id"):
        if not isinstance(getattr(task, name), str) or not getattr(task, name):
            raise ConfigurationError(f"{cls.__name__} has no {name}: set {name} = '…' in the class")
    policy = Policy(
        stages=Stages(task.topic, task.group_id, task.retries, assigned(task, "naming")),
        waits=Waits(assigned(task, "wait"), task.max_delay),
        rules=Rules(task.retry_on, task.reject_on, task.pause_on, (*PROCESS, CancelledError)),
        ordering=task.ordering,
        retry_order=task.retry_order,
        on_dead=task.on_dead,
        concurrency=task.concurrency,
        commit_interval=task.offset_commit_interval,
        commit_threshold=task.offset_commit_threshold,
        start_from=task.start_from,
        error_headers=assigned(task, "error_headers"),
        drain_timeout=task.drain_timeout,
        shutdown_timeout=task.shutdown_timeout,
        max_waiting=task.max_waiting,
        max_waiting_bytes=task.max_waiting_bytes,
        max_metadata=task.max_metadata,
        stalled_after=task.stalled_after,
        in_place_retries=task.in_place_retries,
        in_place_wait=task.in_place_wait,
        give_up_after=task.give_up_after,
        rate_limit=task.rate_limit,
        rate_limit_scope=task.rate_limit_scope,
        rate_limit_key=assigned(task, "rate_limit_key"),
        concurrency_key=assigned(task, "concurrency_key"),
        concurrency_per_key=task.concurrency_per_key,
        pause_when=task.pause_when,
        timeout=task.timeout,
        max_crashes=task.max_crashes,
        batch=batch,
        exactly_once=task.exactly_once,
    )
    try:
        for name in ("acknowledge_produced", "hold_produced", "exactly_once"):
            check_switch(name, getattr(task, name))
        policy.check()
        if task.exactly_once and not (task.acknowledge_produced and task.hold_produced):
            raise ConfigurationError(
                "exactly_once includes what calls produce: leave acknowledge_produced and hold_produced as they are"
            )
    except ConfigurationError as error:
        raise ConfigurationError(f"{cls.__name__}: {error}") from None
    for name in ("deserializer", "serializer"):
        function = assigned(task, name)
        if function is not None and not callable(function):
            raise ConfigurationError(
                f"{cls.__name__}: {name} = {shown(function)}: give a function, such as flux.serde.json_{name}"
            )
    return policy
