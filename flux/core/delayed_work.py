"""A record for the first retry topic that has not failed: work to be called later, a cancellation, or a tick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flux.core import flux_headers
from flux.core.errors import ConfigurationError
from flux.core.policy import Policy
from flux.core.validation import shown

_LONGEST_NAME = 250


def delayed_headers(
    policy: Policy, own: Sequence[tuple[str, Any]], due: int, name: tuple[str, str] | None, tick: int | None = None
) -> list[tuple[str, Any]]:
    """The headers of such a record. `own`: the user's; `due`, `tick`: milliseconds since the epoch; `name`: one of
    flux's headers, and the id or the schedule's title."""
    return [
        *own,
        (flux_headers.STAGE, "1"),
        (flux_headers.ATTEMPTS, "0"),
        (flux_headers.DUE, str(due)),
        (flux_headers.GROUP, policy.stages.group),
        (flux_headers.ORIGIN_TIMESTAMP, str(due if tick is None else tick)),  # its age counts from then
        *(() if tick is None else ((flux_headers.TICK, str(tick)),)),
        *(() if name is None else (name,)),  # the last one: see `flux_headers`
    ]


def checked_name(name: object, what: str) -> str:
    """An id, or a schedule's name. Raises ConfigurationError."""
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise ConfigurationError(
            f"{what} = {shown(name)}: give a text of 1 to {_LONGEST_NAME} characters that can be printed"
        )
    return str(name)
