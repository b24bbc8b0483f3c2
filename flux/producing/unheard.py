"""Failures that no caller is left to hear: they go to the log, to `on_error` and to whoever delivers next."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from flux.core.errors import BrokerError, DeliveryError, FailedRecord
from flux.core.monitoring.log_throttle import LogThrottle, and_more
from flux.core.ports import Adapter, System
from flux.system.interpreter_end import ending, tell
from flux.system.return_values import check_returned
from flux.system.tracebacks import text_of

logger = logging.getLogger("flux.producer")

KEPT_FAILURES = 1000
"""How many are kept for whoever delivers next; the log and `on_error` get them all."""

OnError = Callable[[DeliveryError], object]


class Unheard:
    """Takes no lock: a garbage collection may call it anywhere."""

    def __init__(self, system: System, adapter: Adapter, topic: str) -> None:
        self.on_error: OnError | None = None
        self._system = system
        self._adapter = adapter
        self._topic = topic
        self._kept: deque[FailedRecord] = deque(maxlen=KEPT_FAILURES)
        self._throttle = LogThrottle()

    def report(self, records: Sequence[FailedRecord], keep: bool = True) -> None:
        """`keep`: for whoever delivers next."""
        error = DeliveryError(records)
        if ending():
            tell(f"{self._adapter.cluster}: {error}")
            return
        first = records[0].error
        kind = (type(first), first.fault if isinstance(first, BrokerError) else None)
        left_out = self._throttle.admit(kind, self._system.monotonic(), len(records))
        if left_out is not None:
            logger.error("%s: %s%s", self._adapter.cluster, error, and_more(left_out))
        if keep:
            self._kept.extend(records)
        if self.on_error is not None:
            self._call(self.on_error, error)

    def _call(self, on_error: OnError, error: DeliveryError) -> None:
        try:
            check_returned("on_error", on_error(error))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as raised:
            logger.error("on_error of the producer for topic %s failed\n%s", self._topic, text_of(raised))

    def collect(self) -> list[FailedRecord]:
        """Those kept so far: their caller hears of them now."""
        records: list[FailedRecord] = []
        with suppress(IndexError):
            while True:
                records.append(self._kept.popleft())
        return records
