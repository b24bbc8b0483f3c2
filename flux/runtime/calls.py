"""Makes the calls of a run: the hot loop. One record costs a wrapper, a try and two attributes here.

What is not a plain success is reported at once, before the next index is published: a record that failed, or whose
products are not acknowledged, must be out of its run before the run's progress can pass it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from flux.core import trail as trails
from flux.core.assignment import Entry
from flux.core.message import Message
from flux.core.outcome import Expired, Move
from flux.core.runs import Run
from flux.core.transfer import Failure
from flux.runtime.desk import Desk, Post
from flux.runtime.pipeline import Handler
from flux.runtime.produced import CURRENT, Produced
from flux.runtime.returned import check_returned, own_failure, own_failures
from flux.runtime.traces import trace_of

Call = Callable[[Post, Run], BaseException | None]
"""Makes the calls of a run; see `work`."""
AsyncCall = Callable[[Post, Run], Awaitable[BaseException | None]]


def work(desk: Desk, post: Post, run: Run, handler: Handler, track: bool) -> BaseException | None:
    """Makes the run's calls up to its limit, which may shrink meanwhile. `track`: what calls produce is part of them.
    Returns the error of a failed process, None when all of the run's own calls were made."""
    products = Produced()
    token = CURRENT.set(products) if track else None
    entries, messages, records, trail = run.entries, run.messages, run.records, trails.start()
    index = run.index
    try:
        while True:
            run.index = index
            if index >= run.limit and not desk.may_go_on(run):
                return None
            if messages is not None:
                message = messages[index]
            elif records is not None:
                record = records[index]
                message = Message()  # see there
                message._record = record
                message.value = record.value()
                message._trail = trail
            else:
                message = entries[index].message  # type: ignore[index]
            try:
                returned = handler(message)
                if returned is not None:
                    check_returned("call", returned)
            except BaseException as raised:
                error = own_failure(raised)
                if products.touched:
                    products = _renew(products)
                failure = _failure(error)
                if not desk.noted(run, message, failure) and desk.failed(post, run, message, failure) is Move.STOP:
                    return error
            else:
                if products.touched:
                    desk.produced(post, run, message, products)
                    products = _renew(products)
            index += 1
    finally:
        products.close()
        if token is not None:
            CURRENT.reset(token)


async def work_async(desk: Desk, post: Post, run: Run, handler: Handler, track: bool) -> BaseException | None:
    """`work` with a handler that is awaited. It has its own context as far as its task has."""
    products = Produced()
    if track:
        CURRENT.set(products)
    entries, messages, records, trail = run.entries, run.messages, run.records, trails.start()
    index = run.index
    try:
        while True:
            run.index = index
            if index >= run.limit and not desk.may_go_on(run):
                return None
            if messages is not None:
                message = messages[index]
            elif records is not None:
                record = records[index]
                message = Message()
                message._record = record
                message.value = record.value()
                message._trail = trail
            else:
                message = entries[index].message  # type: ignore[index]
            try:
                returned = await handler(message)
                if returned is not None:
                    check_returned("call", returned)
            except BaseException as raised:
                error = own_failure(raised)
                if products.touched:
                    products = _renew(products)
                failure = _failure(error)
                if not desk.noted(run, message, failure) and desk.failed(post, run, message, failure) is Move.STOP:
                    return error
            else:
                if products.touched:
                    desk.produced(post, run, message, products)
                    products = _renew(products)
            index += 1
    finally:
        products.close()


def work_batch(desk: Desk, post: Post, run: Run, handler: Handler, track: bool) -> BaseException | None:
    """`work` with a handler that takes all records of a run at once."""
    products = Produced()
    token = CURRENT.set(products) if track else None
    messages = _messages(run)
    failures: Mapping[Message, BaseException] = {}
    try:
        check_returned("call", handler(messages))
    except BaseException as error:
        failures = own_failures(messages, error)
    finally:
        if token is not None:
            CURRENT.reset(token)
    return _report_batch(desk, post, run, messages, failures, products)


async def work_batch_async(desk: Desk, post: Post, run: Run, handler: Handler, track: bool) -> BaseException | None:
    """`work_batch` with a handler that is awaited."""
    products = Produced()
    if track:
        CURRENT.set(products)
    messages = _messages(run)
    failures: Mapping[Message, BaseException] = {}
    try:
        check_returned("call", await handler(messages))
    except BaseException as error:
        failures = own_failures(messages, error)
    return _report_batch(desk, post, run, messages, failures, products)


def _messages(run: Run) -> list[Message]:
    """Of a batch."""
    if run.entries is not None:
        return [entry.message for entry in run.entries]
    if run.messages is not None:
        return list(run.messages)
    assert run.records is not None
    start = trails.start()
    return [Message.of(record, record.value(), start) for record in run.records]


def _report_batch(
    desk: Desk,
    post: Post,
    run: Run,
    messages: Sequence[Message],
    failures: Mapping[Message, BaseException],
    products: Produced,
) -> BaseException | None:
    """Tells the end of each record in order, so that the run's progress passes no record before its end is known."""
    shown: dict[int, Failure] = {}  # one exception of many records has one traceback
    done: list[tuple[Entry, Message]] = []
    for index, message in enumerate(messages):
        error = failures.get(message)
        run.index = index
        if error is None:
            if products.touched:
                entry = desk.parted(post, run, message)
                if entry is not None:
                    done.append((entry, message))
            continue
        failure = shown.get(id(error)) or shown.setdefault(id(error), _failure(error))
        if not desk.noted(run, message, failure) and desk.failed(post, run, message, failure) is Move.STOP:
            return error
    run.index = len(messages)
    products.close()
    if done:
        desk.settle(post, done, products)
    return None


def _failure(error: BaseException) -> Failure:
    told = not issubclass(type(error), Expired)  # where flux checks an age tells nobody
    return Failure(error, trace_of(error) if told else "")


def _renew(ended: Produced) -> Produced:
    """What a call has produced belongs to it; the next one begins with nothing."""
    ended.close()
    renewed = Produced()
    CURRENT.set(renewed)
    return renewed
