"""The steps for each message of a batch before its call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flux.consuming.call_chain import PROCESS, Handler, Step, sorted_out, with_others
from flux.core.engine.verdicts import BatchFailure
from flux.core.message import Message
from flux.system.return_values import check_returned


def prepared_batch(handler: Handler, steps: Sequence[Step]) -> Handler:
    """`handler` after `steps`, none of which waits. A message that a step refuses fails alone; others are called."""
    if not steps:
        return handler

    async def call(messages: Sequence[Message]) -> Any:
        good, bad = sorted_out(messages, steps)
        if not bad:
            return await handler(good)
        try:
            if good:
                check_returned("call", await handler(good))
        except PROCESS:
            raise
        except BaseException as error:
            raise with_others(bad, good, error) from error
        raise BatchFailure(bad)

    return call
