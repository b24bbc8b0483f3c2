"""What is called for a record of a task: its `call`, with everything that its settings put around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux.consuming.call_chain import (
    Handler,
    decoding,
    ending_children,
    expiring,
    limited,
    prepared,
    skipping,
    surrounded,
)
from flux.consuming.call_timing import SlowCalls

if TYPE_CHECKING:
    from flux.consuming.task_runtime import TaskRuntime


def handler_of(job: TaskRuntime) -> Handler:
    """See `TaskRuntime.handler`. Each feature that the task does not use is left out."""
    policy, awaited, batched = job.policy, job.awaited, job.policy.batch is not None
    handler = surrounded(job.task.call, job.middleware, awaited)
    if policy.timeout is not None and awaited:
        handler = limited(handler, policy.timeout)
    steps = [] if job.skips is None else [skipping(job.skips)]
    steps += [] if policy.give_up_after is None else [expiring(policy.give_up_after, job.system.now)]
    if job.decoder is not None:
        steps.append(decoding(job.decoder))
    if batched:
        handler = job.form.prepared_batch(handler, steps)
    else:
        handler = prepared(handler, steps)
    coordinator = job.coordinator
    if coordinator is None:
        return handler
    if policy.timeout is not None and not awaited:
        coordinator.inspection.slow_calls = SlowCalls(policy.timeout, job.system.monotonic)
        handler = coordinator.inspection.slow_calls.watching(handler)
    if coordinator.hook_dispatch.sees_calls(batched):
        handler = ending_children(handler, awaited)
    return job.form.notifying(coordinator.hook_dispatch, handler, batched)  # type: ignore[no-any-return]
