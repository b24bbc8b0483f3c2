"""Makes the calls of a run. This is the hot loop: one record costs a wrapper, a try and two attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from flux.consuming import call_results as results
from flux.consuming.call_chain import Handler
from flux.consuming.call_results import AsyncCall
from flux.consuming.coordinator import Coordinator, StageRuntime
from flux.core import flux_headers
from flux.core.engine.runs import Run
from flux.core.engine.verdicts import Move
from flux.core.message import UNREAD, Message
from flux.producing.produced import Produced, Scopes
from flux.producing.scope import CURRENT
from flux.system.return_values import check_returned, own_failure, own_failures


async def complete(
    coordinator: Coordinator,
    call: AsyncCall,
    runtime: StageRuntime,
    run: Run,
    *,
    writes: bool = True,
    may_lapse: bool = False,
) -> None:
    """Makes the calls of a run by `call`, and reports its end. `writes`: writes forwarded copies afterwards; otherwise
    another thread does. `may_lapse`: the run was handed over, and its partitions may be lost by now."""
    lapsed = may_lapse and coordinator.has_lapsed(run)
    failure = None if lapsed else await call(runtime, run)
    coordinator.finished(runtime, run, failure, writes)


async def work(
    coordinator: Coordinator, runtime: StageRuntime, run: Run, handler: Handler, scopes: Scopes | None
) -> BaseException | None:
    """Makes the run's calls up to its limit, which may shrink. `scopes`: makes the scopes of what calls produce; None:
    that is no part of them. Returns the error of a failed process; None if all calls of the run were made."""
    products = Produced() if scopes is None else scopes.new(partial(results.is_called, run))
    token = None if scopes is None else CURRENT.set(products)
    entries, messages, records, parsed = run.entries, run.messages, run.records, flux_headers.of_main_topic()
    index, unread = run.index, UNREAD
    try:
        while True:
            run.index = index
            if index >= run.limit and not coordinator.may_go_on(run):
                return None
            if messages is not None:
                message = messages[index]
            elif records is not None:
                record = records[index]
                message = Message()  # without `Message.of`: see there
                message._record = record
                message.value = record.value()
                message._flux_headers = parsed
                message._headers = unread
            else:
                message = entries[index].message  # type: ignore[index]
            try:
                returned = await handler(message)
                if returned is not None:
                    check_returned("call", returned)
                if products.touched:
                    await coordinator.products.await_room(products)
            except BaseException as raised:
                error = own_failure(raised)
                if products.touched:
                    products = results.renewed(products)
                failure = results.failure_of(error)
                if (
                    not coordinator.verdicts.noted(run, message, failure)
                    and coordinator.verdicts.failed(runtime, run, message, failure) is Move.STOP
                ):
                    return error
                # an error holds the frames of its call, and so this one: nobody would free it
                del error, failure
            else:
                if products.touched:
                    coordinator.products.produced(runtime, run, message, products)
                    products = results.renewed(products)
            index += 1
    finally:
        products.close()
        results.left(token)


async def work_batch(
    coordinator: Coordinator, runtime: StageRuntime, run: Run, handler: Handler, scopes: Scopes | None
) -> BaseException | None:
    """`work` with a handler that takes all records of a run at once."""
    messages = results.messages_of(run)
    products = Produced() if scopes is None else scopes.new(results.among(messages))
    token = None if scopes is None else CURRENT.set(products)
    failures: Mapping[Message, BaseException] = {}
    try:
        failures = await _failures_of(handler, messages)
        if products.touched and results.any_succeeded(messages, failures):
            products.drop(failures)
            await coordinator.products.await_room(products)
    except BaseException as error:  # cancelled while it waited
        failures = own_failures(messages, error)
    finally:
        results.left(token)
    try:
        return results.report_batch(coordinator, runtime, run, messages, failures, products)
    finally:
        products.close()
        del failures  # see `work`


async def _failures_of(handler: Handler, messages: Sequence[Message]) -> Mapping[Message, BaseException]:
    """Makes the call of a batch. Returns the failed messages, each with its exception."""
    try:
        check_returned("call", await handler(messages))
    except BaseException as error:
        return own_failures(messages, error)
    return {}
