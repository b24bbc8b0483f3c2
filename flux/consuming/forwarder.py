"""Writes one stage's forwarded copies, on one thread at a time, so that they keep their order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from flux.consuming.forward_writer import ForwardWriter
from flux.core.engine import Engine
from flux.core.engine.forwarding import Forward
from flux.core.errors import BrokerError, Fault
from flux.core.monitoring.duties import Duty
from flux.core.ports import Lock


class Forwarder:
    """`lock`: the engine's. `now_locked`: the engine's time. `take_in_locked`: reports `ends` to the engine. `spawn`:
    starts a thread. `freed`: called with the identifier of a stuck thread that was replaced, whose other duties are
    stuck too."""

    def __init__(
        self,
        engine: Engine,
        writer: ForwardWriter,
        lock: Lock,
        now_locked: Callable[[], float],
        take_in_locked: Callable[[], None],
        spawn: Callable[[str, Callable[[], None]], None],
        freed: Callable[[int], None],
    ) -> None:
        self.ends: deque[tuple[Forward, BrokerError | None]] = deque()
        """Ends of forwards that were not reported to the engine yet. The client's thread appends, because it must not
        wait for the lock once per record."""
        self.duty = Duty(f"{engine.stage.topic}: the writing of its forwarded copies", take_over=self._is_taken_over)
        self._engine = engine
        self._writer = writer
        self._lock = lock
        self._now_locked = now_locked
        self._take_in_locked = take_in_locked
        self._spawn = spawn
        self._freed = freed
        self._holder: object | None = None
        """The token of the thread that writes."""
        self._claim: dict[Forward, None] = {}
        """The forwards that are being written. Whoever reports the end of one takes it, so that it is reported once."""

    def write(self) -> None:
        """Writes the forwarded copies, unless another thread does."""
        token = object()
        with self._lock:
            if self._holder is not None:
                return
            self._holder = token
        self._go_on(token)

    def _go_on(self, token: object) -> None:
        me = threading.get_ident()
        claim: dict[Forward, None] = {}
        try:
            while True:
                with self._lock:
                    self._take_in_locked()
                    if self._holder is not token:
                        return
                    forwards = self._engine.writes(self._now_locked())
                    if not forwards:
                        self._let_go_locked(token)
                        return
                    claim = self._claim = dict.fromkeys(forwards)
                self._writer.write(
                    forwards,
                    self._engine.limit,
                    partial(self._end, claim),
                    lambda forward, claim=claim: forward in claim and not forward.gone,  # type: ignore[misc]
                    lambda: self.duty.step(me),
                )
        except BaseException:
            self._give_up(claim, "its write broke off")
            with self._lock:
                self._let_go_locked(token)
            raise

    def _let_go_locked(self, token: object) -> None:
        if self._holder is token:
            self._holder = None
            self.duty.rest()

    def _give_up(self, claim: dict[Forward, None], why: str) -> None:
        for forward in list(claim):
            self._end(claim, forward, BrokerError(why, Fault.UNAVAILABLE))

    def _end(self, claim: dict[Forward, None], forward: Forward, error: BrokerError | None) -> None:
        if claim.pop(forward, self) is self:
            return  # its write was stuck, and another attempt replaced it
        self.ends.append((forward, error))

    def _is_taken_over(self) -> bool:
        duty = self.duty
        stuck, step = duty.thread, duty.steps
        # on another thread: the watchdog must not wait for the lock
        self._spawn("flux-forwarding", lambda: self._take_over(stuck, step))
        return True

    def _take_over(self, stuck: int, step: int) -> None:
        token = object()
        with self._lock:
            if self._holder is None or self.duty.steps != step:
                return  # it has progressed
            self._holder = token
            claim = self._claim
            self.duty.step(threading.get_ident())
        # It is not known which of them were written: all are written again, which may repeat some and loses none.
        self._give_up(claim, "its write makes no progress")
        self._writer.renew()
        self._freed(stuck)
        self._go_on(token)
