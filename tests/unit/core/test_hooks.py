"""Hooks that flux would never call are refused, and a hook does nothing unless it is overridden."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

import flux
from flux.core.errors import ConfigurationError
from flux.core.hooks import Hooks, StageInfo, check_hooks
from unit.support.engine_support import message, record

INFO = StageInfo("Billing", 0, "orders", "billing")


class Good(Hooks):
    def on_start(self, where: StageInfo, message: flux.Message) -> None: ...


class Misspelt(Hooks):
    def on_sucess(self) -> None: ...


class Awaited(Hooks):
    async def on_start(self, where: StageInfo, message: flux.Message) -> None: ...  # type: ignore[override]


class Generated(Hooks):
    def on_start(self, where: StageInfo, message: flux.Message) -> Iterator[None]:  # type: ignore[override]
        yield


class Around(Hooks):
    async def around(self, where: StageInfo, message: flux.Message) -> AsyncIterator[None]:  # type: ignore[override]
        yield


def test_instances_of_hooks_are_taken() -> None:
    hooks = [Good(), Hooks()]
    assert check_hooks(hooks, "hooks") == tuple(hooks)


class AroundBatch(Hooks):
    def around_batch(self, where: StageInfo, messages: Sequence[flux.Message]) -> Iterator[None]:  # type: ignore[override]
        yield


class Committing(Hooks):
    async def on_commit(self, where: StageInfo, offsets: Any, error: Exception | None) -> None:  # type: ignore[override]
        ...


NOT_AWAITED = "is a coroutine function, which is never awaited: make it a plain def"
NO_INSTANCE = "hooks must hold instances of subclasses of flux.Hooks, not"
DECORATE = "only makes a generator: decorate it with contextlib.contextmanager"


@pytest.mark.parametrize(
    ("hooks", "says"),
    [
        (Good(), "hooks must be a list of flux.Hooks, not Good"),
        ("hooks", "hooks must be a list of flux.Hooks, not str"),
        ([Good()] * 2 + [Good], f"{NO_INSTANCE} the class Good: make an instance"),
        ([object()], f"{NO_INSTANCE} object"),
        ([Misspelt()], "hooks: Misspelt.on_sucess is no hook; see flux.Hooks"),
        ([Awaited()], f"hooks: Awaited.on_start {NOT_AWAITED}"),
        ([Committing()], f"hooks: Committing.on_commit {NOT_AWAITED}"),
        ([Generated()], "hooks: Generated.on_start only makes a generator: take the yield out"),
        ([Around()], f"hooks: Around.around {DECORATE}"),
        ([AroundBatch()], f"hooks: AroundBatch.around_batch {DECORATE}"),
    ],
)
def test_what_would_never_be_called_is_refused(hooks: Any, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_hooks(hooks, "hooks")
    assert str(caught.value) == says


def test_a_hook_has_no_effect_around_calls_unless_it_is_overridden() -> None:
    made = message(record(0))
    with Hooks().around(INFO, made) as one, Hooks().around_batch(INFO, [made]) as many:
        assert (one, many) == (None, None)
