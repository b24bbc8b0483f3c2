"""What the drivers of one task share: its engines behind one lock, and the facts that callers and clients report.

The lock is never held during an effect, a write or a call. Drivers differ in who polls and who calls, and in nothing
else: they take runs here, and report here how they end.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from threading import get_ident
from typing import Generic, TypeVar

import attrs

from flux.core.assignment import Entry, Phase
from flux.core.commands import Stall
from flux.core.described import cause_of, error_name
from flux.core.duties import Duty
from flux.core.engine import Engine
from flux.core.errors import BrokerError
from flux.core.failures import Failures
from flux.core.gate import Gate
from flux.core.health import Pulse
from flux.core.hooks import CallsReport, Where
from flux.core.hops import Hop
from flux.core.message import Message
from flux.core.outcome import Move, Undecodable
from flux.core.pace import LOOK
from flux.core.permits import Permits
from flux.core.policy import Policy
from flux.core.ports import ConsumerSettings, Position, System, TopicPartition
from flux.core.runs import Run
from flux.core.stage import Role
from flux.core.stats import Pauses
from flux.core.transfer import Failure, describe
from flux.runtime import forks
from flux.runtime.effects import Effect, Script
from flux.runtime.forwarding import Forwarding
from flux.runtime.heard import Event, Heard, log_fields
from flux.runtime.journal import Journal
from flux.runtime.overdue import Overdue
from flux.runtime.produced import Produced
from flux.runtime.writer import Writer
from flux.system import stack_of_thread

T = TypeVar("T")
logger = logging.getLogger("flux.worker")

_ENTRANCES = """
    abort fail failed finished has_lapsed has_left inspect may_go_on parted settle start_commit step take take_any write
"""
"""What a caller, a poller or a watcher comes back to."""
_PAUSE = 0.02  # seconds between two looks whether there is anything to watch
_INSPECT = 1.0  # seconds between two looks for what stands still


@attrs.define(eq=False)
class Post:
    """One stage of a task in this process."""

    engine: Engine
    settings: ConsumerSettings
    where: Where
    joined: bool = False
    """Whether the group has given it partitions, or told that there are none for it."""
    left: bool = False
    """Whether it has left its group, or was abandoned."""
    stepped_at: float = 0.0
    """When its poller last went on."""
    began_at: float = 0.0
    named_at: float = 0.0
    """When it was last named as standing still."""
    heard_at: float = 0.0
    """When it last had records, or was found to have read all."""
    forwarding: Forwarding = attrs.field(init=False)
    polling: Duty = attrs.field(init=False)
    moved: list[Hop] = attrs.field(factory=list)
    """Hops that are acknowledged, for hooks that have not been told; empty when none hears of them."""
    failures: Failures = attrs.field(factory=Failures)
    stands_by: bool = False
    """Whether its poller rests for a permit, and takes it at once when there is one."""

    def __attrs_post_init__(self) -> None:
        self.polling = Duty(f"{self}: its poll loop")

    def __str__(self) -> str:
        return self.engine.stage.topic


class Desk:
    """`wake` is called with the lock held when there may be work for about that many more callers, or a fact that
    somebody who rests may wait for."""

    def __init__(
        self,
        policy: Policy,
        engines: Sequence[Engine],
        writer: Writer,
        system: System,
        *,
        heard: Heard | None = None,
        instance_suffix: str = "",
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.policy = policy
        self.heard = heard or Heard("")
        self._journal = Journal(self.heard.task, policy)
        self.posts = [
            Post(engine, _settings(engine, instance_suffix), self.heard.of(engine.stage.number)) for engine in engines
        ]
        self.system = system
        self.gate = engines[0].gate if engines else Gate()
        """Of all its engines."""
        self.pauses = Pauses()
        self.lock = system.condition()
        self.permits = Permits(policy.concurrency, any(e.stage.role is Role.MAIN for e in engines))
        self.failure: BaseException | None = None
        """The error of a failed process or of a cluster that refuses this member; the worker ends with it."""
        self.stop_at: float | None = None
        """Set once calls in flight are to end, to when they are abandoned; by the monotonic clock."""
        self.wake: Callable[[int], None] = lambda _: None
        self.facts = 0
        """How many there were that somebody who rests may wait for."""
        self.write_soon: Callable[[Post], None] = self.write
        """Has hops written that a call has just caused; must not wait where the caller must not."""
        self.freed: Callable[[int], None] = lambda _: None
        """A thread stands still in a write, and others write in its place: the rest that it holds is theirs too."""
        self._on_change = on_change
        self._turn = 0
        self._by_number = {post.engine.stage.number: post for post in self.posts}
        self._aborted: set[Run] = set()
        self._excused: set[Run] = set()
        for post in self.posts:
            post.began_at = post.stepped_at = post.heard_at = system.monotonic()
            post.forwarding = Forwarding(
                post.engine,
                writer,
                self.lock,
                partial(self.now, post),
                partial(self._take_in, post),
                self.spawn,
                lambda thread: self.freed(thread),
            )
        self.stack_of: Callable[[Run], str] = lambda _: ""
        """Where the caller of a run is, as a traceback's text."""
        self.overdue: Overdue | None = None
        """Of a handler that blocks and has a time limit."""
        self._inspect_at = 0.0
        self._lost: dict[Where, list[TopicPartition]] = {}
        """Not told yet: a cause that takes partitions from one stage takes them from all, one after the other."""
        forks.watch(self)

    def now(self, post: Post) -> float:
        """The time for a stage's engine, which learns where the wall clock stands."""
        now = self.system.monotonic()
        post.engine.epoch = self.system.now() - now
        return now

    # ---- runs, with the lock held

    def take(self, post: Post, polling: bool) -> Run | None:
        """A run of this stage, if there is one and a permit for it."""
        engine, now = post.engine, self.now(post)
        number = engine.stage.number
        if not engine.ready(now):
            if self.permits.forgo(number):
                self._offer()
            return None
        if not self.permits.take(number, self._comes):
            return None
        run = engine.take(polling, now)
        if run is None:
            self.permits.give(number)
            self._offer()
        elif engine.pace.slow and engine.ready(now):
            self._wake(1)
        return run

    def take_any(self) -> tuple[Post, Run] | None:
        """A run of any stage, round-robin, for a caller that polls nothing."""
        for _ in self.posts:
            self._turn = (self._turn + 1) % len(self.posts)
            post = self.posts[self._turn]
            if post.engine.pace.slow:  # else its poller makes the calls, and stands in line for itself
                run = self.take(post, polling=False)
                if run is not None:
                    return post, run
        return None

    def _comes(self, number: int) -> bool:
        """Whether somebody is there to use a permit for a stage: its poller, or a caller that has nothing to write."""
        post = self._by_number[number]
        here = post.stands_by or (
            post.engine.pace.slow and self.policy.concurrency - self.permits.used > len(self._excused)
        )
        return here and post.engine.ready(self.now(post)) > 0

    def _offer(self) -> None:
        """A stage has no use for the permit that was kept for it: those who stood behind it may have."""
        if self.permits.awaited:
            self._wake(1)

    def _wake(self, needed: int) -> None:
        self.facts += 1
        self.wake(needed)

    def has_missed(self, facts: int | None) -> bool:
        """Whether there have been more than these `facts`, of which whoever counted them would want to know."""
        return facts is not None and facts != self.facts

    def ready(self) -> int:
        """About how many callers that do not poll could begin a run: none while calls are quick."""
        free = self.policy.concurrency - self.permits.used
        if free <= 0:
            return 0
        now = self.system.monotonic()
        return min(free, sum(post.engine.ready(now) for post in self.posts if post.engine.pace.slow))

    # ---- facts

    def finished(self, post: Post, run: Run, failure: BaseException | None, writes: bool = True) -> None:
        """A caller is through with a run. `failure`: the process failed in the call that it is at. `writes`: it writes
        what has failed; else somebody does it next."""
        with self.lock:
            paused_at = self.gate.since
            if run in self._aborted:
                self._aborted.discard(run)
                failure = None  # it was told to end
            elif failure is not None:
                post.engine.aborted(run)
                # the worker ends soon: meanwhile nothing may overtake what the run leaves behind
                for each in self.posts:
                    each.engine.stop()
            else:
                post.engine.finished(run, self.now(post))
            if run in self._excused:
                self._excused.discard(run)
            else:
                self.permits.give(post.engine.stage.number)
            resumed = paused_at is not None and not self.gate.paused
            if resumed and paused_at is not None:
                self.pauses.seconds += self.system.monotonic() - paused_at
            self._wake(max(1, self.ready()) if resumed else 1)
            writes = writes and post.engine.has_news
            if writes:
                self._excused.add(run)  # its permit is given back
        if writes:
            try:
                self.write_soon(post)
            finally:
                with self.lock:
                    self._excused.discard(run)
        if resumed and paused_at is not None:
            self._tell_resume(self.system.monotonic() - paused_at)
        if failure is not None:
            self.fail(failure)

    def broke(self, post: Post, run: Run, error: BaseException) -> None:
        """A caller has died in a run, by a bug of flux, or it was cancelled by somebody else: the worker ends."""
        with self.lock:
            told = run in self._aborted and issubclass(type(error), CancelledError)
        with self.failing():
            self.finished(post, run, error)
        if not told:
            self.fail(error)

    def _tell_pause(self, error: BaseException) -> None:
        """An outage was found, or found still to be there."""
        with self.lock:
            now = self.system.monotonic()
            since, opens = self.gate.since, self.gate.opens_at(now)
        if since is None or opens is None:
            return
        self._journal.paused(error, since, opens - now)
        self.heard.tell_task("on_pause", opens - now, error)

    def _tell_resume(self, seconds: float) -> None:
        self._journal.resumed(seconds)
        self.heard.tell_task("on_resume", seconds)

    def abort(self, post: Post, run: Run) -> None:
        """The call that a run is at is given up: it never counts, however it ends."""
        with self.lock:
            if run not in self._aborted:
                self._aborted.add(run)
                post.engine.aborted(run)
                run.limit = -1

    def excuse(self, post: Post, run: Run) -> None:
        """The caller of a run stands still after its call has failed: others may call in its place. With the lock
        held."""
        if run not in self._excused:
            self._excused.add(run)
            self.permits.give(post.engine.stage.number)
        self._wake(1)

    def has_lapsed(self, run: Run) -> bool:
        """Whether a run that was handed on has lost its partitions before its caller has come to it."""
        with self.lock:
            return all(assignment.phase is Phase.GONE for assignment in run.assignments())

    def may_go_on(self, run: Run) -> bool:
        """Whether the caller of `run` makes the call that it is at: see `Run`."""
        with self.lock:
            return run.index < run.limit

    def noted(self, run: Run, message: Message, failure: Failure) -> bool:
        """The call that `run` is at raised: notes it there, unless somebody has to hear of it now. Takes no lock."""
        verdict = failure.verdict = self.policy.rules.verdict(failure.error)
        if verdict.move not in (Move.NEXT, Move.DEAD) or self.policy.holds_key(verdict):
            return False
        failure.at = self.system.monotonic()
        failure.words = describe(failure, self.policy.error_headers)
        run.note(failure, message)
        return True

    def failed(self, post: Post, run: Run, message: Message, failure: Failure) -> Move:
        """The call that `run` is at raised."""
        with self.lock:
            if run in self._aborted:
                return Move.STOP
            now = self.now(post)
            move = post.engine.failed(run, run.index, message, failure, now)
            news = self._judge(post, run, failure, move, now)
        if news and move is Move.PAUSE:
            self._tell_pause(failure.error)
        elif news:
            self._journal.failed(post.where, post.engine.stage, message, failure, move)
        self.write_soon(post)
        return move

    def produced(self, post: Post, run: Run, message: Message, products: Produced) -> None:
        """The call that `run` is at returned, and has produced."""
        entry = self.parted(post, run, message)
        if entry is not None:
            self.settle(post, [(entry, message)], products)

    def parted(self, post: Post, run: Run, message: Message) -> Entry | None:
        """The record that `run` is at is called, and open until `settle`. None: nobody needs to hear."""
        with self.lock:
            return None if run in self._aborted else post.engine.produced(run, run.index, message)

    def settle(self, post: Post, parted: Sequence[tuple[Entry, Message]], products: Produced) -> None:
        """The records count as done, or as failed, when what their call has produced is acknowledged."""

        def settled(error: Exception | None) -> None:
            with self.failing():
                for entry, message in parted:
                    self._settled(post, entry, message, error)

        products.when_done(settled)

    def _settled(self, post: Post, entry: Entry, message: Message, error: Exception | None) -> None:
        failure = None if error is None else Failure(error)
        with self.lock:
            now = self.now(post)
            move = post.engine.settled(entry, failure, now)
            news = failure is not None and move is not None and self._judge(post, None, failure, move, now)
        if failure is None or move is None:
            return
        if move is Move.PAUSE:
            if news:
                self._tell_pause(failure.error)
            return
        if news:
            self._journal.failed(post.where, post.engine.stage, message, failure, move)
        self.heard.tell("on_failure", post.where, message, error, None)
        self.heard.tell("on_calls", post.where, CallsReport(0, (), (), {error_name(type(failure.error)): 1}))

    def _judge(self, post: Post, run: Run | None, failure: Failure, move: Move, now: float) -> bool:
        """Takes note of a failure; whether it is news, for the log. With the lock held."""
        if move is Move.STOP:
            return False
        if move is not Move.PAUSE:
            return post.failures.add(_kind(failure, move), now)
        seconds = self.policy.rules.verdict(failure.error).after
        drawn = 0.0 if seconds is not None else self.system.randint(0, 1000) / 1000
        self.pauses.number += not self.gate.paused
        news = self.gate.pause(run, failure.error, seconds, drawn, now)
        if news:  # else nothing was begun since
            for each in self.posts:
                each.engine.paused()
        return news

    def inspect(self) -> None:
        """Names in the log what has work and gets nowhere: partitions, stages without an assignment."""
        with self.lock:
            now = self.system.monotonic()
            if now < self._inspect_at:
                return
            self._inspect_at = now + _INSPECT
            stalls = [(post, stall) for post in self.posts for stall in post.engine.stalled(now)]
            stalls += [(post, stall) for post in self.posts for stall in self._unjoined(post, now)]
            counts = [(post, count) for post in self.posts for count in post.failures.counts(now)]
        self._tell_lost()
        for late in self.overdue.found(now) if self.overdue is not None else ():
            where = self.heard.of(late.message.stage)
            self._journal.overdue(where, late, now - late.began, stack_of_thread(late.thread))
        for post, stall in stalls:
            self._journal.stalled(post.where, stall, "" if stall.run is None else self.stack_of(stall.run))
        for post, count in counts:
            self._journal.counted(post.where, count)

    def hungry(self) -> list[Post]:
        """Stages that have had no records for long: whether the cluster has any is for others to ask. Each again after
        as long."""
        with self.lock:
            now = self.system.monotonic()
            hungry = []
            for post in self.posts:
                if not post.engine.empty:
                    post.heard_at = now
                elif post.joined and not post.left and 0 < self.policy.stalled_after <= now - post.heard_at:
                    post.heard_at = now
                    hungry.append(post)
        return hungry

    def _unjoined(self, post: Post, now: float) -> list[Stall]:
        patience = self.policy.stalled_after
        if post.joined or post.left or not 0 < patience <= now - max(post.began_at, post.named_at):
            return []
        post.named_at = now
        return [Stall(f"{post} has waited for an assignment for {now - post.began_at:.0f} s")]

    def looks_in(self) -> float | None:
        """Seconds until the watcher's next look at the runs; None: all stages have left."""
        with self.lock:
            return None if self.ended else LOOK if self.permits.used else _PAUSE

    def look(self, found: Callable[[Post, Run], None] = lambda post, run: None) -> None:
        """The watcher looks at the runs; `found` is told of each that is stuck, with the lock held. Names what stands
        still."""
        with self.lock:
            now = self.system.monotonic()
            stuck = [(post, run) for post in self.posts for run in post.engine.looked(now)]
            if stuck:
                self._wake(self.ready())
            for post, run in stuck:
                found(post, run)
        self.inspect()

    # ---- scripts

    def step(self, post: Post, script: Script[T], result: object, error: BrokerError | None) -> Effect | Done[T]:
        """The next effect of a script, given how the last one ended; Done when there is none."""
        with self.lock:
            post.stepped_at = self.now(post)
            post.polling.step(get_ident())
            self._take_in(post)
            effect: Effect | Done[T]
            try:
                effect = script.send(result) if error is None else script.throw(error)
            except StopIteration as stop:
                effect = Done(stop.value)
        if post.moved:
            self._tell_moved(post)
        return effect

    def write(self, post: Post) -> None:
        """Logs the engine's notices and writes its hops, unless another thread does."""
        with self.lock:
            now = self.system.monotonic()
            notices, failures = post.engine.notices(), post.engine.failures()
            news = [each for each in failures if post.failures.add(_kind(each[1], each[2]), now)]
        for notice in notices:
            self._journal.noticed(post.where, notice, now)
        for message, failure, move in news:
            self._journal.failed(post.where, post.engine.stage, message, failure, move)
        post.forwarding.write()
        if post.moved:
            self._tell_moved(post)

    def start_commit(
        self,
        post: Post,
        commit: Callable[[Mapping[TopicPartition, Position], Callable[[BrokerError | None], None]], None],
        positions: Mapping[TopicPartition, Position],
    ) -> None:
        """Has a consumer start a commit, and tells the engine its end."""

        def done(error: BrokerError | None) -> None:
            with self.lock:
                post.engine.committed(positions, error, self.now(post))
            self.tell_commit(post, positions, error)

        try:
            commit(positions, done)
        except BrokerError as error:
            done(error)

    def _take_in(self, post: Post) -> None:
        """Tells the engine which hops have ended. With the lock held."""
        ends, engine = post.forwarding.ends, post.engine
        if ends:
            now = self.now(post)
            written: list[Hop] = []
            for _ in range(len(ends)):
                hop, error = ends.popleft()
                if error is not None:
                    engine.unwritten(hop, error, now)
                else:
                    written.append(hop)
            counted = engine.all_written(written, now)
            if self.heard.moves:
                post.moved += counted

    # ---- hooks, with no lock held

    def _tell_moved(self, post: Post) -> None:
        with self.lock:
            moved, post.moved = post.moved, []
        for hop in moved:
            transfer = hop.transfer
            target = transfer.target
            if target.role is Role.DEAD:
                error = f"{transfer.error_type}: {transfer.error_text}" if transfer.error_text else transfer.error_type
                self.heard.tell("on_dead_letter", post.where, transfer.message, transfer.reason, error)
            else:
                self.heard.tell("on_retry", post.where, transfer.message, target.number, transfer.wait)

    def tell_commit(self, post: Post, positions: Mapping[TopicPartition, Position], error: BrokerError | None) -> None:
        if self.heard.hears("on_commit"):
            offsets = {partition: position.offset for partition, position in positions.items()}
            self.heard.tell("on_commit", post.where, offsets, error)

    def lost(self, post: Post, partitions: Sequence[TopicPartition]) -> None:
        """They are another member's by now."""
        with self.lock:
            post.engine.lost(partitions)
            if partitions:
                self._lost.setdefault(post.where, []).extend(partitions)

    def _tell_lost(self) -> None:
        with self.lock:
            lost, self._lost = self._lost, {}
        if lost:
            self._journal.lost(list(lost.items()))

    def announce(self, post: Post, event: str, partitions: Sequence[TopicPartition]) -> None:
        """A line for the log about a rebalance, unless nothing changed."""
        if partitions or not post.joined:
            numbers = ", ".join(str(each.partition) for each in partitions)
            logger.info("%s %s: %s", post, event, numbers or "nothing", extra=log_fields(post.where))

    def tell_rebalance(self, post: Post, event: Event, partitions: Sequence[TopicPartition]) -> None:
        if partitions:
            self.heard.tell(event, post.where, tuple(partitions))

    # ---- the end

    def stop(self, deadline: float) -> None:
        """No new calls; those in flight end by `deadline`, which a second request may bring forward."""
        with self.lock:
            if self.stop_at is None or deadline < self.stop_at:
                self.stop_at = deadline
            self._wake(len(self.posts) + self.policy.concurrency)

    def deadline(self) -> float:
        """When calls in flight are abandoned."""
        return self.stop_at if self.stop_at is not None else float("inf")

    def fail(self, error: BaseException) -> None:
        """The worker is to end with `error`."""
        with self.lock:
            self.failure = error if self.failure is None else self.failure
        self._on_change()

    def spawn(self, name: str, target: Callable[[], None]) -> None:
        """A thread whose failure, a bug of flux, ends the worker: nothing must stand still in silence."""

        def run() -> None:
            with self.failing():
                target()

        self.system.spawn(name, run)

    @contextmanager
    def failing(self) -> Iterator[None]:
        """What is raised in it, where nobody is left to hear, ends the worker."""
        try:
            yield
        except BaseException as error:
            self.fail(error)
            if issubclass(type(error), KeyboardInterrupt):
                raise

    def has_left(self, post: Post) -> None:
        with self.lock:
            post.left = True
            post.polling.end()
            self._wake(len(self.posts) + self.policy.concurrency)
        self._tell_lost()
        self._on_change()

    def abandon(self, post: Post) -> None:
        """The poller broke: what its calls do counts for nothing, as its partitions go to others."""
        with self.lock:
            post.engine.stop()
            post.engine.lost(post.engine.partitions)

    def forked(self) -> None:
        """In a child: who comes back here from a call, or a hook, goes no further."""
        for post in self.posts:
            for run in post.engine.running:
                run.limit = -1
        vars(self).update(dict.fromkeys(_ENTRANCES.split(), forks.end_of_child))

    @property
    def ended(self) -> bool:
        """All stages have left their groups."""
        return all(post.left for post in self.posts)

    def pulses(self) -> list[Pulse]:
        """Each stage, as a probe finds it."""
        with self.lock:
            now = self.system.monotonic()
            return [
                Pulse(str(post), post.joined, post.left, now - post.stepped_at, self.policy.stalled_after)
                for post in self.posts
            ]

    def calls(self) -> int:
        """Callers that are in a run."""
        with self.lock:
            return sum(post.engine.calls for post in self.posts)

    def idle(self) -> bool:
        """Nothing is in flight or waiting here, but for what is `refused`; the cluster may have more."""
        with self.lock:
            return all(post.joined and post.engine.rests(self.now(post)) for post in self.posts)

    def refused(self) -> list[str]:
        """Records that cannot move on, each with why."""
        with self.lock:
            return [str(hop) for post in self.posts for hop in post.engine.refused]

    def ends(self) -> list[tuple[str, Mapping[TopicPartition, int]]]:
        """Each stage's topic with how far its partitions were read; negative where nothing is known."""
        with self.lock:
            return [(str(post), post.engine.ends()) for post in self.posts]


@attrs.frozen
class Done(Generic[T]):
    """A script is through."""

    value: T


def _kind(failure: Failure, move: Move) -> tuple[str, str, bool]:
    error = failure.error
    # what refused a value is what matters, not that it is undecodable
    cause = cause_of(error) if issubclass(type(error), Undecodable) else None
    # by name, as two types may claim to be equal
    return error_name(type(error if cause is None else cause)), _place(failure.trace), move is Move.DEAD


@lru_cache(500)
def _place(trace: str) -> str:
    """The line that raised."""
    lines = [line.strip() for line in trace.splitlines()]
    return next((f" at {line}" for line in reversed(lines) if line.startswith("File ")), "")


def _settings(engine: Engine, instance_suffix: str) -> ConsumerSettings:
    stage = engine.stage
    return ConsumerSettings(
        topic=stage.topic,
        group=stage.group,
        small_queue=stage.role is not Role.MAIN,
        instance_suffix=f"{instance_suffix}-{stage.number}{'-leftover' if stage.role is Role.LEFTOVER else ''}",
    )
