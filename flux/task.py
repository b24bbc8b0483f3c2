"""`Task`: a handler for one topic, with its retries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, ParamSpec

from flux.config import AdapterChoice
from flux.consuming.call_chain import Middleware
from flux.core.backoff import WaitSetting
from flux.core.engine.batches import OpenBatch
from flux.core.engine.forwards import ErrorHeaders
from flux.core.engine.offset_tracker import MAX_METADATA
from flux.core.errors import ConfigurationError
from flux.core.hooks import Hooks
from flux.core.limits.failure_rate import FailureRate
from flux.core.message import Message
from flux.core.policy import DAY, Policy
from flux.core.spelling import check_names
from flux.core.stage import Naming
from flux.core.type_variables import V
from flux.core.validation import Seconds
from flux.producing.delivery import Delivery
from flux.producing.encoding import HeadersLike
from flux.schedules import ScheduledWork, scheduled_work
from flux.scheduling import enqueue, write_cancellation
from flux.serde.parameters import deserializer_of, serializer_of
from flux.serde.values import Values
from flux.task_settings import on_both, policy_of

P = ParamSpec("P")

if TYPE_CHECKING:

    class OneOrMany(Message[V], Sequence[Message[V]]):
        """What a call takes: a message, or those of a batch. It makes both overrides of `call` correct."""


class Task(Generic[V]):
    """Subclass it with `topic`, `group_id` and `call`. One instance processes all records of a process, from several
    threads, or in an event loop when `call` is `async def`. When `call` returns, its record is done; when it raises,
    the record is forwarded to the next stage. `setup` and `close` may be `async def` when `call` is.

    A `flux.Task[Order]` gets values of the type `Order`, decoded from JSON, or from UTF-8 for a `str`. A tombstone is
    then a dead letter, reason `tombstone`; a `flux.Task[Order | None]` gets None.

    Times are in seconds, or a timedelta. A feature whose setting is None or 0 is off, and costs nothing. An invalid
    setting raises ConfigurationError when a worker starts; a misspelt one, where the class is defined.
    """

    topic: str = ""
    group_id: str = ""

    retries: int = 5
    """Retry stages: a record is tried 1 + `retries` times before it is a dead letter."""
    wait: WaitSetting = None
    """None: the default backoff; seconds; a list of seconds, the last one repeated; or stage -> seconds."""
    max_delay: Seconds = 30 * DAY
    """No record waits longer than this in one stage."""
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    """Exceptions after which a record is tried again. The nearest class in the MRO wins. A BaseException that is no
    Exception counts when it is named here or below; failures of the process (KeyboardInterrupt, SystemExit,
    GeneratorExit, MemoryError, a cancellation) cannot be named."""
    reject_on: tuple[type[BaseException], ...] = ()
    """Exceptions that make a record a dead letter at once. So do ties, and exceptions that are named nowhere."""
    pause_on: tuple[type[BaseException], ...] = ()
    """Exceptions that mean an outage, as if `flux.Pause` was raised: the record is not moved, no attempt is counted,
    and the task makes no calls in this process until one record, which is tried from time to time, has another
    result."""
    pause_when: FailureRate | None = None
    """The share of failed calls, whatever the exception, from which on the task pauses in the same way:
    `flux.FailureRate(0.5, of=100, within=30)`. A record that fails three times as the one that is tried is
    moved as any other that fails, since the fault may be its own."""
    in_place_retries: int = 0
    """Retries in place before a record is forwarded, each counted as an attempt. They hold back only the record's key,
    end early on a stop or a revocation, and wait for the end of a pause."""
    in_place_wait: Seconds = 0.1
    """Seconds before the first of them; doubled each time."""
    give_up_after: Seconds | None = None
    """Maximum age, from the record's timestamp in the main topic: an older record is not tried any more, nor one whose
    next wait would exceed it; it becomes a dead letter, reason `expired`."""

    max_crashes: int | None = 3
    """Processes in a row that may vanish (a segfault, the OOM killer) after a first one, before the record that they
    were calling is a dead letter, reason `crashed`; at least 2. None: any number. After the second one, those in doubt
    are called alone in the process, so that only the one at fault is dead."""

    concurrency: int = 10
    """Calls in flight per process, all stages together."""
    concurrency_key: ClassVar[Any] = None  # a function, as `deserializer`
    """message -> a name, such as a tenant's: at most `concurrency_per_key` calls are in flight for one name and
    process, and records of other names pass by. Called once per record, before the value is decoded, so it must be
    quick; None as a name: no limit."""
    concurrency_per_key: int = 1
    rate_limit: float | None = None
    """Calls per second in each process, all stages together, evenly spaced."""
    rate_limit_scope: Literal["process", "group"] = "process"
    """With "group" the limit is the whole group's: each process takes the share of the partitions that it owns."""
    rate_limit_key: ClassVar[Any] = None
    """message -> a name, likewise: `rate_limit` is then that of each name."""
    timeout: Seconds | None = None
    """Time limit of a call. An async call is then cancelled, and fails with TimeoutError; a blocking one cannot be
    ended: the log names it, with its stack."""
    middleware: Sequence[Middleware] = ()
    """Callables (message, call_next) around each call, the first outermost. Their return value is ignored; an exception
    counts as the call's. Coroutine functions with an `async def call`. They get the decoded value."""
    ordering: Literal["key", "partition", "none"] = "key"
    retry_order: Literal["key"] | None = None
    """"key": no record of a key is called before all earlier ones of it are done or dead, in all stages."""
    on_dead: Literal["free", "hold"] = "free"
    """With `retry_order`, whether a dead letter holds its key until it is replayed or skipped."""
    start_from: Literal["earliest", "latest"] = "earliest"
    """Where a group without any committed offset in the main topic starts. Partitions that are added later start with
    their oldest record."""

    offset_commit_interval: Seconds = 0.2
    offset_commit_threshold: int = 10_000
    drain_timeout: Seconds = 10
    """How long a revoked partition is kept for calls in flight."""
    shutdown_timeout: Seconds = 25
    """How long a stop waits for calls in flight."""
    stalled_after: Seconds = 300
    """A partition with records but no progress for this long is named in the log, with its blocker."""
    max_waiting: int = 100_000
    """Records per retry stage that wait in memory; others stay on the cluster."""
    max_waiting_bytes: int = 64 * 1024 * 1024
    max_metadata: int = MAX_METADATA
    """Characters of a committed offset's metadata; at most the broker's offset.metadata.max.bytes, less one."""

    deserializer: ClassVar[Any] = None  # Any, since type checkers take a function for a method
    """bytes or None -> anything; when it raises, the record is a dead letter at once, reason `undecodable`."""
    values: Values[V] | None = None
    """Gives deserializer and serializer if these are None; None: the type parameter gives them."""
    serializer: ClassVar[Any] = None
    """Encodes the value of `enqueue`; None: `enqueue` takes bytes, str or None."""
    error_headers: ErrorHeaders = "full"
    """What headers contain of an error: "full", "type", or a callable error -> text."""
    acknowledge_produced: bool = True
    """Whether a record is done only when the records that its call has produced are acknowledged."""
    hold_produced: bool = True
    """Whether what a call passes to `produce` leaves when the call has returned, and not at all if it fails, pauses or
    is cancelled. `send` always leaves at once. Without `acknowledge_produced` nothing is held."""

    exactly_once: bool = False
    """Whether what a call produces on this task's cluster, the record's way to a retry topic or the dead letters, and
    its committed offset become visible together, in one Kafka transaction: a reader with
    isolation.level=read_committed sees each record's outputs once, whatever dies. What leaves Kafka (mails, HTTP,
    databases) stays at least once. Needs the confluent adapter."""

    hooks: Sequence[Hooks] = ()
    """Event callbacks of this task, in addition to those of `flux.configure`."""

    adapter: AdapterChoice = None
    """The cluster, or its URL. The first that is set counts: instance, class, the worker's `adapter`, `--adapter`,
    FLUX_ADAPTER, `flux.configure`."""
    naming: Naming | None = None
    """(topic, group, stage) -> (topic, group); None: Super::Flux's names."""

    _schedules: Sequence[ScheduledWork] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__module__ != __name__:
            check_spelling(cls)

    def resources(self) -> Any:
        """What calls need, such as a pool: a generator that assigns it to `self` and yields once, or an async generator
        beside an `async def call`; or a function that returns a context manager. It is entered once per process, before
        `setup` and the first call, and left after the last call and `close`, in an event loop always by the same task.
        If it ends earlier, the worker fails. The testing kit's `provide` replaces it."""

    def setup(self) -> Any:
        """Called once per process, before the first call."""

    def call(self, message: OneOrMany[V], /) -> Any:
        """Processes one record, a `flux.Message`. When it returns, the record is done, unless the return value is a
        coroutine, a generator or a future: that counts as a failure. When it raises, the record is forwarded to the
        next stage or the dead letters."""
        raise NotImplementedError

    def close(self) -> Any:
        """Called once per process, after the last call."""

    @on_both
    def enqueue(
        self,
        value: V,
        *,
        key: str | bytes | None = None,
        headers: HeadersLike | None = None,
        delay: Seconds | None = None,
        at: datetime | None = None,
        id: str | None = None,
    ) -> Delivery:
        """Writes a record to the task's main topic; or, with `delay` in seconds or the time `at` (with a time zone), to
        its first retry topic with that due time, where only this task's group reads it. The future's `result(timeout)`,
        and `await`, return where it was written, or raise DeliveryError.

        `id`: a text of up to 250 characters. The record replaces the delayed one with this id, unless that has started,
        and `cancel` takes it back. It is placed by its id, not by its key.

        A delayed record has `retries` attempts, since it starts in the first retry topic; its `message.id` refers to
        its record there. Raises ConfigurationError for more than `max_delay`, a task without retries, and an invalid
        record.
        """
        policy = self.policy()
        serializer = serializer_of(self, Task, policy.stages.topic)
        return enqueue(self, policy, serializer, value, key, headers, delay, at, id)

    @on_both
    def cancel(self, id: str) -> Delivery:
        """Takes back the delayed record that was enqueued with this id, unless it has started. Returns at once; the
        future's `result(timeout)`, and `await`, return when the cancellation is written, or raise DeliveryError.
        Raises ConfigurationError for a task without retries, and an invalid id."""
        policy = self.policy()
        return write_cancellation(self, policy, serializer_of(self, Task, policy.stages.topic), id)

    @on_both
    def every(
        self,
        cron: str | None = None,
        *,
        seconds: Seconds | None = None,
        timezone: str = "UTC",
        value: Any = None,
        key: str | bytes | None = None,
        headers: HeadersLike | None = None,
        name: str | None = None,
        max_late: Seconds | None = None,
    ) -> None:
        """Calls the task at the times of a cron expression in a time zone, or at each multiple of `seconds` since
        1970-01-01 UTC: one call per tick for the whole group. To be called where the task is defined.

        `value`, `key`, `headers`: of each tick's record; `key` None: the name. `name`: None: the expression or the
        interval. A tick that no worker was there for is called once, however many were missed, unless it is more than
        `max_late` seconds late, 1 or more. Raises ConfigurationError, also for a task without retries.
        """
        policy = self.policy()
        work = scheduled_work(self, policy, cron, seconds, timezone, value, key, headers, name, max_late)
        self._schedules = (*self._schedules, work)

    @on_both
    def policy(self) -> Policy:
        """The checked settings of the class or the instance. Raises ConfigurationError, in one line that names the
        task."""
        cls = self if isinstance(self, type) else type(self)
        policy = policy_of(self, cls, _batch(self))
        if cls.call in (Task.call, BatchTask.call):
            what = "messages" if issubclass(cls, BatchTask) else "message"
            raise ConfigurationError(f"{cls.__name__} has no call: write def call(self, {what})")
        return policy

    @on_both
    def decoder(self) -> Callable[[bytes | None], Any] | None:
        """The deserializer, or None: the one that is named, else that of `values`, else that of the type parameter.
        Raises ConfigurationError."""
        return deserializer_of(self, Task, self.topic)


class BatchTask(Task[V]):
    """A task whose `call` takes many records of one partition at once: up to `max_batch`, or those that have arrived
    within `max_wait` seconds of the first. One batch is in flight per partition; `concurrency` and `rate_limit` count
    batches. Retry stages batch records that are due.

    When `call` returns, all are done. `raise flux.BatchFailure({message: error, …})` forwards those alone, and the
    others are done. Any other exception forwards all, so a batch that is written in one transaction fails as a whole.

    What it produces within `with flux.producing(message):` does not leave if that message has failed. The rest leaves
    if at least one message is done.
    """

    max_batch: int = 100
    """Records; at most 10,000."""
    max_wait: Seconds = 1.0
    """Seconds; at most 300."""

    def call(self, messages: Sequence[Message[V]], /) -> Any:
        """Processes records of one partition, in order. When it returns, all are done."""
        raise NotImplementedError


BATCH_SETTINGS = ("max_batch", "max_wait")


def check_spelling(task: type[Task] | Task) -> None:
    """Raises ConfigurationError for an attribute that misspells a setting, or is one of batch tasks only."""
    cls = task if isinstance(task, type) else type(task)
    if not issubclass(cls, BatchTask) and (name := next(filter(partial(hasattr, task), BATCH_SETTINGS), None)):
        raise ConfigurationError(
            f"{cls.__name__}.{name} is a setting of flux.BatchTask: make {cls.__name__} one, or choose another name"
        )
    check_names(task, (Task, BatchTask), ("resources", "setup", "call", "close"))


def _batch(task: Any) -> OpenBatch | None:
    batched = issubclass(task if isinstance(task, type) else type(task), BatchTask)
    return OpenBatch(task.max_batch, task.max_wait) if batched else None
