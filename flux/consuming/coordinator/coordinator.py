"""`Coordinator`: owns the lock, the concurrency limit and the circuit breaker; hands out runs and takes them back."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Sequence
from functools import partial

from flux.consuming.coordinator.common import Driver, Shared, StageRuntime, consumer_settings
from flux.consuming.coordinator.control import TaskControl
from flux.consuming.coordinator.inspection import Inspection
from flux.consuming.coordinator.late_joins import LateJoins
from flux.consuming.coordinator.membership import Ending, Rebalances
from flux.consuming.coordinator.procedures import Procedures
from flux.consuming.coordinator.sealing import Sealing
from flux.consuming.coordinator.verdicts import Products, Verdicts
from flux.consuming.exclusion import Exclusion
from flux.consuming.forwarder import Forwarder, ForwardWriter
from flux.consuming.hook_dispatch import HookDispatch
from flux.consuming.keys_reading import KeysReading
from flux.consuming.task_log import TaskLog
from flux.core.engine import Engine
from flux.core.engine.assignment import Phase
from flux.core.engine.runs import Run
from flux.core.limits.call_limits import CallLimits
from flux.core.limits.concurrency import ConcurrencyLimit
from flux.core.limits.dispatch_mode import CHECK_INTERVAL
from flux.core.policy import Policy
from flux.core.ports import System
from flux.core.stage import Role
from flux.system import forks

_PAUSE = 0.02  # seconds between two checks while no call runs
_CALM = 50  # checks without a call after which the next one waits for a call
_LONGEST_PAUSE = 1.0
_Found = Callable[[StageRuntime, Run], None]


class Coordinator:
    ENTRANCES = ("abort", "finished", "has_lapsed", "may_go_on", "take", "take_any", "take_any_locked", "take_locked")
    """Methods that callers, pollers or watchers call, so that a forked child ends there. The parts have some too."""

    def __init__(
        self,
        policy: Policy,
        engines: Sequence[Engine],
        writer: ForwardWriter,
        system: System,
        *,
        hook_dispatch: HookDispatch | None = None,
        instance_suffix: str = "",
        on_change: Callable[[], None] = lambda: None,
        exclusion: Exclusion | None = None,
    ) -> None:
        self.policy, self.system = policy, system
        self.hook_dispatch = hook_dispatch or HookDispatch("")
        self.lock = system.condition()
        limits = engines[0].call_limits if engines else CallLimits()
        self.breaker = limits.breaker
        """Shared by all engines."""
        self.concurrency_limit = ConcurrencyLimit(policy.concurrency, any(e.stage.role is Role.MAIN for e in engines))
        self.runtimes = [
            StageRuntime(
                engine,
                consumer_settings(engine, instance_suffix, self.hook_dispatch.task),
                self.hook_dispatch.of(engine.stage.number),
                system,
            )
            for engine in engines
        ]
        self.driver = Driver(lambda runtime: self.procedures.write(runtime))
        task_log = TaskLog(self.hook_dispatch.task, policy)
        exclusion = Exclusion() if exclusion is None else exclusion
        common = Shared(policy, self.runtimes, self.hook_dispatch, task_log, system, self.lock, self.driver, exclusion)
        self._common = common
        self.rebalances = Rebalances(common)
        self.ending = Ending(common, self.rebalances.log, on_change)
        self.verdicts = Verdicts(common, limits)
        self.products = Products(common, self.verdicts, self.ending.failing)
        self.late_joins = LateJoins(common, self.ending)
        self.procedures = Procedures(common, self.verdicts, self.late_joins.needed_locked)
        self.sealing = Sealing(common, self.procedures, self.products, self.ending)
        self.inspection = Inspection(common, self.rebalances.log)
        self.control, self.keys = TaskControl(common, limits), KeysReading(common)
        for runtime in self.runtimes:
            runtime.forwarding = Forwarder(
                runtime.engine,
                writer,
                self.lock,
                runtime.now_locked,
                partial(self.procedures.take_in_locked, runtime),
                self.ending.spawn,
                lambda thread: self.driver.freed(thread),
            )
        self._by_number = {runtime.engine.stage.number: runtime for runtime in self.runtimes}
        self._turn = 0
        self._calm = 0
        """Number of checks since a run was taken."""
        self._excused: set[Run] = set()
        """Runs whose permits were returned before their end."""
        forks.watch(self)

    # ---- runs are taken

    def take(self, runtime: StageRuntime, polling: bool) -> Run | None:
        """A run of this stage, if there is one and a free permit."""
        with self.lock:
            return self.take_locked(runtime, polling)

    def take_locked(self, runtime: StageRuntime, polling: bool) -> Run | None:
        engine, now = runtime.engine, runtime.now_locked()
        number = engine.stage.number
        if not engine.ready(now):
            if self.concurrency_limit.forgo(number):
                self._offer_locked()
            return None
        if not self._common.admits_locked(runtime, now):
            return None
        if not self.concurrency_limit.take(number, self._comes_locked):
            self._common.exclusion.leave()
            return None
        run = engine.take(polling, now)
        if run is None:
            self._common.exclusion.leave()
            self.concurrency_limit.give(number)
            self._offer_locked()
            return None
        calm, self._calm = self._calm, 0
        if engine.dispatch_mode.slow and engine.ready(now):
            self._common.wake_locked(1)
        elif calm > _CALM:
            self._common.wake_locked(0)  # the watcher
        return run

    def take_any(self) -> tuple[StageRuntime, Run] | None:
        """A run of any stage, round-robin, for a caller that polls nothing."""
        with self.lock:
            return self.take_any_locked()

    def take_any_locked(self) -> tuple[StageRuntime, Run] | None:
        for _ in self.runtimes:
            self._turn = (self._turn + 1) % len(self.runtimes)
            runtime = self.runtimes[self._turn]
            if runtime.engine.dispatch_mode.slow:  # otherwise its poller makes the calls, and waits for a permit itself
                run = self.take_locked(runtime, polling=False)
                if run is not None:
                    return runtime, run
        return None

    def _comes_locked(self, number: int) -> bool:
        """Whether a permit for a stage would be used at once: by its poller, or by a caller with nothing to write."""
        runtime = self._by_number[number]
        here = runtime.stands_by or (
            runtime.engine.dispatch_mode.slow
            and self.policy.concurrency - self.concurrency_limit.used > len(self._excused)
        )
        return here and self._common.exclusion.admits(runtime) and runtime.engine.ready(runtime.now_locked()) > 0

    def _offer_locked(self) -> None:
        """A stage does not need the permit that was reserved for it: offers it to the stages that wait."""
        if self.concurrency_limit.awaited:
            self._common.wake_locked(1)

    def ready_locked(self) -> int:
        """About how many callers that do not poll could start a run: 0 while calls are quick."""
        free = self.policy.concurrency - self.concurrency_limit.used
        if free <= 0:
            return 0
        now = self.system.monotonic()
        return min(
            free, sum(runtime.engine.ready(now) for runtime in self.runtimes if runtime.engine.dispatch_mode.slow)
        )

    # ---- while runs are processed

    def may_go_on(self, run: Run) -> bool:
        """Whether the caller of `run` may make its current call: see `Run`."""
        with self.lock:
            return run.index < run.limit

    def has_lapsed(self, run: Run) -> bool:
        """Whether a run lost its partitions before its caller started it."""
        with self.lock:
            return all(assignment.phase is Phase.GONE for assignment in run.assignments())

    def abort(self, runtime: StageRuntime, run: Run) -> None:
        """The current call of a run is abandoned: it never counts, however it ends."""
        with self.lock:
            if run not in self._common.aborted:
                self._common.aborted.add(run)
                runtime.engine.aborted(run)
                run.limit = -1

    def excuse(self, stuck: Sequence[tuple[StageRuntime, Run]]) -> None:
        """The callers of these runs are stuck after a call has failed: others may make calls in their place."""
        with self.lock:
            self.excuse_locked(stuck)

    def excuse_locked(self, stuck: Sequence[tuple[StageRuntime, Run]]) -> None:
        for runtime, run in stuck:
            if run not in self._excused and run in runtime.engine.running:
                self._excused.add(run)
                self.concurrency_limit.give(runtime.engine.stage.number)
            self._common.wake_locked(1)

    def next_check_in(self) -> tuple[float, int | None] | None:
        """Seconds until the watcher's next check, and the number of facts if another fact may end the wait before;
        None: all stages have left."""
        with self.lock:
            if self.ending.ended:
                return None
            if self.concurrency_limit.used:
                return CHECK_INTERVAL, None
            self._calm += 1
            if self._calm <= _CALM or self.ending.stop_at is not None:
                return _PAUSE, None
            return _LONGEST_PAUSE, self.facts

    def check(self, found_locked: _Found = lambda runtime, run: None) -> None:
        """The watcher's check: calls `found_locked` for each stuck run, and logs what makes no progress."""
        with self.lock:
            now = self.system.monotonic()
            stuck = [(runtime, run) for runtime in self.runtimes for run in runtime.engine.checked(now)]
            if stuck:
                self._common.wake_locked(self.ready_locked())
            for runtime, run in stuck:
                found_locked(runtime, run)
        self.inspection.check()

    # ---- ends of runs

    def finished(self, runtime: StageRuntime, run: Run, failure: BaseException | None, writes: bool = True) -> None:
        """A caller has ended a run. `failure`: the process failed in its current call. `writes`: the caller writes
        the forwarded copies; otherwise another thread does."""
        common, engine = self._common, runtime.engine
        common.exclusion.leave()
        with self.lock:
            paused_at = self.breaker.since
            if run in common.aborted:
                common.aborted.discard(run)
                failure = None  # the call was abandoned
            elif failure is not None:
                engine.aborted(run)
                # the worker ends soon: until then no record may overtake those that the run leaves
                for each in self.runtimes:
                    each.engine.stop()
            else:
                engine.finished(run, runtime.now_locked())
            if run in self._excused:
                self._excused.discard(run)
            else:
                self.concurrency_limit.give(engine.stage.number)
            resumed = None
            if paused_at is not None and not self.breaker.paused:
                resumed = self.system.monotonic() - paused_at
                self.verdicts.pauses.seconds += resumed
            common.wake_locked(1 if resumed is None else max(1, self.ready_locked()))
            writes = writes and engine.has_news
            if writes:
                self._excused.add(run)  # its permit is given back
        if writes:
            try:
                self.driver.write_soon(runtime)
            finally:
                with self.lock:
                    self._excused.discard(run)
        if resumed is not None:
            self.verdicts.report_resume(resumed)
        if failure is not None:
            self.ending.fail(failure)

    def broke(self, runtime: StageRuntime, run: Run, error: BaseException) -> None:
        """A caller died in a run, by a bug of flux or by a cancellation from elsewhere: the worker ends."""
        with self.lock:
            expected = run in self._common.aborted and issubclass(type(error), CancelledError)
        with self.ending.failing():
            self.finished(runtime, run, error)
        if not expected:
            self.ending.fail(error)

    # ---- facts that waiting threads wait for

    @property
    def facts(self) -> int:
        """Number of facts so far that a waiting thread may wait for."""
        return self._common.facts

    def has_missed(self, facts: int | None) -> bool:
        """Whether there were new facts since `facts` were counted; None: does not matter."""
        return facts is not None and facts != self._common.facts

    # ---- a fork

    def forked(self) -> None:
        """In a forked child: a thread that returns here from a call or a hook ends."""
        for runtime in self.runtimes:
            for run in runtime.engine.running:
                run.limit = -1
        for part in (self, self.ending, self.verdicts, self.products, self.procedures, self.inspection):
            vars(part).update(dict.fromkeys(part.ENTRANCES, forks.end_of_child))
