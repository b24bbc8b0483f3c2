"""A task's settings for the core: frozen, and without the user's class."""

from __future__ import annotations

import inspect
from typing import Literal

import attrs

from flux.core.backoff import Waits
from flux.core.engine.batches import MOST_BATCH, OpenBatch
from flux.core.engine.crashes import LEAST_CRASHES, MOST_CRASHES
from flux.core.engine.forwards import ErrorHeaders
from flux.core.engine.offset_tracker import MAX_METADATA
from flux.core.engine.verdicts import Move, Rules, Verdict
from flux.core.error_text import error_name
from flux.core.errors import ConfigurationError
from flux.core.limits.failure_rate import FailureRate
from flux.core.limits.name_limits import NameOf, check_name_of
from flux.core.stage import Stage, Stages
from flux.core.validation import (
    LONGEST,
    MOST,
    check_choice,
    check_seconds,
    check_whole,
    is_number,
    plainly,
    seconds,
    shown,
)

DAY = 86400.0
LONGEST_IN_PLACE = 300.0
"""Longest wait, in seconds, that holds back the committed offset: before a retry in place, or for a batch to fill."""
MOST_IN_PLACE_RETRIES = 1_000
MOST_CALLS = 1_000_000
"""Limit of `concurrency`."""
LEAST_METADATA = 100
"""Lowest `max_metadata` with `exactly_once`."""
RATES = (1e-6, 1e9)
"""Lowest and highest `rate_limit`, in calls per second."""


@attrs.frozen(field_transformer=plainly)
class Policy:
    """All settings that decide how one task's records are processed. Times in seconds, sizes in bytes."""

    stages: Stages
    waits: Waits = attrs.field(factory=lambda: Waits(None, 30 * DAY))
    rules: Rules = attrs.field(factory=Rules)
    ordering: Literal["key", "partition", "none"] = "key"
    concurrency: int = 10
    commit_interval: float = attrs.field(default=0.2, converter=seconds)
    commit_threshold: int = 10_000
    start_from: Literal["earliest", "latest"] = "earliest"
    error_headers: ErrorHeaders = "full"
    drain_timeout: float = attrs.field(default=10.0, converter=seconds)
    shutdown_timeout: float = attrs.field(default=25.0, converter=seconds)
    max_waiting: int = 100_000
    """Records not due yet that are kept in memory per stage and process; a stage's partitions share it evenly."""
    max_waiting_bytes: int = 64 * 1024 * 1024
    """The same in bytes of keys and values."""
    max_metadata: int = MAX_METADATA
    stalled_after: float = attrs.field(default=300.0, converter=seconds)
    """A partition that has records and completes none for as long is logged, with what it waits for."""
    in_place_retries: int = 0
    """Retries in place before a record is forwarded."""
    in_place_wait: float = attrs.field(default=0.1, converter=seconds)
    """Wait before the first retry in place; doubled each time."""
    give_up_after: float | None = attrs.field(default=None, converter=seconds)
    """Greatest age of a record, from its timestamp in the main topic."""
    rate_limit: float | None = None
    """Calls per second of all stages together."""
    rate_limit_scope: Literal["process", "group"] = "process"
    rate_limit_key: NameOf | None = None
    """Gives the name for which `rate_limit` counts; None: for all calls together."""
    concurrency_key: NameOf | None = None
    concurrency_per_key: int = 1
    """Calls in flight for one name of `concurrency_key`."""
    pause_when: FailureRate | None = None
    """From which share of failures on the task pauses; None: none."""
    timeout: float | None = attrs.field(default=None, converter=seconds)
    """Time limit of a call: see `Task.timeout`."""
    max_crashes: int | None = None
    """Processes in a row that may vanish before the record that they were calling is dead; None: any number."""
    retry_order: Literal["key"] | None = None
    """Whether a key's order is kept through retries."""
    on_dead: Literal["free", "hold"] = "free"
    """Whether a dead letter frees its key, or holds it until it is replayed or skipped."""
    batch: OpenBatch | None = None
    """None: a call takes one record."""
    exactly_once: bool = False
    """Whether what calls produce, forwarded copies and committed offsets become visible in one transaction."""

    @property
    def max_delay(self) -> float:
        return self.waits.max_delay

    def wait(self, stage: Stage, jitter: int) -> float:
        """Seconds that a record waits in `stage`."""
        return self.waits.seconds(stage.number, jitter)

    def holds_key(self, verdict: Verdict) -> bool:
        """Whether a record with this verdict is retried in place first, so that its key waits."""
        return self.in_place_retries > 0 and verdict.move is Move.NEXT and verdict.after is None

    def reports_at_once(self, verdict: Verdict) -> bool:
        """Whether a failure with this verdict holds back other records, so that it cannot wait for its run's end."""
        return self.holds_key(verdict) or self.pause_when is not None or self.retry_order is not None

    def check(self) -> None:
        """Raises ConfigurationError, in one line, for the first invalid setting."""
        self.stages.check()
        self.waits.check(self.stages.retries)
        for name, value, kinds in (
            ("ordering", self.ordering, ("key", "partition", "none")),
            ("start_from", self.start_from, ("earliest", "latest")),
            ("rate_limit_scope", self.rate_limit_scope, ("process", "group")),
        ):
            check_choice(name, value, kinds)
        for name, number, least, most in (
            ("concurrency", self.concurrency, 1, MOST_CALLS),
            ("concurrency_per_key", self.concurrency_per_key, 1, MOST_CALLS),
            ("offset_commit_threshold", self.commit_threshold, 1, MOST),
            ("max_waiting", self.max_waiting, 1, MOST),
            ("max_waiting_bytes", self.max_waiting_bytes, 1, MOST),
            ("max_metadata", self.max_metadata, 0, 2**31 - 1),
            ("in_place_retries", self.in_place_retries, 0, MOST_IN_PLACE_RETRIES),
        ):
            check_whole(name, number, least, most)
        if self.max_crashes is not None:
            check_whole("max_crashes", self.max_crashes, LEAST_CRASHES, MOST_CRASHES)
        for name, duration in (
            ("offset_commit_interval", self.commit_interval),
            ("drain_timeout", self.drain_timeout),
            ("shutdown_timeout", self.shutdown_timeout),
            ("stalled_after", self.stalled_after),
            ("in_place_wait", self.in_place_wait),
        ):
            check_seconds(name, duration)
        for name, optional, unit, slowest, fastest in (
            ("give_up_after", self.give_up_after, "seconds", 0, LONGEST),
            ("rate_limit", self.rate_limit, "calls a second", *RATES),
            ("timeout", self.timeout, "seconds", 0, LONGEST),
        ):
            if optional is not None and (not is_number(optional, slowest, fastest) or optional == 0):
                limits = f"more than {slowest:g}, at most {fastest:.0f}"
                raise ConfigurationError(f"{name} = {shown(optional)}: give {unit}, {limits}, or None")
        if self.rate_limit_scope == "group" and self.rate_limit is None:
            raise ConfigurationError("rate_limit_scope = 'group': set rate_limit, the group's calls a second")
        if self.pause_when is not None:
            if not isinstance(self.pause_when, FailureRate):
                raise ConfigurationError(f"pause_when = {shown(self.pause_when)}: give flux.FailureRate(…) or None")
            self.pause_when.check()
        self._check_names()
        if self.in_place_wait * 2.0 ** max(self.in_place_retries - 1, 0) > LONGEST_IN_PLACE:
            raise ConfigurationError(
                f"in_place_retries = {self.in_place_retries} with in_place_wait = {self.in_place_wait:g}: the last wait"
                f" in place would be longer than {LONGEST_IN_PLACE:g} s, which is what retries are for"
            )
        if self.batch is not None:
            most, wait = self.batch.most, self.batch.wait
            check_whole("max_batch", most, 1, MOST_BATCH)
            check_seconds("max_wait", wait, LONGEST_IN_PLACE)
        if self.exactly_once and self.max_metadata < LEAST_METADATA:
            raise ConfigurationError(
                f"max_metadata = {self.max_metadata}: exactly_once keeps what is done above the committed offset in its"
                f" metadata: give at least {LEAST_METADATA}"
            )
        self._check_order()
        if not callable(self.error_headers):
            check_choice("error_headers", self.error_headers, ("full", "type"), " or a callable")
        if inspect.iscoroutinefunction(self.error_headers):
            raise ConfigurationError(
                "error_headers is a coroutine function, which is never awaited: make it a plain def"
            )
        for name, types in (
            ("retry_on", self.rules.retry_on),
            ("reject_on", self.rules.reject_on),
            ("pause_on", self.rules.pause_on),
        ):
            if not isinstance(types, tuple) or not all(
                isinstance(cls, type) and issubclass(cls, BaseException) for cls in types
            ):
                raise ConfigurationError(f"{name} = {shown(types)}: give a tuple of exception types")
            for cls in types:
                if issubclass(cls, self.rules.process):
                    raise ConfigurationError(
                        f"{name} names {error_name(cls)}, which is a failure of the process and never of a record:"
                        " take it out"
                    )

    def _check_names(self) -> None:
        by = None if self.pause_when is None else self.pause_when.by
        names = {"rate_limit_key": self.rate_limit_key, "concurrency_key": self.concurrency_key, "pause_when: by": by}
        for name, function in names.items():
            if function is None:
                continue
            check_name_of(name, function)
            if self.batch is not None:
                raise ConfigurationError(f"{name} is for single records: a batch has those of many names; take it out")
        if self.rate_limit_key is not None and self.rate_limit is None:
            raise ConfigurationError("rate_limit_key: set rate_limit, the calls a second for each name")
        if self.concurrency_key is None and self.concurrency_per_key != 1:
            raise ConfigurationError("concurrency_per_key: set concurrency_key, which gives the name for a record")

    def _check_order(self) -> None:
        """Raises ConfigurationError if `retry_order` does not go together with another setting."""
        if self.retry_order is not None:
            check_choice("retry_order", self.retry_order, ("key",), " or None")
        check_choice("on_dead", self.on_dead, ("free", "hold"))
        if self.retry_order is None:
            if self.on_dead == "hold":
                raise ConfigurationError('on_dead = "hold" holds keys in order: set retry_order = "key" too')
            return
        for wrong, remedy in (
            (self.ordering != "key", f'ordering = {shown(self.ordering)}: leave ordering = "key"'),
            (self.stages.retries == 0, "retries = 0: set at least 1, or take retry_order out"),
            (self.batch is not None, "a BatchTask: make it a flux.Task"),
            (self.rate_limit_key is not None, "rate_limit_key: take one of them out"),
            (self.concurrency_key is not None, "concurrency_key: take one of them out"),
            (
                self.pause_when is not None and self.pause_when.by is not None,
                "pause_when by a name: leave its `by` out",
            ),
            (self.in_place_retries > 0, f"in_place_retries = {self.in_place_retries}: take one of them out"),
        ):
            if wrong:
                raise ConfigurationError(f'retry_order = "key" does not go with {remedy}')
