"""Tracebacks as text, made once per place: a storm of the same failure formats one."""

from __future__ import annotations

import asyncio
import sys
import traceback
from types import TracebackType

MOST_FRAMES = 20
_MOST_KEPT = 500

_texts: dict[tuple[tuple[object, int], ...], str] = {}


def trace_of(error: BaseException) -> str:
    """The traceback of `error` without its message, from where the user's code begins."""
    frames: list[tuple[object, int]] = []
    own = tb = own_part(error)
    while tb is not None:
        frames.append((tb.tb_frame.f_code, tb.tb_lineno))
        tb = tb.tb_next
    key = tuple(frames[-MOST_FRAMES:])
    text = _texts.get(key)
    if text is None:
        if len(_texts) >= _MOST_KEPT:
            _texts.clear()
        shown = list(traceback.extract_tb(own))[-MOST_FRAMES:]
        text = _texts[key] = "".join(traceback.format_list(shown))
    return text


def own_part(error: BaseException) -> TracebackType | None:
    """The traceback of `error` from where the user's code begins: flux's frames before it say nothing."""
    start = tb = error.__traceback__
    while tb is not None:
        if not str(tb.tb_frame.f_globals.get("__name__", "")).startswith("flux."):
            return tb
        tb = tb.tb_next
    return start


def text_of(error: BaseException) -> str:
    """All of it, with what caused it, from where the user's code begins."""
    return "".join(traceback.format_exception(type(error), error, own_part(error))).rstrip("\n")


def stack_of_thread(identifier: int | None) -> str:
    """Where a thread is now, innermost last; empty when it is gone."""
    frame = sys._current_frames().get(identifier or 0)
    return "" if frame is None else "".join(traceback.format_stack(frame)[-MOST_FRAMES:])


def stack_of_task(task: asyncio.Task[None]) -> str:
    """Where a task waits, as far as asyncio tells: its coroutines, innermost last."""
    lines: list[str] = []
    awaited: object = task.get_coro()
    while awaited is not None and len(lines) < MOST_FRAMES:
        frame = getattr(awaited, "cr_frame", None)
        if frame is None:
            break
        lines += traceback.format_stack(frame, limit=1)
        awaited = getattr(awaited, "cr_await", None)
    return "".join(lines)
