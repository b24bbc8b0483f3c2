"""The thread driver: works all chosen stages of one task in this process. It decides nothing; it moves facts and
commands between engines, consumers, the hop writer and the handler.

Threads are alike. Polling one stage's consumer is a role that one of them holds at a time: it runs the stage's
scripts, and makes the calls itself while they are quick. A watcher tells the engine how runs get on; when the poller
is stuck in a call, the role goes to another thread. While calls are slow, the threads without a role take runs.
One lock guards all engines of the crew, and is never held during an effect or a call.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import attrs

from flux.core.engine import Engine
from flux.core.errors import BrokerError
from flux.core.hops import Hop
from flux.core.message import Message
from flux.core.outcome import Move
from flux.core.pace import LOOK
from flux.core.permits import Permits
from flux.core.policy import Policy
from flux.core.ports import (
    Adapter,
    AdminPort,
    ConsumerPort,
    ConsumerSettings,
    Position,
    System,
    TopicPartition,
)
from flux.core.runs import Run
from flux.core.stage import Role
from flux.core.transfer import Failure
from flux.runtime import effects as do
from flux.runtime import scripts
from flux.runtime.calls import Handler, work
from flux.runtime.effects import Effect, Script
from flux.runtime.produced import Produced
from flux.runtime.writer import Writer

T = TypeVar("T")
logger = logging.getLogger("flux.worker")

_IDLE_WAIT = 1.0
_PERMIT_WAIT = 0.05


@attrs.define(eq=False)
class Post:
    """One stage, its consumer, and who polls it."""

    engine: Engine
    consumer: ConsumerPort | None = None
    poller: object | None = None
    """The thread's token that holds the role; None: free."""
    inline: Run | None = None
    """The run that the poller is in."""
    writing: bool = False
    acknowledged: deque[tuple[Hop, BrokerError | None]] = attrs.field(factory=deque)
    """Ends of hops that the engine has not been told. Appended to by the client's thread, which must not wait for the
    lock once per record."""
    left: bool = False

    def __str__(self) -> str:
        return self.engine.stage.topic


class Crew:
    """`handler` is called by up to `policy.concurrency` threads at once."""

    def __init__(
        self,
        policy: Policy,
        engines: Sequence[Engine],
        handler: Handler,
        adapter: Adapter,
        admin: AdminPort,
        writer: Writer,
        system: System,
        *,
        track: bool = True,
        instance_suffix: str = "",
        on_end: Any = None,
    ) -> None:
        self.posts = [Post(engine) for engine in engines]
        self.failure: BaseException | None = None
        """The error of a failed process or of a cluster that refuses this member; the worker ends with it."""
        self._policy = policy
        self._handler = handler
        self._adapter = adapter
        self._admin = admin
        self._writer = writer
        self._system = system
        self._track = track
        self._suffix = instance_suffix
        self._on_end = on_end
        self._cond = system.condition()
        self._permits = Permits(policy.concurrency, any(e.stage.role is Role.MAIN for e in engines))
        self._threads = 0
        self._idle = 0
        self._resting = 0
        self._stop_at: float | None = None
        self._in_calls: dict[str, Post] = {}
        self._turn = 0

    # ---- life

    def start(self) -> None:
        """Joins the groups and begins to work."""
        with self._cond:
            self._ensure_thread(len(self.posts))
        self._system.spawn(f"flux-watch-{self.posts[0]}", self._watch)

    def stop(self, deadline: float) -> None:
        """Begins the end: no new calls, those in flight end by `deadline` (seconds since the epoch)."""
        with self._cond:
            if self._stop_at is None or deadline < self._stop_at:
                self._stop_at = deadline
                self._cond.notify_all()

    @property
    def ended(self) -> bool:
        """All stages have left their groups."""
        return all(post.left for post in self.posts)

    @property
    def stopping(self) -> bool:
        return self._stop_at is not None

    def abandoned(self) -> int:
        """Calls that have not ended."""
        with self._cond:
            return sum(post.engine.calls for post in self.posts)

    def idle(self) -> bool:
        """Nothing is in flight or waiting here. The cluster may have more: see `unread`."""
        with self._cond:
            return all(post.consumer is not None and post.engine.empty for post in self.posts)

    def ends(self) -> list[tuple[str, Mapping[TopicPartition, int | None]]]:
        """Each stage's topic with how far its partitions were delivered."""
        with self._cond:
            return [(str(post), post.engine.ends()) for post in self.posts]

    # ---- threads

    def _ensure_thread(self, needed: int = 1) -> None:
        """Wakes or makes threads for `needed` jobs. With the lock held."""
        self._wake(needed)
        most = self._policy.concurrency + len(self.posts)
        for _ in range(min(needed - self._idle, most - self._threads)):
            self._system.spawn(f"flux-{self.posts[0]}-{self._threads}", self._live)
            self._threads += 1

    def _wake(self, threads: int) -> None:
        """Pollers that rest wait on the same condition: they are woken too, lest they take an idle thread's turn."""
        if self._resting:
            self._cond.notify_all()
        elif self._idle:
            self._cond.notify(threads)

    def _rest(self, timeout: float) -> None:
        """Waits for a fact. With the lock held."""
        self._resting += 1
        self._cond.wait(timeout)
        self._resting -= 1

    def _live(self) -> None:
        token = object()
        while True:
            with self._cond:
                post = next((p for p in self.posts if p.poller is None and not p.left), None)
                run = None
                if post is not None:
                    post.poller = token
                elif self.ended:
                    return
                else:
                    post, run = self._take_any()
                    if run is None:
                        self._idle += 1
                        self._cond.wait(_IDLE_WAIT)
                        self._idle -= 1
                        continue
            assert post is not None
            if run is not None:
                self._work(post, run)
                continue
            try:
                self._poll(post, token)
            except BaseException as error:
                self._fail(error, post)
                self._abandon(post)

    def _take_any(self) -> tuple[Post | None, Run | None]:
        """A run of any stage, round-robin. With the lock held."""
        for _ in self.posts:
            self._turn = (self._turn + 1) % len(self.posts)
            post = self.posts[self._turn]
            run = self._take(post, polling=post.inline is None and post.engine.calls == 0)
            if run is not None:
                return post, run
        return None, None

    def _take(self, post: Post, polling: bool) -> Run | None:
        """A run of this stage, if there is one and a permit for it. With the lock held."""
        engine, now = post.engine, self._system.now()
        number = engine.stage.number
        if not engine.ready(now):
            self._permits.forgo(number)
            return None
        if not self._permits.take(number):
            return None
        run = engine.take(polling, now)
        if run is None:
            self._permits.give(number)
            return None
        if engine.pace.slow and engine.ready(now):
            self._ensure_thread()
        return run

    def _work(self, post: Post, run: Run) -> None:
        error = work(run, self._handler, _Reports(self, post), self._track)
        with self._cond:
            now = self._system.now()
            if error is not None:
                post.engine.aborted(run)
            else:
                post.engine.finished(run, now)
            self._permits.give(post.engine.stage.number)
            if self._resting or (self._idle and any(other.engine.ready(now) for other in self.posts)):
                self._wake(1)
        if error is not None:
            self._fail(error, post)

    def _poll(self, post: Post, token: object) -> None:
        """Holds the role of polling until it is taken away, or the stage has left."""
        engine = post.engine
        if post.consumer is None:
            settings = ConsumerSettings(
                topic=engine.stage.topic,
                group=engine.stage.group,
                small_queue=engine.stage.role is not Role.MAIN,
                instance_suffix=f"{self._suffix}-{engine.stage.number}",
            )
            post.consumer = self._adapter.consumer(settings, _Listener(self, post))
        while post.poller is token:
            if self._stop_at is not None:
                self._perform(post, scripts.leave(engine, self._system.now, lambda: self._stop_at or 0.0))
                self._left(post)
                return
            self._perform(post, scripts.cycle(engine, self._system.now))
            self._work_inline(post, token)

    def _work_inline(self, post: Post, token: object) -> None:
        """What the last poll brought, while calls are quick; else it is left to the others."""
        while post.poller is token and self._stop_at is None:
            with self._cond:
                now = self._system.now()
                if post.engine.pace.slow:
                    ready = post.engine.ready(now)
                    if ready:
                        self._ensure_thread(min(ready, self._policy.concurrency - self._permits.used))
                    return
                run = self._take(post, polling=True)
                if run is None:
                    if post.engine.ready(now):
                        self._rest(_PERMIT_WAIT)
                    return
                post.inline = run
            self._work(post, run)
            with self._cond:
                if post.inline is run:
                    post.inline = None

    def _watch(self) -> None:
        """Looks at the runs every few milliseconds while there are any."""
        while True:
            with self._cond:
                if self.ended:
                    return
                if not self._permits.used:
                    self._cond.wait(0.1 if self._stop_at is None else 0.02)
            self._system.sleep(LOOK)
            with self._cond:
                now = self._system.now()
                for post in self.posts:
                    for run in post.engine.looked(now):
                        if run is post.inline:
                            post.inline = post.poller = None
                            self._ensure_thread()
                        if post.engine.ready(now):
                            self._ensure_thread()

    # ---- effects

    def _perform(self, post: Post, script: Script[T]) -> T:
        """Runs a script: its own steps under the lock, its effects without it."""
        result: Any = None
        error: BrokerError | None = None
        while True:
            with self._cond:
                self._tell_written(post)
                try:
                    effect = script.send(result) if error is None else script.throw(error)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]
            result = error = None
            try:
                result = self._do(post, effect)
            except BrokerError as refused:
                error = refused

    def _do(self, post: Post, effect: Effect) -> Any:
        consumer = post.consumer
        assert consumer is not None
        match effect:
            case do.Poll(records, timeout):
                return consumer.poll(records, timeout)
            case do.Write():
                self._write(post)
            case do.Rest(timeout):
                with self._cond:
                    self._rest(timeout)
            case do.Pause(partitions):
                consumer.pause(partitions)
            case do.Resume(partitions):
                consumer.resume(partitions)
            case do.Seek(partition, offset):
                consumer.seek(partition, offset)
            case do.StartCommit(positions):
                self._commit(post, consumer, positions)
            case do.Commit(positions, timeout):
                consumer.commit_now(positions, timeout)
            case do.Committed(partitions, timeout):
                return consumer.committed(partitions, timeout)
            case do.Marks(topic, timeout):
                return self._admin.watermarks(topic, timeout)
            case do.GroupPositions(group, topic, timeout):
                return self._admin.positions(group, topic, timeout)
            case do.Draw(most):
                return self._system.randint(0, most)
            case do.Close():
                consumer.close()
        return None

    def _commit(self, post: Post, consumer: ConsumerPort, positions: Mapping[TopicPartition, Position]) -> None:
        def done(error: BrokerError | None) -> None:
            with self._cond:
                post.engine.committed(positions, error, self._system.now())

        try:
            consumer.commit(positions, done)
        except BrokerError as error:
            done(error)

    def _write(self, post: Post) -> None:
        """Writes what the engine wants written. One thread at a time, so that hops keep their order."""
        engine = post.engine
        with self._cond:
            notices = engine.notices()
            busy = post.writing
            post.writing = True
        for notice in notices:
            logger.log(notice.level, "%s", notice.text)
        if busy:
            return

        def ended(hop: Hop, error: BrokerError | None) -> None:
            post.acknowledged.append((hop, error))

        while True:
            with self._cond:
                self._tell_written(post)
                hops = engine.writes(self._system.now())
                if not hops:
                    post.writing = False
                    return
            for hop in hops:
                self._writer.write(hop, engine.limit(hop.transfer.target.topic), ended)

    def _tell_written(self, post: Post) -> None:
        """Tells the engine how hops ended. With the lock held."""
        acknowledged, engine = post.acknowledged, post.engine
        if acknowledged:
            now = self._system.now()
            for _ in range(len(acknowledged)):
                hop, error = acknowledged.popleft()
                if error is None:
                    engine.written(hop, now)
                else:
                    engine.unwritten(hop, error, now)

    # ---- ends

    def _fail(self, error: BaseException, post: Post) -> None:
        with self._cond:
            if self.failure is None:
                self.failure = error
        logger.debug("%s ended", post, exc_info=error)
        if self._on_end is not None:
            self._on_end()

    def _left(self, post: Post) -> None:
        with self._cond:
            post.left = True
            self._cond.notify_all()
        if self._on_end is not None:
            self._on_end()

    def _abandon(self, post: Post) -> None:
        """The poller broke: what its calls do counts for nothing, as its partitions go to others."""
        with self._cond:
            post.engine.stop()
            partitions = post.engine.partitions
            post.engine.lost(partitions)
        try:
            if post.consumer is not None:
                post.consumer.close()
        except Exception:
            logger.debug("%s could not be closed", post, exc_info=True)
        self._left(post)


class _Reports:
    """How calls of one stage end."""

    __slots__ = ("_crew", "_post")

    def __init__(self, crew: Crew, post: Post) -> None:
        self._crew = crew
        self._post = post

    def may_go_on(self, run: Run) -> bool:
        with self._crew._cond:
            return run.index < run.limit

    def failed(self, run: Run, index: int, message: Message, failure: Failure) -> Move:
        crew, post = self._crew, self._post
        with crew._cond:
            move = post.engine.failed(run, index, message, failure, crew._system.now())
        crew._write(post)
        return move

    def produced(self, run: Run, index: int, message: Message, products: Produced) -> None:
        crew, post = self._crew, self._post
        with crew._cond:
            entry = post.engine.produced(run, index, message)
        if entry is None:
            return

        def settled(error: Exception | None) -> None:
            with crew._cond:
                post.engine.settled(entry, Failure(error) if error is not None else None, crew._system.now())

        products.when_done(settled)


class _Listener:
    """The consumer's rebalances: inside a poll, on the poller's thread."""

    __slots__ = ("_crew", "_post")

    def __init__(self, crew: Crew, post: Post) -> None:
        self._crew = crew
        self._post = post

    def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        crew, post = self._crew, self._post
        logger.info("%s assigned: %s", post, ", ".join(str(p.partition) for p in partitions))
        return crew._perform(post, scripts.assign(post.engine, partitions, crew._system.now))

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        crew, post = self._crew, self._post
        logger.info("%s revoked: %s", post, ", ".join(str(p.partition) for p in partitions))
        assert post.consumer is not None
        patience = min(crew._policy.drain_timeout, post.consumer.max_poll_interval / 2)
        if post.engine.stopping:
            patience = 0.0  # leaving has waited for the calls already
        crew._perform(post, scripts.revoke(post.engine, partitions, crew._system.now, patience))

    def lost(self, partitions: Sequence[TopicPartition]) -> None:
        crew, post = self._crew, self._post
        with crew._cond:
            post.engine.lost(partitions)
        crew._write(post)
