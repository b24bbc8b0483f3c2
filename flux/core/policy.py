"""A task's settings as the core sees them: checked, frozen, without the user's class."""

from __future__ import annotations

import inspect
from typing import Literal

import attrs

from flux.core.backoff import Waits
from flux.core.batches import MOST_BATCH, Batch
from flux.core.described import error_name
from flux.core.errors import ConfigurationError
from flux.core.ledger import MAX_METADATA
from flux.core.outcome import Rules
from flux.core.stage import Stage, Stages
from flux.core.transfer import ErrorHeaders

DAY = 86400.0
MOST_QUICK = 300.0
"""Seconds that a record waits at most where its position is held back meanwhile: in place, or for its batch."""


@attrs.frozen
class Policy:
    """Everything that decides how one task's records are worked. Times in seconds, sizes in bytes."""

    stages: Stages
    waits: Waits = attrs.field(factory=lambda: Waits(None, 30 * DAY))
    rules: Rules = attrs.field(factory=Rules)
    ordering: Literal["key", "partition", "none"] = "key"
    concurrency: int = 10
    commit_interval: float = 5.0
    commit_threshold: int = 10_000
    start_from: Literal["earliest", "latest"] = "earliest"
    error_headers: ErrorHeaders = "full"
    drain_timeout: float = 10.0
    shutdown_timeout: float = 25.0
    max_waiting: int = 100_000
    """Records that wait in memory, per stage and process; a retry stage's partitions share it evenly."""
    max_waiting_bytes: int = 64 * 1024 * 1024
    """The same in bytes of keys and values."""
    max_metadata: int = MAX_METADATA
    stalled_after: float = 300.0
    """A partition that has work and no record done for as long is named in the log, with what it waits for."""
    quick_retries: int = 0
    """Tries in place before a record moves."""
    quick_wait: float = 0.1
    """Before the first of them; doubled each time."""
    give_up_after: float | None = None
    """From the timestamp of the record in the main topic."""
    rate_limit: float | None = None
    """Calls a second, all stages together."""
    timeout: float | None = None
    """Of a call: see `Task.timeout`."""
    batch: Batch | None = None
    """None: a call takes one record."""

    @property
    def max_delay(self) -> float:
        return self.waits.max_delay

    def wait(self, stage: Stage, jitter: int) -> float:
        """Seconds that a record waits in `stage`."""
        return self.waits.seconds(stage.number, jitter)

    def check(self) -> None:
        """Raises ConfigurationError, in one line, for the first setting that cannot work."""
        self.stages.check()
        self.waits.check(self.stages.retries)
        for name, value, kinds in (
            ("ordering", self.ordering, ("key", "partition", "none")),
            ("start_from", self.start_from, ("earliest", "latest")),
        ):
            if value not in kinds:
                raise ConfigurationError(f"{name} = {value!r}: give one of {', '.join(kinds)}")
        for name, number, least in (
            ("concurrency", self.concurrency, 1),
            ("offset_commit_threshold", self.commit_threshold, 1),
            ("max_waiting", self.max_waiting, 1),
            ("max_waiting_bytes", self.max_waiting_bytes, 1),
            ("max_metadata", self.max_metadata, 0),
            ("quick_retries", self.quick_retries, 0),
        ):
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise ConfigurationError(f"{name} = {number!r}: give a whole number, {least} or more")
        for name, seconds in (
            ("offset_commit_interval", self.commit_interval),
            ("drain_timeout", self.drain_timeout),
            ("shutdown_timeout", self.shutdown_timeout),
            ("stalled_after", self.stalled_after),
            ("quick_wait", self.quick_wait),
        ):
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
                raise ConfigurationError(f"{name} = {seconds!r}: give seconds, 0 or more")
        for name, optional, unit in (
            ("give_up_after", self.give_up_after, "seconds"),
            ("rate_limit", self.rate_limit, "calls a second"),
            ("timeout", self.timeout, "seconds"),
        ):
            if optional is not None and not _is_positive(optional):
                raise ConfigurationError(f"{name} = {optional!r}: give {unit}, more than 0, or None")
        if self.quick_wait * 2 ** max(self.quick_retries - 1, 0) > MOST_QUICK:
            raise ConfigurationError(
                f"quick_retries = {self.quick_retries} with quick_wait = {self.quick_wait:g}: the last wait in place"
                f" would be longer than {MOST_QUICK:g} s, which is what retries are for"
            )
        if self.batch is not None:
            most, wait = self.batch.most, self.batch.wait
            if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= MOST_BATCH:
                raise ConfigurationError(f"max_batch = {most!r}: give a whole number from 1 to {MOST_BATCH}")
            if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait <= MOST_QUICK:
                raise ConfigurationError(f"max_wait = {wait!r}: give seconds from 0 to {MOST_QUICK:g}")
        if self.error_headers not in ("full", "type") and not callable(self.error_headers):
            raise ConfigurationError(f"error_headers = {self.error_headers!r}: give 'full', 'type' or a callable")
        if inspect.iscoroutinefunction(self.error_headers):
            raise ConfigurationError("error_headers is a coroutine function, which nobody awaits: make it a plain def")
        for name, types in (
            ("retry_on", self.rules.retry_on),
            ("reject_on", self.rules.reject_on),
            ("pause_on", self.rules.pause_on),
        ):
            if not isinstance(types, tuple) or not all(
                isinstance(cls, type) and issubclass(cls, BaseException) for cls in types
            ):
                raise ConfigurationError(f"{name} = {types!r}: give a tuple of exception types")
            for cls in types:
                if issubclass(cls, self.rules.process):
                    raise ConfigurationError(
                        f"{name} names {error_name(cls)}, which is a failure of the process and never of a record:"
                        " take it out"
                    )


def _is_positive(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < float("inf")
