"""Tracebacks as text, formatted once per place in the code, for many failures of one kind. Nothing here raises,
whatever the exceptions and frames are."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterator
from types import TracebackType

from flux.core.error_text import (
    MOST_CHARS,
    brief,
    cause_of,
    context_of,
    cut,
    guarded,
    members_of,
    notes_of,
    traceback_of,
)
from flux.system import MOST_FRAMES

_MOST_KEPT = 500
_MOST_SHOWN = 100
"""Frames of one exception, when its whole chain is shown."""
_MOST_LINKS = 10
"""Exceptions in a chain, or in one group."""
_MOST_DEPTH = 3
"""Groups within groups."""
_MOST_TEXT = 32_000
_NONE = "(its traceback cannot be read)"

_texts: dict[tuple[int, ...], tuple[str, list[object]]] = {}
"""By the code that raised, which is kept too, so that its identity is not reused."""


def trace_of(error: BaseException) -> str:
    """The traceback of `error` without its message, from where the user's code begins."""
    try:
        return _trace(error)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return _NONE


def _trace(error: BaseException) -> str:
    place: list[int] = []  # instructions: a line number is looked up in a table
    tb = traceback_of(error)
    while tb is not None:
        place.append(id(tb.tb_frame.f_code))
        place.append(tb.tb_lasti)
        tb = tb.tb_next
    key = tuple(place[-2 * MOST_FRAMES :]) if len(place) > 2 * MOST_FRAMES else tuple(place)
    known = _texts.get(key)
    if known is None:
        if len(_texts) >= _MOST_KEPT:
            _texts.clear()
        own = own_part(error)
        codes: list[object] = []
        tb = traceback_of(error)
        while tb is not None:
            codes.append(tb.tb_frame.f_code)
            tb = tb.tb_next
        text = "".join(traceback.format_list(traceback.extract_tb(own, -MOST_FRAMES)))
        known = _texts[key] = text, codes[-MOST_FRAMES:]
    return known[0]


def own_part(error: BaseException) -> TracebackType | None:
    """The traceback of `error` from where the user's code begins, without flux's frames before it."""
    start = tb = traceback_of(error)
    while tb is not None:
        name = dict.get(tb.tb_frame.f_globals, "__name__")
        if type(name) is not str or not name.startswith("flux."):
            return tb
        tb = tb.tb_next
    return start


def text_of(error: BaseException) -> str:
    """The whole traceback with its causes, from where the user's code begins."""
    found = guarded(lambda: "\n".join(_lines(error)))
    return _NONE if found is None else cut(found, _MOST_TEXT)


def _lines(error: BaseException, depth: int = 0) -> Iterator[str]:
    chain: list[tuple[BaseException, str]] = []
    seen: set[int] = set()
    each: BaseException | None = error
    joint = ""
    while each is not None and id(each) not in seen and len(chain) < _MOST_LINKS:
        chain.append((each, joint))
        seen.add(id(each))
        cause = cause_of(each)
        joint = "During handling of the above exception, another exception occurred:"
        if cause is not None:
            joint = "The above exception was the direct cause of the following exception:"
        each = context_of(each) if cause is None else cause
    for each, joint in reversed(chain):
        own = own_part(each)
        if own is not None:
            yield "Traceback (most recent call last):"
            yield "".join(traceback.format_list(traceback.extract_tb(own, -_MOST_SHOWN))).rstrip("\n")
        yield brief(each)
        for note in notes_of(each)[:_MOST_LINKS]:
            yield cut(note, MOST_CHARS)
        members = members_of(each)
        for number, member in enumerate(members[:_MOST_LINKS] if depth < _MOST_DEPTH else (), 1):
            yield f"  + {number} of {len(members)}"
            for lines in _lines(member, depth + 1):
                yield "\n".join(f"  | {line}" for line in lines.split("\n"))
        if joint:
            yield f"\n{joint}\n"


def stack_of_task(task: asyncio.Task[None]) -> str:
    """The coroutines in which a task waits, as far as asyncio shows them, innermost last."""
    return "".join(guarded(lambda: _awaited(task)) or ())


def _awaited(task: asyncio.Task[None]) -> list[str]:
    lines: list[str] = []
    awaited: object = task.get_coro()
    while awaited is not None and len(lines) < MOST_FRAMES:
        frame = getattr(awaited, "cr_frame", None)
        if frame is None:
            break
        lines += traceback.format_stack(frame, limit=1)
        awaited = getattr(awaited, "cr_await", None)
    return lines
