# Generated from flux/consuming/awaited/hook_calls.py by `make generate`: change that, not this.
"""Tells hooks of calls: what wraps a handler, once, at the start, and only if somebody wants to see calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from flux.consuming.call_chain import Handler
from flux.consuming.hook_dispatch import AroundCalls, BatchCall, HookDispatch
from flux.core.message import Message
from flux.system.return_values import check_returned, own_failure


def telling(heard: HookDispatch, handler: Handler, batched: bool = False) -> Handler:
    """`handler`, with those who want to see calls told of each; as it is, when nobody does. `batched`: it takes many
    messages, and each of them is told."""
    if not heard.sees_calls(batched):
        return handler
    if batched:
        return _telling_batch(heard, handler)
    alone = heard.alone()
    return _telling_each(heard, handler) if alone is None else _around_each(heard, alone, handler)


def _around_each(heard: HookDispatch, hook: AroundCalls, handler: Handler) -> Handler:
    place, enter, leave = heard.of, hook.enter, hook.leave

    def call(message: Message) -> Any:
        try:
            entered = enter(place, message)
        except BaseException as error:
            heard.went_wrong(hook, error)
            return handler(message)
        try:
            result = handler(message)
            if result is not None:
                check_returned("call", result)
        except BaseException as error:
            raised = own_failure(error)
            heard.leave_failed(hook, entered, raised)
            if raised is not error:
                raise raised from error
            raise
        try:
            leave(entered)
        except BaseException as error:
            heard.went_wrong(hook, error)
        return result

    return call


def noting(handler: Handler, note: Callable[[Any, BaseException], None]) -> Handler:
    """`handler`; `note` is told, with what was called, of what it raises."""

    def call(called: Any) -> Any:
        try:
            returned = handler(called)
            check_returned("call", returned)
            return returned
        except BaseException as error:
            note(called, error)
            raise

    return call


def _telling_each(heard: HookDispatch, handler: Handler) -> Handler:
    places, of, tell, failed, clock = heard.places, heard.of, heard.tell, heard.call_failed, time.perf_counter
    enter, leave = heard.entering(), heard.leave
    starts, ends = heard.hears("on_start"), heard.hears("on_success")

    def call(message: Message) -> Any:
        stage = message.stage
        where = places.get(stage) or of(stage)
        entered = enter(where, message) if enter is not None else ()
        began = clock()
        if starts:
            tell("on_start", where, message)
        try:
            result = handler(message)
            if result is not None:
                check_returned("call", result)
            if ends:
                tell("on_success", where, message, clock() - began)
        except BaseException as error:
            raised = own_failure(error)
            failed(where, message, raised, clock() - began, entered)
            if raised is not error:
                raise raised from error
            raise
        if entered:
            leave(entered, None)
        return result

    return call


def _telling_batch(heard: HookDispatch, handler: Handler) -> Handler:
    def call(messages: Sequence[Message]) -> Any:
        batch = BatchCall(heard, messages)
        try:
            result = handler(messages)
            check_returned("call", result)
        except BaseException as error:
            batch.ended(error)
            raise
        batch.ended(None)
        return result

    return call
