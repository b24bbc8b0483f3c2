# Generated from flux/consuming/awaited/named_calls.py by `make generate`: change that, not this.
"""Calls of the first retry stage, whose records may have names: those that were replaced or cancelled are left out.

This stands around everything else, so nothing is called for them: no hook, no middleware.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flux.consuming.call_chain import PROCESS, Handler, with_others
from flux.consuming.call_results import Work
from flux.consuming.coordinator import Coordinator, StageRuntime
from flux.core.engine.runs import Run
from flux.core.message import Message
from flux.producing.produced import Scopes
from flux.system.return_values import check_returned


def leaving_out(work: Work, batched: bool) -> Work:
    """`work`, whose handler is not called with records that are void. `batched`: it takes many messages."""
    wanted = of_wanted_in_batch if batched else of_wanted

    def work_named(
        coordinator: Coordinator, runtime: StageRuntime, run: Run, handler: Handler, scopes: Scopes | None
    ) -> Any:
        return work(coordinator, runtime, run, wanted(handler) if runtime.engine.stage.has_names else handler, scopes)

    return work_named


def of_wanted(handler: Handler) -> Handler:
    """`handler`, which is not called with a record that is void."""

    def call(message: Message) -> Any:
        named = message.named
        return handler(message) if named is None or named.begin() else nothing()

    def nothing() -> None:
        return None

    return call


def of_wanted_in_batch(handler: Handler) -> Handler:
    """`handler`, which gets a batch without the records that are void."""

    def call(messages: Sequence[Message]) -> Any:
        wanted = [message for message in messages if message.named is None or message.named.begin()]
        if len(wanted) == len(messages):
            return handler(messages)
        try:
            if wanted:
                check_returned("call", handler(wanted))
        except PROCESS:
            raise
        except BaseException as error:
            raise with_others({}, wanted, error) from error

    return call
