"""Takes a worker through its life."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

from flux.consuming.worker_lifecycle import Blocking, Here, Life, Tick

S = TypeVar("S")
T = TypeVar("T")
_Take = Callable[[Callable[[], Any]], Awaitable[Any]]


async def live(
    life: Life,
    *,
    wait: Callable[[], Awaitable[None]],
    here: _Take,
    beside: _Take,
    went_on: Callable[[], None],
) -> int:
    """Takes each step of `life`: those that block `beside`, the others `here`. `wait`s until something changes.
    `went_on` is told after each step. Returns the exit code."""

    async def take(effect: Blocking | Here | Tick) -> Any:
        try:
            match effect:
                case Tick():
                    await wait()
                case Blocking(step):
                    return await beside(step)
                case Here(step):
                    return await here(step)
        finally:
            went_on()

    return int(await go_through(life, take))


async def go_through(
    life: Generator[S, Any, T],
    take: Callable[[S], Awaitable[Any]],
    errors: type[BaseException] = Exception,
) -> T:
    """Has `take` do what `life` asks for, and tells it what that gave or raised, if it was one of `errors`.
    Returns what `life` does."""
    send: Callable[[Any], S] = life.send
    value: Any = None
    while True:
        try:
            step = send(value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        try:
            send, value = life.send, await take(step)
        except errors as error:
            send, value = life.throw, error
