"""Delivery failures that no caller waits for: they go to the log, to `on_error` and to the next `flush`."""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FunctionType, MethodType

from flux.core.errors import BrokerError, ConfigurationError, DeliveryError, FailedRecord
from flux.core.monitoring.log_throttle import LogThrottle, and_more
from flux.core.ports import Adapter, System
from flux.system import forks
from flux.system.process_end import ending, write_once
from flux.system.return_values import check_returned, is_async
from flux.system.tracebacks import text_of

logger = logging.getLogger("flux.producer")

KEPT_FAILURES = 1000
"""How many are kept for the next `flush`; the log and `on_error` get all."""

OnError = Callable[[DeliveryError], object]


class UnclaimedFailures:
    """Takes no lock: a garbage collection may call it anywhere."""

    def __init__(self, system: System, adapter: Adapter, topic: str) -> None:
        self._on_error: OnError | None = None
        self._system = system
        self._adapter = adapter
        self._topic = topic
        self._kept: deque[FailedRecord] = deque(maxlen=KEPT_FAILURES)
        self._throttle = LogThrottle()

    def set_on_error(self, hook: OnError, producer: str) -> None:
        """Raises ConfigurationError for a hook that cannot be called with the error."""
        if is_async(hook):
            raise ConfigurationError(f"{producer}.on_error is a coroutine function: make it a plain one")
        if isinstance(hook, FunctionType | MethodType):
            try:
                inspect.signature(hook).bind(None)
            except TypeError:
                text = f"{producer}.on_error must take the error alone: make it a classmethod"
                raise ConfigurationError(text) from None
        self._on_error = hook

    def report(self, records: Sequence[FailedRecord], keep: bool = True) -> None:
        """`keep`: for the next `flush`."""
        error = DeliveryError(records)
        if ending():
            write_once(f"{self._adapter.cluster}: {error}")
            return
        first = records[0].error
        kind = (type(first), first.fault if isinstance(first, BrokerError) else None)
        left_out = self._throttle.admit(kind, self._system.monotonic(), len(records))
        if left_out is not None:
            logger.error("%s: %s%s", self._adapter.cluster, error, and_more(left_out))
        if keep:
            self._kept.extend(records)
        if self._on_error is not None:
            self._call(self._on_error, error)

    def _call(self, on_error: OnError, error: DeliveryError) -> None:
        try:
            check_returned("on_error", forks.calling(on_error, error))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as raised:
            logger.error("on_error of the producer for topic %s failed\n%s", self._topic, text_of(raised))

    def collect(self) -> list[FailedRecord]:
        """Returns and forgets the failures kept so far."""
        records: list[FailedRecord] = []
        with suppress(IndexError):
            while True:
                records.append(self._kept.popleft())
        return records
