"""Writes forwarded copies in order, acknowledged by all in-sync replicas. No record leaves a stage in another way."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from flux.consuming.topic_setup import REQUEST_TIMEOUT, Spreading
from flux.core.engine import Engine
from flux.core.engine.due_times import whole_ms
from flux.core.engine.forwarding import Forward
from flux.core.errors import BrokerError, Fault
from flux.core.monitoring.duties import Duty
from flux.core.ports import Cluster, Lock, ProducerPort, ProducerSettings, System

_ROOM = 5.0  # seconds to wait for room in the client's queue
_AGAIN = 0.01
_TIMEOUT = 30.0  # seconds
_BATCH = 1_000_000  # bytes

Ended = Callable[[Forward, BrokerError | None], None]
Wanted = Callable[[Forward], bool]
Step = Callable[[], None]


def settings_for(limits: Iterable[int]) -> ProducerSettings:
    """How forwarded copies are written to topics with these limits, in bytes of a record."""
    return ProducerSettings(
        acks="all",
        compression="best",  # uncompressed, a record may be too large for the next topic
        delivery_timeout=_TIMEOUT,
        max_batch_bytes=min([*limits, _BATCH]),
    )


class ForwardWriter:
    """One cluster's producer for forwarded copies. Thread-safe; replaces its client if that fails."""

    def __init__(self, adapter: Cluster, settings: ProducerSettings, system: System) -> None:
        self._adapter = adapter
        self._settings = settings
        self._system = system
        self._client: ProducerPort | None = None
        self._closed = False
        self._lock: Lock = system.condition()

    def write(
        self, forwards: Iterable[Forward], limit: Callable[[str], int | None], ended: Ended, wanted: Wanted, step: Step
    ) -> None:
        """Hands forwarded copies to the client, in order. `limit`: a topic's largest record in bytes, if known.
        `ended`: called for the end of each, on this thread or the client's. `wanted`: whether a forwarded copy is still
        to be written; checked after each wait. `step`: called on progress."""
        by_topic: dict[str, list[Forward]] = {}
        for forward in forwards:
            by_topic.setdefault(forward.forwarded_copy.target.topic, []).append(forward)
        away: BrokerError | None = None
        for topic, those in by_topic.items():
            if away is None:
                away = self._write(topic, those, limit(topic), ended, wanted, step)
                continue
            for forward in those:  # each would wait as long for the same error
                ended(forward, away)

    def _write(
        self, topic: str, forwards: list[Forward], limit: int | None, ended: Ended, wanted: Wanted, step: Step
    ) -> BrokerError | None:
        """Returns the error of a cluster that is unavailable now, if it is."""
        system = self._system
        client: ProducerPort | None = None
        try:
            client = self._opened()
            partitions = client.partitions(topic, REQUEST_TIMEOUT)
            now_ms = whole_ms(system.now())
            deadline = system.monotonic() + _ROOM
            records = []
            for forward in forwards:
                forward.forwarded_copy.partitions = partitions
                records.append(forward.forwarded_copy.producer_record(now_ms, limit))
            while True:
                step()
                unwanted = [index for index, forward in enumerate(forwards) if not wanted(forward)]
                for index in reversed(unwanted):
                    ended(forwards[index], BrokerError("its partition is another member's", Fault.FENCED))
                    del forwards[index], records[index]
                if not forwards:
                    return None
                taken = client.write(topic, records, [partial(_ended, ended, forward) for forward in forwards])
                del forwards[:taken], records[:taken]
                if taken:
                    deadline = system.monotonic() + _ROOM
                elif system.monotonic() >= deadline:
                    raise BrokerError("the client's queue has no room", Fault.UNAVAILABLE)
                if forwards:
                    system.sleep(_AGAIN)
        except BrokerError as error:
            if error.fault is Fault.FATAL and client is not None:
                self._drop(client)
            for forward in forwards:
                ended(forward, error)
            return error if error.fault is Fault.UNAVAILABLE else None

    def renew(self) -> None:
        """Replaces the client for the next forwarded copy, because a thread is stuck in this one."""
        self._client = None

    def warm_up(self, topics: Iterable[str]) -> None:
        """Connects and queries the topics' partitions before the first forwarded copy. Raises BrokerError."""
        client = self._opened()
        spreading = Spreading(self._system)
        for topic in topics:
            try:
                spreading.known(partial(client.partitions, topic, REQUEST_TIMEOUT))
            except BrokerError as error:
                if (
                    error.fault is not Fault.UNKNOWN_TOPIC
                ):  # otherwise a forwarded copy to the topic is kept, and logged
                    raise

    def close(self, timeout: float) -> None:
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
        if client is not None:
            client.close(timeout)

    def _opened(self) -> ProducerPort:
        client = self._client
        if client is None and not self._closed:
            made = self._adapter.producer(self._settings)
            with self._lock:
                if not self._closed:
                    client = self._client = self._client or made
            if client is not made:  # another thread's: all stages write by one client, which keeps the order of each
                made.close(0)
        if client is None:
            raise BrokerError("the worker has ended", Fault.FATAL)
        return client

    def _drop(self, client: ProducerPort) -> None:
        """`client` cannot continue. Another thread may have replaced it already."""
        with self._lock:
            if self._client is client:
                self._client = None
        client.close(0)


def _ended(ended: Ended, forward: Forward, error: BrokerError | None, _: object) -> None:
    ended(forward, error)


class Forwarder:
    """Writes one stage's forwarded copies, on one thread at a time, so that they keep their order.

    `lock`: the engine's. `now_locked`: the engine's time. `take_in_locked`: reports `ends` to the engine. `spawn`:
    starts a thread. `freed`: called with the identifier of a stuck thread that was replaced, whose other duties are
    stuck too.
    """

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
