"""Event callbacks for a program's tasks: calls, forwards, commits, rebalances, pauses."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import attrs

from flux.core.errors import ConfigurationError
from flux.core.message import Message
from flux.core.ports import TopicPartition


@attrs.frozen(cache_hash=True)
class StageInfo:
    """One stage of one task."""

    task: str
    stage: int
    """0 is the main topic, 1 … the retries, retries + 1 the dead letters."""
    topic: str
    group: str


@attrs.frozen
class CallsReport:
    """Calls of one stage that one thread or asyncio task made one after the other."""

    records: int
    """Records that the calls were given."""
    seconds: Sequence[float]
    """Duration of each call in order, deserialization included; without calls that found an outage and calls in which
    the process failed."""
    late: Sequence[float]
    """For each record, how long after its due time its call began; in the main topic, after its timestamp. Records
    without one are left out."""
    failures: Mapping[str, int]
    """Number of failed records by the name of the exception's type."""
    batch: bool = False
    """Whether this is one call of a `flux.BatchTask`."""


class Hooks:
    """Subclass it, override the events that you need, and put instances into a task's `hooks`, or for all tasks into
    `flux.configure(hooks=[…])`. Only overridden methods are called.

    Methods about calls run where the call runs, on its thread or in its event loop. The others run on a thread of flux
    or in its event loop. Return quickly and do not block. Several threads may call them at once. An exception that a
    method raises is logged once per kind and has no other effect. Times are in seconds.
    """

    def around(self, where: StageInfo, message: Message) -> AbstractContextManager[object]:
        """Returns a context manager, such as a span, that is entered before the call and left after it, with the
        call's exception if it raised. It cannot suppress the exception. The value is not deserialized yet.

        After a call that found an outage it is left with `flux.Pause`, whose `__cause__` is the exception listed in
        `pause_on`. For a call of a `flux.BatchTask` it is entered once for each message."""
        return nullcontext()

    def around_batch(self, where: StageInfo, messages: Sequence[Message]) -> AbstractContextManager[object]:
        """As `around`, which it replaces, but entered once for a call of a `flux.BatchTask`. If some of the messages
        failed, it is left with `flux.BatchFailure`."""
        return nullcontext()

    def on_start(self, where: StageInfo, message: Message) -> None:
        """A call begins. The value is not deserialized yet."""

    def on_success(self, where: StageInfo, message: Message, seconds: float) -> None:
        """A call has returned. `seconds`: its duration, deserialization included."""

    def on_failure(self, where: StageInfo, message: Message, error: BaseException, seconds: float | None) -> None:
        """A call or its deserializer has raised; `flux.Retry` and `flux.Reject` count too. `seconds` None: the call
        returned, but what it produced was not delivered. Not called when the process itself fails."""

    def on_batch(self, where: StageInfo, messages: Sequence[Message], seconds: float) -> None:
        """A call of a `flux.BatchTask` has ended, other than by an outage. Before it, `on_success` or `on_failure` is
        called for each message with the duration of the whole call."""

    def on_calls(self, where: StageInfo, report: CallsReport) -> None:
        """One or many calls have ended: one report for all that one thread or task made in a row. A hook that only
        counts costs much less this way than with a method per call. A failure found after the call had returned,
        because what it produced was not delivered, comes in a report without calls."""

    def on_retry(self, where: StageInfo, message: Message, stage: int, wait: float) -> None:
        """The record was written to the retry topic of `stage` and acknowledged. `wait`: seconds until it is due."""

    def on_dead_letter(self, where: StageInfo, message: Message, reason: str, error: str) -> None:
        """The record was written to the dead-letter topic and acknowledged. `reason`: `exhausted`, `rejected`,
        `undecodable`, `tombstone`, `expired` or `crashed`; `error`: its type and message, as far as the task's
        `error_headers` allows."""

    def on_pause(self, task: str, seconds: float, error: BaseException) -> None:
        """A call found an outage (`flux.Pause`, or `pause_on`): the task makes no calls in this process until it tries
        one record after `seconds`. Called again after each try that finds the same. No record is moved, and
        `on_failure` is not called."""

    def on_resume(self, task: str, seconds: float) -> None:
        """The task makes calls again. `seconds`: duration of the whole pause."""

    def on_pause_name(self, task: str, name: str, seconds: float, error: BaseException) -> None:
        """As `on_pause`, for the calls of one host or tenant alone (`pause_when` with `by`). `error`: why, such as how
        many of how many calls failed."""

    def on_resume_name(self, task: str, name: str, seconds: float) -> None:
        """Calls for `name` are made again, or no record of it is here any more. `seconds`: duration of the pause."""

    def on_commit(self, where: StageInfo, offsets: Mapping[TopicPartition, int], error: Exception | None) -> None:
        """A commit has succeeded, or failed with `error`."""

    def on_assigned(self, where: StageInfo, partitions: Sequence[TopicPartition]) -> None:
        """The group has assigned these partitions to this process."""

    def on_revoked(self, where: StageInfo, partitions: Sequence[TopicPartition]) -> None:
        """These partitions were revoked. Their calls in flight have ended and are committed, unless `drain_timeout`
        was too short."""

    def on_lost(self, where: StageInfo, partitions: Sequence[TopicPartition]) -> None:
        """These partitions were lost, and another member may own them: records in flight are processed again."""


def check_hooks(hooks: object, owner: str) -> tuple[Hooks, ...]:
    """The hooks of `owner`. Raises ConfigurationError for an object or a method that flux would never call."""
    if not isinstance(hooks, Iterable) or isinstance(hooks, str):
        raise ConfigurationError(f"{owner} must be a list of flux.Hooks, not {type(hooks).__name__}")
    found = tuple(hooks)
    for each in found:
        if not isinstance(each, Hooks):
            what = f"the class {each.__name__}: make an instance" if isinstance(each, type) else type(each).__name__
            raise ConfigurationError(f"{owner} must hold instances of subclasses of flux.Hooks, not {what}")
        unknown = [name for name in dir(each) if name.startswith("on_") and not hasattr(Hooks, name)]
        if unknown:
            raise ConfigurationError(f"{owner}: {type(each).__name__}.{unknown[0]} is no hook; see flux.Hooks")
        for name in (name for name in vars(Hooks) if name.startswith(("on_", "around"))):
            method, what = getattr(each, name), f"{owner}: {type(each).__name__}.{name}"
            if inspect.iscoroutinefunction(method):
                raise ConfigurationError(f"{what} is a coroutine function, which is never awaited: make it a plain def")
            if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
                remedy = "decorate it with contextlib.contextmanager" if "around" in name else "take the yield out"
                raise ConfigurationError(f"{what} only makes a generator: {remedy}")
    return found
