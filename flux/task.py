"""`Task`: a handler for one topic, with its retries."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, Literal, TypeVar

from flux.config import AdapterChoice
from flux.core.backoff import Waits, WaitSetting
from flux.core.errors import ConfigurationError
from flux.core.hooks import Hooks
from flux.core.ledger import MAX_METADATA
from flux.core.message import Message
from flux.core.outcome import Rules
from flux.core.policy import DAY, Policy
from flux.core.stage import Naming, Stages
from flux.core.transfer import ErrorHeaders

R = TypeVar("R")


class _on_both(Generic[R]):  # noqa: N801
    """A method of a class and of its instances alike: an instance may have settings of its own."""

    def __init__(self, function: Callable[[Any], R]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: object, owner: type) -> Callable[[], R]:
        return partial(self._function, owner if instance is None else instance)


class Task:
    """Subclass it with `topic`, `group_id` and `call`. One instance works all records of a process, from several
    threads, or in an event loop when `call` is `async def`. A `call` that returns is done; one that raises moves its
    record to the next stage. `setup` and `close` may be `async def` when `call` is.

    Times are in seconds. A setting that cannot work is a ConfigurationError when a worker starts.
    """

    topic: str = ""
    group_id: str = ""

    retries: int = 5
    """Retry stages: a record is tried 1 + `retries` times before it is a dead letter."""
    wait: WaitSetting = None
    """None: the default backoff; seconds; a list of seconds, the last one repeated; or stage -> seconds."""
    max_delay: float = 30 * DAY
    """No record waits longer than this in one stage."""
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    """Exceptions that try a record again. The nearest class in the MRO wins."""
    reject_on: tuple[type[BaseException], ...] = ()
    """Exceptions that make a record a dead letter at once. Ties, and what neither names, reject."""

    concurrency: int = 10
    """Calls in flight per process, all stages together."""
    ordering: Literal["key", "partition", "none"] = "key"
    start_from: Literal["earliest", "latest"] = "earliest"
    """Where a group without a position starts in the main topic."""

    offset_commit_interval: float = 5
    offset_commit_threshold: int = 10_000
    drain_timeout: float = 10
    """How long a revoked partition is kept for calls in flight."""
    shutdown_timeout: float = 25
    """How long a stop waits for calls in flight."""
    stalled_after: float = 300
    """A partition that has work and no record done for as long is named in the log, with what it waits for."""
    max_waiting: int = 100_000
    """Records that wait in memory per retry stage; the rest waits on the cluster."""
    max_waiting_bytes: int = 64 * 1024 * 1024
    max_metadata: int = MAX_METADATA
    """Characters stored beside a position; at most the broker's offset.metadata.max.bytes, less one."""

    deserializer: ClassVar[Any] = None  # bytes or None -> anything; Any, as type checkers take a function for a method
    """Makes `message.value`; a record that it refuses is a dead letter at once, reason `undecodable`."""
    error_headers: ErrorHeaders = "full"
    """What of an error goes into headers: "full", "type", or a callable error -> text."""
    acknowledge_produced: bool = True
    """Whether what a call produces is acknowledged before its record counts as done."""

    hooks: Sequence[Hooks] = ()
    """Who hears of this task's work, beside those of `flux.configure`."""

    adapter: AdapterChoice = None
    """The cluster, or its URL. Who decides: instance, then class, then a worker's `adapter`, `--adapter`, FLUX_ADAPTER,
    `flux.configure`."""
    naming: Naming | None = None
    """(topic, group, stage) -> (topic, group); None: Super::Flux's names."""

    def setup(self) -> None:
        """Called once per process, before the first call."""

    def call(self, message: Message) -> Any:
        """Works one record. Returns: done. Raises: the next stage, or the dead letters."""
        raise NotImplementedError

    def close(self) -> None:
        """Called once per process, after the last call."""

    @_on_both
    def policy(self) -> Policy:
        """The task's settings, checked: a class's, or an instance's. Raises ConfigurationError, in one line that names
        the task."""
        cls = self if isinstance(self, type) else type(self)
        for name in ("topic", "group_id"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ConfigurationError(f"{cls.__name__} has no {name}: set {name} = '…' in the class")
        policy = Policy(
            stages=Stages(self.topic, self.group_id, self.retries, _plain(self, "naming")),
            waits=Waits(_plain(self, "wait"), self.max_delay),
            rules=Rules(self.retry_on, self.reject_on),
            ordering=self.ordering,
            concurrency=self.concurrency,
            commit_interval=self.offset_commit_interval,
            commit_threshold=self.offset_commit_threshold,
            start_from=self.start_from,
            error_headers=_plain(self, "error_headers"),
            drain_timeout=self.drain_timeout,
            shutdown_timeout=self.shutdown_timeout,
            max_waiting=self.max_waiting,
            max_waiting_bytes=self.max_waiting_bytes,
            max_metadata=self.max_metadata,
            stalled_after=self.stalled_after,
        )
        try:
            policy.check()
        except ConfigurationError as error:
            raise ConfigurationError(f"{cls.__name__}: {error}") from None
        if cls.call is Task.call:
            raise ConfigurationError(f"{cls.__name__} has no call: write def call(self, message)")
        return policy

    @_on_both
    def decoder(self) -> Callable[[bytes | None], Any] | None:
        """`deserializer` as a plain callable, however it was written."""
        return _plain(self, "deserializer")  # type: ignore[no-any-return]


def _plain(task: object, name: str) -> Any:
    """An attribute that may be a function: as it was assigned, not bound to an instance or a class."""
    value = inspect.getattr_static(task, name)
    return value.__func__ if isinstance(value, staticmethod | classmethod) else value


def task(*, topic: str, group_id: str, **settings: Any) -> Callable[[Callable[[Message], Any]], type[Task]]:
    """Makes a Task of a function of one message: `@flux.task(topic="orders", group_id="billing", retries=3)`.

    `settings` are Task's class attributes. The name is the function's. Raises ConfigurationError for one unknown.
    """
    unknown = [name for name in settings if name.startswith("_") or not hasattr(Task, name)]
    if unknown:
        raise ConfigurationError(f"@flux.task: unknown setting {unknown[0]}; see flux.Task for those there are")

    def decorate(function: Callable[[Message], Any]) -> type[Task]:
        async def call_async(self: Task, message: Message) -> Any:
            return await function(message)

        def call(self: Task, message: Message) -> Any:
            return function(message)

        # a partial, or an object with __call__, has no name of its own
        named: Any = function if hasattr(function, "__qualname__") else type(function)
        attributes = {
            "topic": topic,
            "group_id": group_id,
            "call": call_async if inspect.iscoroutinefunction(function) else call,
            "__module__": named.__module__,
            "__doc__": function.__doc__,
            "__qualname__": named.__qualname__,
            **settings,
        }
        return type(named.__name__, (Task,), attributes)

    return decorate
