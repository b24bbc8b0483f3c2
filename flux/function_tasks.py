"""`@flux.task`: a task made of a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from inspect import signature
from typing import Any, Generic, Literal, TypedDict, Unpack, get_args, get_origin

from flux.config import AdapterChoice
from flux.consuming.call_chain import Middleware
from flux.core.backoff import WaitSetting
from flux.core.engine.forwards import ErrorHeaders
from flux.core.errors import ConfigurationError
from flux.core.hooks import Hooks
from flux.core.limits.failure_rate import FailureRate
from flux.core.limits.name_limits import NameOf
from flux.core.message import Message
from flux.core.stage import Naming
from flux.core.type_variables import R, V
from flux.core.validation import Seconds
from flux.serde.parameters import Parameter
from flux.serde.typed import evaluated
from flux.serde.values import Values
from flux.system.return_values import check_function, is_async
from flux.task import BATCH_SETTINGS, Task


class Settings(TypedDict, total=False):
    """Task's class attributes."""

    retries: int
    wait: WaitSetting
    max_delay: Seconds
    retry_on: tuple[type[BaseException], ...]
    reject_on: tuple[type[BaseException], ...]
    pause_on: tuple[type[BaseException], ...]
    pause_when: FailureRate | None
    in_place_retries: int
    in_place_wait: Seconds
    give_up_after: Seconds | None
    max_crashes: int | None
    concurrency: int
    concurrency_key: NameOf | None
    concurrency_per_key: int
    rate_limit: float | None
    rate_limit_scope: Literal["process", "group"]
    rate_limit_key: NameOf | None
    timeout: Seconds | None
    middleware: Sequence[Middleware]
    ordering: Literal["key", "partition", "none"]
    retry_order: Literal["key"] | None
    on_dead: Literal["free", "hold"]
    start_from: Literal["earliest", "latest"]
    offset_commit_interval: Seconds
    offset_commit_threshold: int
    drain_timeout: Seconds
    shutdown_timeout: Seconds
    stalled_after: Seconds
    max_waiting: int
    max_waiting_bytes: int
    max_metadata: int
    deserializer: Callable[[bytes | None], Any] | None
    serializer: Callable[[Any], bytes | None] | None
    values: Values[Any] | None
    error_headers: ErrorHeaders
    acknowledge_produced: bool
    hold_produced: bool
    exactly_once: bool
    hooks: Sequence[Hooks]
    adapter: AdapterChoice
    naming: Naming | None


class FunctionTask(Task[V], Generic[V, R]):
    """A task made of a function, which can be called as before."""

    __name__: str
    _function: Callable[[Message[V]], R]

    def __call__(self, message: Message[V]) -> R:
        return self._function(message)


def task(
    *, topic: str, group_id: str, **settings: Unpack[Settings]
) -> Callable[[Callable[[Message[V]], R]], FunctionTask[V, R]]:
    """Makes a task of a function of one message: `@flux.task(topic="orders", group_id="billing", retries=3)`. The
    function, also an `async def`, can still be called. A `flux.Message[Order]` as its parameter means the same as a
    `flux.Task[Order]`.

    `settings` are Task's class attributes. The name is the function's. Raises ConfigurationError for an unknown
    setting.
    """
    known = [name for name in vars(Task) if not name.startswith("_")]
    if unknown := [name for name in settings if name not in known]:
        if unknown[0] in BATCH_SETTINGS:
            raise ConfigurationError(f"@flux.task: {unknown[0]} is a setting of flux.BatchTask: write a class")
        close = get_close_matches(unknown[0], known, 1)
        hint = f": did you mean {close[0]}?" if close else "; see flux.Task for those there are"
        raise ConfigurationError(f"@flux.task: unknown setting {unknown[0]}{hint}")

    def decorate(function: Callable[[Message[V]], R]) -> FunctionTask[V, R]:
        check_function(f"@flux.task: {_shown(function)}", function, "message", True)

        async def call_async(self: FunctionTask[V, Any], message: Message[V]) -> Any:
            return await self._function(message)

        def call(self: FunctionTask[V, Any], message: Message[V]) -> Any:
            return self._function(message)

        # a partial, or an object with __call__, has no name of its own
        named: Any = function if hasattr(function, "__qualname__") else type(function)
        attributes = {
            "topic": topic,
            "group_id": group_id,
            "call": call_async if is_async(function) else call,
            "_function": staticmethod(function),
            "_parameter": Parameter(named.__name__, Task.__name__, partial(_value_type, function)),
            "__module__": named.__module__,
            "__doc__": function.__doc__,
            "__name__": named.__name__,
            "__qualname__": named.__qualname__,
            **settings,
        }
        made: FunctionTask[V, R] = type(named.__name__, (FunctionTask,), attributes)()
        return made

    return decorate


def _shown(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _value_type(function: Any) -> Any:
    """Order, if the function's parameter is a Message[Order]. Raises ConfigurationError."""
    try:
        hint = next(iter(signature(function).parameters.values())).annotation
    except (StopIteration, ValueError):
        return Any  # written in C
    except NameError as error:  # Python 3.14 evaluates annotations here
        raise ConfigurationError(
            f"{_shown(function)}: the type of its message cannot be found: {error}; import it where the program runs"
        ) from None
    while isinstance(function, partial):
        function = function.func
    owner = function if hasattr(function, "__qualname__") else type(function)
    try:
        found = evaluated(hint, owner)
    except ConfigurationError:
        if "[" not in str(hint):
            return Any
        raise
    return get_args(found)[0] if get_origin(found) is Message else Any
