"""A task's settings, read from its class or instance and checked."""

from __future__ import annotations

from asyncio import CancelledError
from typing import Any

from flux.core.backoff import Waits
from flux.core.engine.batches import OpenBatch
from flux.core.engine.verdicts import PROCESS, Rules
from flux.core.errors import ConfigurationError
from flux.core.policy import Policy
from flux.core.stage import Stages
from flux.core.validation import check_switch
from flux.serde.parameters import assigned


def policy_of(task: Any, cls: type, batch: OpenBatch | None) -> Policy:
    """The policy of a task: of its class `cls`, or of an instance with settings of its own. Raises ConfigurationError,
    in one line that names the task."""
    policy = Policy(
        stages=Stages(task.topic, task.group_id, task.retries, assigned(task, "naming")),
        waits=Waits(assigned(task, "wait"), task.max_delay),
        rules=Rules(task.retry_on, task.reject_on, task.pause_on, (*PROCESS, CancelledError)),
        ordering=task.ordering,
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
        policy.check()
        for name in ("acknowledge_produced", "hold_produced", "exactly_once"):
            check_switch(name, getattr(task, name))
        if task.exactly_once and not (task.acknowledge_produced and task.hold_produced):
            raise ConfigurationError(
                "exactly_once includes what calls produce: leave acknowledge_produced and hold_produced as they are"
            )
    except ConfigurationError as error:
        raise ConfigurationError(f"{cls.__name__}: {error}") from None
    return policy
