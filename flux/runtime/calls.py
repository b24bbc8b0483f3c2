"""Makes the calls of a run: the hot loop. One record costs a wrapper, a try and two attributes here.

What is not a plain success is reported at once, before the next index is published: a record that failed, or whose
products are not acknowledged, must be out of its run before the run's progress can pass it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flux.core import trail as trails
from flux.core.message import Message
from flux.core.outcome import Move, Reject, Retry, Undecodable
from flux.core.runs import Run
from flux.core.transfer import Failure
from flux.runtime.desk import Desk, Post
from flux.runtime.produced import CURRENT, Produced
from flux.runtime.traces import trace_of

Handler = Callable[[Message], Any]
"""A task's `call`, or the coroutine function that it is."""


def decoding(handler: Handler, deserializer: Callable[[bytes | None], Any]) -> Handler:
    """`handler` with its messages' values decoded; what cannot be decoded never reaches it."""

    def call(message: Message) -> Any:
        try:
            value = deserializer(message.value)
        except (Reject, Retry):
            raise  # it knows what is to become of the record, as when a registry of schemas is away
        except Exception as error:
            raise Undecodable(f"{type(error).__name__}: {error}") from error
        message.value = value
        return handler(message)

    return call


def work(desk: Desk, post: Post, run: Run, handler: Handler, track: bool) -> BaseException | None:
    """Makes the run's calls up to its limit, which may shrink meanwhile. `track`: what calls produce is part of them.
    Returns the error of a failed process, None when all of the run's own calls were made."""
    products = Produced()
    token = CURRENT.set(products) if track else None
    entries, records, trail = run.entries, run.records, trails.start()
    index = run.index
    try:
        while True:
            run.index = index
            if index >= run.limit and not desk.may_go_on(run):
                return None
            if records is not None:
                record = records[index]
                message = Message(record, record.value(), trail)
            else:
                message = entries[index].message  # type: ignore[index]
            try:
                handler(message)
            except BaseException as error:
                if products.touched:
                    products = _renew()
                if desk.failed(post, run, message, _failure(error)) is Move.STOP:
                    return error
            else:
                if products.touched:
                    desk.produced(post, run, message, products)
                    products = _renew()
            index += 1
    finally:
        if token is not None:
            CURRENT.reset(token)


async def work_async(desk: Desk, post: Post, run: Run, handler: Handler, track: bool) -> BaseException | None:
    """`work` with a handler that is awaited. It has its own context as far as its task has."""
    products = Produced()
    if track:
        CURRENT.set(products)
    entries, records, trail = run.entries, run.records, trails.start()
    index = run.index
    while True:
        run.index = index
        if index >= run.limit and not desk.may_go_on(run):
            return None
        if records is not None:
            record = records[index]
            message = Message(record, record.value(), trail)
        else:
            message = entries[index].message  # type: ignore[index]
        try:
            await handler(message)
        except BaseException as error:
            if products.touched:
                products = _renew()
            if desk.failed(post, run, message, _failure(error)) is Move.STOP:
                return error
        else:
            if products.touched:
                desk.produced(post, run, message, products)
                products = _renew()
        index += 1


def _failure(error: BaseException) -> Failure:
    return Failure(error, trace_of(error) if isinstance(error, Exception) else "")


def _renew() -> Produced:
    """What a call has produced belongs to it; the next one begins with nothing."""
    renewed = Produced()
    CURRENT.set(renewed)
    return renewed
