# Generated from flux/consuming/awaited/worker_loop.py by `make generate`: change that, not this.
"""Runs a worker from start to end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeVar

from flux.consuming.supervision import Blocking, Here, Life, Tick

S = TypeVar("S")
T = TypeVar("T")
_Take = Callable[[Callable[[], Any]], Any]


def live(
    life: Life,
    *,
    wait: Callable[[], None],
    here: _Take,
    beside: _Take,
    went_on: Callable[[], None],
) -> int:
    """Performs each step of `life`: blocking ones by `beside`, the others by `here`. `wait`: waits for a change.
    `went_on`: called after each step. Returns the exit code."""

    def take(effect: Blocking | Here | Tick) -> Any:
        try:
            match effect:
                case Tick():
                    wait()
                case Blocking(step):
                    return beside(step)
                case Here(step):
                    return here(step)
        finally:
            went_on()

    return int(go_through(life, take))


def go_through(life: Generator[S, Any, T], take: Callable[[S], Any]) -> T:
    """Performs the requests of `life` by `take`, and sends it the result, or raises the error in it, so that it ends in
    order also after SystemExit. Returns the result of `life`."""
    send: Callable[[Any], S] = life.send
    value: Any = None
    while True:
        try:
            step = send(value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        try:
            send, value = life.send, take(step)
        except BaseException as error:
            send, value = life.throw, error
