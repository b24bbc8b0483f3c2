"""What a program can hear of the work of its tasks."""

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
    """Calls of one stage that one caller made, one after the other."""

    records: int
    """That they took."""
    seconds: Sequence[float]
    """How long each took, deserializing included, in their order; without those that found an outage, or whose process
    failed."""
    late: Sequence[float]
    """How long after the time at which it was due each record's call began; in the main topic, after its timestamp.
    Without those that have none."""
    failures: Mapping[str, int]
    """How many records failed, by the name of the exception's type."""
    batch: bool = False
    """Whether it is one call of a `flux.BatchTask`."""


class Hooks:
    """Subclass it, override what you want to hear, and name instances of it in a task's `hooks`, or for all tasks in
    `flux.configure(hooks=[…])`. Only what is overridden is called.

    The methods about calls run where the call runs, on its thread or in its event loop, the others on a thread of flux
    or in its event loop: be quick, and do not block. They may come on several threads at once. One that raises is
    logged, once per kind, and changes nothing. Times are in seconds.
    """

    def around(self, where: StageInfo, message: Message) -> AbstractContextManager[object]:
        """Entered before the call, left after it, with the call's exception if it raised: for what lasts as long as
        the call, such as a span or a scope. It cannot suppress the exception. The value is not deserialized yet.

        A call that found an outage leaves it with `flux.Pause`, whose `__cause__` is the exception that `pause_on`
        names: no record is at fault. A call of a `flux.BatchTask` enters it once for each of its messages."""
        return nullcontext()

    def around_batch(self, where: StageInfo, messages: Sequence[Message]) -> AbstractContextManager[object]:
        """The same, entered once for a call of a `flux.BatchTask`; a hook that has it is not asked for `around` then.
        Where some of its messages failed, it is left with `flux.BatchFailure`."""
        return nullcontext()

    def on_start(self, where: StageInfo, message: Message) -> None:
        """A call begins. The value is not deserialized yet."""

    def on_success(self, where: StageInfo, message: Message, seconds: float) -> None:
        """A call has returned, after so many seconds, deserializing included."""

    def on_failure(self, where: StageInfo, message: Message, error: BaseException, seconds: float | None) -> None:
        """A call has raised, `flux.Retry` and `flux.Reject` included, or the deserializer has. `seconds` None: it had
        returned, and what it produced was not delivered. A call whose process fails ends with neither."""

    def on_batch(self, where: StageInfo, messages: Sequence[Message], seconds: float) -> None:
        """A call of a `flux.BatchTask` has ended, after so many seconds, and no outage was its end. What became of each
        of its messages was told before, by `on_success` or `on_failure` with the seconds of the whole call."""

    def on_calls(self, where: StageInfo, report: CallsReport) -> None:
        """Calls have ended, some or many: told once for all that one caller made in a row, for hooks that only count.
        They cost a fraction of those that are told of each call. A failure that was found after its call had returned,
        as what it produced was not delivered, is told in a report of no calls."""

    def on_retry(self, where: StageInfo, message: Message, stage: int, wait: float) -> None:
        """The record is in the retry topic of `stage`, acknowledged, and waits there for so many seconds."""

    def on_dead_letter(self, where: StageInfo, message: Message, reason: str, error: str) -> None:
        """The record is in the dead-letter topic, acknowledged. `reason`: `exhausted`, `rejected`, `undecodable` or
        `expired`; `error`: its type and message, as far as the task's `error_headers` lets them leave the process."""

    def on_pause(self, task: str, seconds: float, error: BaseException) -> None:
        """A call found an outage (`flux.Pause`, or `pause_on`): the task makes no calls here until one record is tried
        in so many seconds. Told again by each try that finds the same. No record has moved, and `on_failure` was not
        told."""

    def on_resume(self, task: str, seconds: float) -> None:
        """The record that was tried has ended otherwise: the task goes on, after a pause of so many seconds in all."""

    def on_commit(self, where: StageInfo, positions: Mapping[TopicPartition, int], error: Exception | None) -> None:
        """Positions were committed, or not."""

    def on_assigned(self, where: StageInfo, partitions: Sequence[TopicPartition]) -> None:
        """The group gave these partitions to this process."""

    def on_revoked(self, where: StageInfo, partitions: Sequence[TopicPartition]) -> None:
        """They were given up: what of them was in flight has ended, and is committed, as far as time allowed."""

    def on_lost(self, where: StageInfo, partitions: Sequence[TopicPartition]) -> None:
        """They are gone, and another member may have them: what was in flight is worked again."""


def check_hooks(hooks: object, owner: str) -> tuple[Hooks, ...]:
    """The hooks that `owner` names. Raises ConfigurationError for what would never be called."""
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
                raise ConfigurationError(f"{what} is a coroutine function, which nobody awaits: make it a plain def")
            if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
                remedy = "decorate it with contextlib.contextmanager" if "around" in name else "take the yield out"
                raise ConfigurationError(f"{what} only makes a generator: {remedy}")
    return found
