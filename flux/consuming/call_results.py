"""Handles the results of a run's calls, for both forms of the executor.

A call that did not simply succeed is reported before the next index is published: its record must be out of the run
before the run's progress can pass it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import Token
from typing import Any

from flux.consuming.call_chain import Handler
from flux.consuming.coordinator import Coordinator, StageRuntime
from flux.core import flux_headers
from flux.core.engine.forwards import Failure
from flux.core.engine.runs import Run
from flux.core.engine.slices import Entry
from flux.core.engine.verdicts import Expired, Move, Skipped, Tombstone, Undecodable
from flux.core.error_text import cause_of
from flux.core.message import Message
from flux.producing.produced import Produced, Scope, Scopes
from flux.producing.scope import CURRENT
from flux.system.tracebacks import trace_of

Call = Callable[[StageRuntime, Run], BaseException | None]
"""Makes the calls of a run; see `flux.consuming.awaited.executor`."""
AsyncCall = Callable[[StageRuntime, Run], Awaitable[BaseException | None]]
Work = Callable[[Coordinator, StageRuntime, Run, Handler, Scopes | None], Any]
"""`work` or `work_batch` of an executor."""


def messages_of(run: Run) -> list[Message]:
    """The results of a batch."""
    if run.entries is not None:
        return [entry.message for entry in run.entries]
    if run.messages is not None:
        return list(run.messages)
    assert run.records is not None
    start = flux_headers.of_main_topic()
    return [Message.of(record, record.value(), start) for record in run.records]


def is_called(run: Run, message: Message) -> bool:
    """Whether `message` is the record of the run's current call."""
    if run.records is not None:
        return run.records[run.index] is message._record
    assert run.entries is not None
    return run.entries[run.index].message._record is message._record


def among(messages: Sequence[Message]) -> Callable[[Message], bool]:
    """Whether a message is one of a batch; it costs nothing until it is called."""
    known: set[Message] = set()

    def is_known(message: Message) -> bool:
        if not known:
            known.update(messages)
        return message in known

    return is_known


def report_batch(
    coordinator: Coordinator,
    runtime: StageRuntime,
    run: Run,
    messages: Sequence[Message],
    failures: Mapping[Message, BaseException],
    products: Produced,
) -> BaseException | None:
    """Reports the end of each record in order, so that the run's progress passes no record whose end is not known."""
    shown: dict[int, Failure] = {}  # records with the same exception share its traceback
    done: list[tuple[Entry, Message]] = []
    for index, message in enumerate(messages):
        error = failures.get(message)
        run.index = index
        if error is None:
            if products.touched and not _is_left_out(message):
                entry = coordinator.products.parted(runtime, run, message)
                if entry is not None:
                    done.append((entry, message))
            continue
        failure = shown.get(id(error)) or shown.setdefault(id(error), failure_of(error))
        if (
            not coordinator.verdicts.noted(run, message, failure)
            and coordinator.verdicts.failed(runtime, run, message, failure) is Move.STOP
        ):
            return error
    run.index = len(messages)
    if done:
        coordinator.products.settle(runtime, done, products)
    return None


def any_succeeded(messages: Sequence[Message], failures: Mapping[Message, BaseException]) -> bool:
    """Whether the call of a batch succeeded for one of its records, so that what it has produced leaves."""
    return any(not (message in failures or _is_left_out(message)) for message in messages)


def _is_left_out(message: Message) -> bool:
    """Whether it is done without a call."""
    return message.named is not None and message.named.left_out


def failure_of(error: BaseException) -> Failure:
    """The exception of a call, with its traceback."""
    if issubclass(type(error), (Expired, Skipped, Tombstone)):  # the traceback of flux's own check says nothing
        return Failure(error)
    raised = cause_of(error) if issubclass(type(error), Undecodable) else None
    return Failure(error, trace_of(error if raised is None else raised))


def renewed(ended: Produced) -> Produced:
    """Takes what the call has produced; the next call starts with nothing."""
    ended.close()
    products = ended.successor()
    CURRENT.set(products)
    return products


def left(token: Token[Scope | None] | None) -> None:
    """The calls that were made in a scope have ended."""
    if token is not None:
        with suppress(ValueError):  # an abandoned coroutine ends in another context
            CURRENT.reset(token)
