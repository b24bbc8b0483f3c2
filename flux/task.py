"""`Task`: a handler for one topic, with its retries."""

from __future__ import annotations

import inspect
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, Concatenate, Generic, Literal, ParamSpec, TypeVar

from flux.config import AdapterChoice
from flux.consuming.call_chain import Middleware
from flux.core.backoff import Waits, WaitSetting
from flux.core.engine.batches import OpenBatch
from flux.core.engine.forwards import ErrorHeaders
from flux.core.engine.offset_tracker import MAX_METADATA
from flux.core.engine.verdicts import PROCESS, Rules
from flux.core.errors import ConfigurationError
from flux.core.hooks import Hooks
from flux.core.message import Message
from flux.core.policy import DAY, Policy
from flux.core.stage import Naming, Stages
from flux.core.validation import check_switch, shown
from flux.producing.delivery import Delivery
from flux.producing.encoding import HeadersLike
from flux.scheduling import enqueue
from flux.system.return_values import check_function, is_async

P = ParamSpec("P")
R = TypeVar("R")


class _on_both(Generic[P, R]):  # noqa: N801
    """A method of a class and of its instances alike: an instance may have settings of its own."""

    def __init__(self, function: Callable[Concatenate[Any, P], R]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: object, owner: type) -> Callable[P, R]:
        return partial(self._function, owner if instance is None else instance)


class Task:
    """Subclass it with `topic`, `group_id` and `call`. One instance works all records of a process, from several
    threads, or in an event loop when `call` is `async def`. A `call` that returns is done; one that raises moves its
    record to the next stage. `setup` and `close` may be `async def` when `call` is.

    Times are in seconds. What is None or 0 is off, and costs nothing. A setting that cannot work is a
    ConfigurationError when a worker starts.
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
    """Exceptions that try a record again. The nearest class in the MRO wins. What is no Exception counts where it is
    named here or below; failures of the process (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, a
    cancellation) cannot be named."""
    reject_on: tuple[type[BaseException], ...] = ()
    """Exceptions that make a record a dead letter at once. Ties, and what none names, reject."""
    pause_on: tuple[type[BaseException], ...] = ()
    """Exceptions that tell of an outage and not of a record: as if `flux.Pause` was raised, they move nothing, count no
    attempt, and the task makes no calls here until one record, tried from time to time, ends otherwise."""
    in_place_retries: int = 0
    """Tries in place before a record moves, each counted as an attempt, holding back its key alone. They end early on a
    stop or a revocation, and wait for the end of a pause."""
    in_place_wait: float = 0.1
    """Before the first of them; doubled each time."""
    give_up_after: float | None = None
    """Counted from the timestamp of the record in the main topic: work that is older is not tried any more, nor sent to
    wait for longer, but becomes a dead letter, reason `expired`."""

    concurrency: int = 10
    """Calls in flight per process, all stages together."""
    rate_limit: float | None = None
    """Calls a second and process, all stages together; evenly, not in bursts."""
    timeout: float | None = None
    """Of a call. An async one is cancelled then, and fails with TimeoutError; one that blocks cannot be ended: it is
    named in the log, with where it is."""
    middleware: Sequence[Middleware] = ()
    """Callables (message, call_next) around each call, the first outermost: what they return counts for nothing, what
    they raise is the end of the call. Coroutine functions with an `async def call`. They see the decoded value."""
    ordering: Literal["key", "partition", "none"] = "key"
    start_from: Literal["earliest", "latest"] = "earliest"
    """Where a group that has no position at all in the main topic starts. A partition that comes later starts with its
    oldest record."""

    offset_commit_interval: float = 0.2
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
    serializer: ClassVar[Any] = None
    """Makes bytes of what `enqueue` is given; None: it takes bytes, str or None."""
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

    def setup(self) -> Any:
        """Called once per process, before the first call."""

    def call(self, message: Any, /) -> Any:
        """Works one record, a `flux.Message`. Returns: done, unless it is a coroutine, a generator or a future, which
        is work that nobody does. Raises: the next stage, or the dead letters."""
        raise NotImplementedError

    def close(self) -> Any:
        """Called once per process, after the last call."""

    @_on_both
    def enqueue(
        self,
        value: Any,
        *,
        key: str | bytes | None = None,
        headers: HeadersLike | None = None,
        delay: float | None = None,
        at: datetime | None = None,
    ) -> Delivery:
        """Gives the task work: to its main topic, or, with `delay` seconds or the time `at` (with a time zone), to its
        first retry topic, due then, where only this task's group sees it. The future's `result(timeout)`, and `await`,
        give where it landed, or raise DeliveryError.

        Work with a delay has `retries` tries, as its first retry topic is where it begins; its `message.id` names its
        record there. Raises ConfigurationError for more than `max_delay`, for a task without retries, and for what
        cannot be a record.
        """
        return enqueue(self, self.policy(), _plain(self, "serializer"), value, key, headers, delay, at)

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
            rules=Rules(self.retry_on, self.reject_on, self.pause_on, (*PROCESS, CancelledError)),
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
            in_place_retries=self.in_place_retries,
            in_place_wait=self.in_place_wait,
            give_up_after=self.give_up_after,
            rate_limit=self.rate_limit,
            timeout=self.timeout,
            batch=_batch(self),
        )
        try:
            policy.check()
            check_switch("acknowledge_produced", self.acknowledge_produced)
        except ConfigurationError as error:
            raise ConfigurationError(f"{cls.__name__}: {error}") from None
        if cls.call in (Task.call, BatchTask.call):
            what = "messages" if issubclass(cls, BatchTask) else "message"
            raise ConfigurationError(f"{cls.__name__} has no call: write def call(self, {what})")
        for name in ("deserializer", "serializer"):
            function = _plain(self, name)
            if function is not None and not callable(function):
                raise ConfigurationError(
                    f"{cls.__name__}: {name} = {shown(function)}: give a function, such as flux.serde.json_{name}"
                )
        return policy

    @_on_both
    def decoder(self) -> Callable[[bytes | None], Any] | None:
        """`deserializer` as a plain callable, however it was written."""
        return _plain(self, "deserializer")  # type: ignore[no-any-return]


class BatchTask(Task):
    """A task whose `call` takes many records of one partition at once: up to `max_batch`, or what has come within
    `max_wait` seconds of the first. One batch is in flight per partition; `concurrency` and `rate_limit` count batches.
    Retry stages batch what is due.

    A `call` that returns has done them all. `raise flux.BatchFailure({message: error, …})` moves those alone, the
    others are done; any other exception moves them all, so that a batch that is written in one transaction can fail
    as one.
    """

    max_batch: int = 100
    """Records; at most 10,000."""
    max_wait: float = 1.0
    """Seconds; at most 300."""

    def call(self, messages: Sequence[Message], /) -> Any:
        """Works records of one partition, in their order. Returns: all are done."""
        raise NotImplementedError


def _batch(task: Any) -> OpenBatch | None:
    batched = issubclass(task if isinstance(task, type) else type(task), BatchTask)
    return OpenBatch(task.max_batch, task.max_wait) if batched else None


def _plain(task: object, name: str) -> Any:
    """An attribute that may be a function: as it was assigned, not bound to an instance or a class."""
    value = inspect.getattr_static(task, name)
    return value.__func__ if isinstance(value, staticmethod | classmethod) else value


def _shown(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def task(*, topic: str, group_id: str, **settings: Any) -> Callable[[Callable[[Message], Any]], type[Task]]:
    """Makes a Task of a function of one message: `@flux.task(topic="orders", group_id="billing", retries=3)`.

    `settings` are Task's class attributes. The name is the function's. Raises ConfigurationError for one unknown.
    """
    unknown = [name for name in settings if name.startswith("_") or not hasattr(Task, name)]
    if unknown:
        raise ConfigurationError(f"@flux.task: unknown setting {unknown[0]}; see flux.Task for those there are")

    def decorate(function: Callable[[Message], Any]) -> type[Task]:
        check_function(f"@flux.task: {_shown(function)}", function, "message", True)

        async def call_async(self: Task, message: Message) -> Any:
            return await function(message)

        def call(self: Task, message: Message) -> Any:
            return function(message)

        # a partial, or an object with __call__, has no name of its own
        named: Any = function if hasattr(function, "__qualname__") else type(function)
        attributes = {
            "topic": topic,
            "group_id": group_id,
            "call": call_async if is_async(function) else call,
            "__module__": named.__module__,
            "__doc__": function.__doc__,
            "__qualname__": named.__qualname__,
            **settings,
        }
        return type(named.__name__, (Task,), attributes)

    return decorate
