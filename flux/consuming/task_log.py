"""Writes one task's log lines, with as much of errors as the task's `error_headers` allows. Called without a lock.

Text is logged, not exceptions: a handler that keeps log records would keep the frames of tracebacks too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from flux.consuming.call_timing import Late
from flux.consuming.hook_dispatch import log_fields
from flux.core.engine.commands import LogEvent, Stall
from flux.core.engine.forwards import Failure, describe
from flux.core.engine.verdicts import Move
from flux.core.error_text import brief, error_name
from flux.core.errors import FluxError
from flux.core.hooks import StageInfo
from flux.core.message import Message
from flux.core.monitoring.log_throttle import Count, LogThrottle, and_more
from flux.core.monitoring.report import ranges_of
from flux.core.policy import Policy
from flux.core.ports import TopicPartition
from flux.core.stage import Role, Stage
from flux.system.tracebacks import text_of

logger = logging.getLogger("flux.worker")


class TaskLog:
    """Of the task named `task`. Times in seconds."""

    def __init__(self, task: str, policy: Policy) -> None:
        self._task = task
        self._policy = policy
        self._paused_at = 0.0
        """The start of the pause that was logged last."""
        self._throttle = LogThrottle()

    def noticed(self, where: StageInfo, log_event: LogEvent, now: float) -> None:
        """A log event of an engine, unless it is throttled."""
        left_out = 0 if log_event.kind is None else self._throttle.admit(log_event.kind, now)
        if left_out is not None:
            fields = log_fields(where, log_event.about)
            logger.log(log_event.level, "%s%s", log_event.text, and_more(left_out), extra=fields)

    def lost(self, lost: Sequence[tuple[StageInfo, Sequence[TopicPartition]]]) -> None:
        """Lost partitions of all stages in one line, because they usually have one cause."""
        where, of = lost[0]
        fields = log_fields(where, of[0]) if len(lost) == len(of) == 1 else {"task": self._task}
        named = _partitions(lost)
        logger.warning("%s has lost %s: records in flight are processed again", self._task, named, extra=fields)

    def rebalanced(self, event: str, changed: Sequence[tuple[StageInfo, Sequence[TopicPartition]]]) -> None:
        """Partitions of all stages that were "assigned" or "revoked", in one line."""
        logger.info("%s: %s %s", self._task, event, _partitions(changed), extra={"task": self._task, "event": event})

    def failed(self, where: StageInfo, stage: Stage, message: Message, failure: Failure, move: Move) -> None:
        """The first failure of a kind, in full."""
        stages, setting = self._policy.stages, self._policy.error_headers
        following = stages.after(stage)
        if following is not None and message.flux_headers.order is not None:
            following = stages.after_attempts(message.attempt)  # it may have followed another record here
        kind, text, _ = describe(failure, setting)
        trace = text_of(failure.error) if setting == "full" and failure.trace else ""
        level, becomes = logging.ERROR, "becomes a dead letter"
        if move is Move.AGAIN:
            level, becomes = logging.WARNING, "is tried again in place"
        elif following is None:
            becomes = "stays one"
        elif move is Move.NEXT and following.role is not Role.DEAD:
            level, becomes = logging.WARNING, f"moves to {following.topic}"
        logger.log(
            level,
            "%s: %s[%d]@%d failed on attempt %d and %s: %s%s%s",
            where.task,
            message.topic,
            message.partition,
            message.offset,
            message.attempt,
            becomes,
            kind,
            f": {text}" if text else "",
            f"\n{trace}" if trace else "",
            extra={**log_fields(where, message), "error": kind, "exception": trace},
        )

    def counted(self, where: StageInfo, count: Count) -> None:
        """More failures of a kind that was logged."""
        name, place, _ = count.kind
        logger.warning(
            "%s: %d more calls of %s failed in %.0f s with %s%s",
            where.task,
            count.number,
            where.topic,
            count.seconds,
            name,
            place,
            extra={**log_fields(where), "error": name, "count": count.number},
        )

    def paused(self, error: BaseException, since: float, tried_in: float) -> None:
        """An outage was found, or found again. `since`: the start of the pause."""
        kind, text, _ = describe(Failure(error), self._policy.error_headers)
        level = logging.INFO if since == self._paused_at else logging.WARNING
        self._paused_at = since
        logger.log(
            level,
            "%s is paused: %s%s; no record moves, one is tried in %.1f s",
            self._task,
            kind,
            f": {text}" if text else "",
            tried_in,
            extra={"task": self._task, "error": kind},
        )

    def resumed(self, seconds: float) -> None:
        """A pause of `seconds` has ended."""
        logger.warning("%s resumed after a pause of %.1f s", self._task, seconds, extra={"task": self._task})

    def stalled(self, where: StageInfo, stall: Stall, stack: str) -> None:
        """A partition or stage makes no progress. `stack`: that of the call that it waits for, if any."""
        logger.warning("%s%s", stall.text, _at(stack), extra=log_fields(where, stall.about))

    def slow_calls(self, where: StageInfo, late: Late, seconds: float, stack: str) -> None:
        """A call that cannot be cancelled has run for longer than the task's `timeout`."""
        logger.warning(
            "%r has run for %.1f s, longer than timeout = %g s%s",
            late.message,
            seconds,
            self._policy.timeout,
            _at(stack),
            extra=log_fields(where, late.message),
        )


def _partitions(changed: Sequence[tuple[StageInfo, Sequence[TopicPartition]]]) -> str:
    return ", ".join(
        f"{where.topic}[{ranges_of(each.partition for each in of) or 'none'}]"
        for where, of in sorted(changed, key=lambda each: each[0].stage)
    )


def _at(stack: str) -> str:
    return f", at\n{stack}" if stack else ""


def log_end(task: str, failure: BaseException) -> None:
    """Logs why a worker ends with an error."""
    if issubclass(type(failure), FluxError):  # of the cluster or the user
        logger.error("%s: %s", task, failure)
    else:
        trace = text_of(failure)
        extra = {"task": task, "error": error_name(type(failure)), "exception": trace}
        logger.error("%s: the process failed: %s\n%s", task, brief(failure), trace, extra=extra)
