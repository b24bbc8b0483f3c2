"""Hooks that flux would never call are refused, and a hook does nothing unless it is overridden."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
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


@pytest.mark.parametrize(
    ("hooks", "says"),
    [
        (Good(), "hooks must be a list of flux.Hooks, not Good"),
        ("hooks", "hooks must be a list of flux.Hooks, not str"),
        ([Good], "the class Good: make an instance"),
        ([object()], "instances of subclasses of flux.Hooks, not object"),
        ([Misspelt()], "Misspelt.on_sucess is no hook"),
        ([Awaited()], "Awaited.on_start is a coroutine function"),
        ([Generated()], "Generated.on_start only makes a generator: take the yield out"),
        ([Around()], "Around.around only makes a generator: decorate it with contextlib.contextmanager"),
    ],
)
def test_what_would_never_be_called_is_refused(hooks: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        check_hooks(hooks, "hooks")


def test_a_hook_has_no_effect_around_calls_unless_it_is_overridden() -> None:
    made = message(record(0))
    with Hooks().around(INFO, made) as one, Hooks().around_batch(INFO, [made]) as many:
        assert (one, many) == (None, None)
